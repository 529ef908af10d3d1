"""Where a training step's states come from: the networks, or caches of them on disk."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distilwhisper.corpus.batches import IGNORE, Drawn, TokenBatch, load_windows
from distilwhisper.model.whisper import Whisper
from distilwhisper.progress import Advance, progress_bar, say
from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import FRAMES_PER_WINDOW
from distilwhisper.training.caches import EncoderCache, TeacherStore, weights_digest
from distilwhisper.training.forcing import ForcedStates, encoder_states, forced_states
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.ranks import Ranks

_CACHES = TEACHER_ENCODER, STUDENT_ENCODER, TEACHER_STATES = (
    "encoder-cache",
    "student-encoder-cache",
    "teacher-cache",
)


class EncoderStates(NamedTuple):
    """Encoder states of some windows, for each of the decoders."""

    teacher: Float[Tensor, "batch frames width_t"] | None  # None where it is not needed
    student: Float[Tensor, "batch frames width"]


class Loaded(NamedTuple):
    """What was read of a micro-batch: its sound, and its states; None: the networks make them."""

    sounds: list[Samples] | None = None  # None where all states are there
    teacher: Float[Tensor, "batch frames width_t"] | None = None
    student: Float[Tensor, "batch frames width"] | None = None
    final: Float[Tensor, "tokens width_t"] | None = None  # of the teacher's decoder


@dataclass(frozen=True)
class StateSource:
    """The states of a teacher and of a student's encoder on a corpus."""

    teacher: Whisper  # never changed, but for the layers that with_teacher_store gives up
    student: Whisper  # gradients flow through its encoder if that is trained
    inputs: TrainingInput
    # One encoder serves both decoders where both get the whole window: the student's is the
    # teacher's, and stays.
    shares_encoder: bool
    teacher_cache: EncoderCache | None = None
    student_cache: EncoderCache | None = None  # of its own frozen encoder on whole windows
    store: TeacherStore | None = None  # final states of the teacher's decoder

    def read(self, windows: Sequence[Drawn], tokens: TokenBatch) -> Loaded:
        """Read a micro-batch's sound, where it is needed, and what is on disk; thread-safe.

        Raises:
            UnreadableRecording: audio that was labelled cannot be read now.
        """
        numbers = [one.example for one in windows]
        of_teacher = self.teacher_cache if self._needs_teacher(windows) else None
        of_student = None if self._share(windows) else self._cache_of_student(windows)
        needs_sound = self._encodes_whole(windows) or not (self._share(windows) or of_student)
        device = self.teacher.device
        return Loaded(
            [self.inputs.sound(window) for window in windows] if needs_sound else None,
            None if of_teacher is None else of_teacher.read(numbers).to(device),
            None if of_student is None else of_student.read(numbers).to(device),
            None if self.store is None else self.store.read(numbers, tokens).to(device),
        )

    def encode(self, windows: Sequence[Drawn], loaded: Loaded) -> EncoderStates:
        """Return the encoder states of a micro-batch, given what :meth:`read` has of it."""
        is_whole = self._encodes_whole(windows)
        n_frames = FRAMES_PER_WINDOW if is_whole else self._student_frames(windows)
        mel = None if loaded.sounds is None else self._mel(windows, loaded.sounds, n_frames)
        teacher = loaded.teacher
        if is_whole:
            assert mel is not None
            teacher = self._teacher_encode(mel)
        if self._share(windows):
            assert teacher is not None
            return EncoderStates(teacher, teacher)
        if loaded.student is not None:
            return EncoderStates(teacher, loaded.student)
        assert mel is not None
        return EncoderStates(
            teacher, self._student_encode(mel[:, :, : self._student_frames(windows)])
        )

    @torch.no_grad()
    def teacher_states(
        self, tokens: TokenBatch, encoded: Tensor | None, loaded: Loaded
    ) -> ForcedStates:
        """Return the teacher's states of the tokens that count; of its layers only for mse_weight.

        Args:
            tokens: what both decoders are given, a row for each window of a micro-batch.
            encoded: the teacher's encoder states; not needed where a store has the answer.
            loaded: from :meth:`read`.
        """
        if loaded.final is not None:
            return ForcedStates(loaded.final, [])
        assert encoded is not None
        device = self.teacher.device
        states = forced_states(self.teacher.decoder, encoded, tokens.inputs.to(device))
        if not self.inputs.settings.mse_weight:
            states = ForcedStates(states.final, [])
        return states.at(tokens.labels.to(device) != IGNORE)

    # Which encoder gets what of a micro-batch

    def _needs_teacher(self, windows: Sequence[Drawn]) -> bool:
        """Return whether a decoder needs the states of the teacher's encoder."""
        asks_teacher = self.inputs.settings.asks_teacher
        return self._share(windows) or (asks_teacher and self.store is None)

    def _encodes_whole(self, windows: Sequence[Drawn]) -> bool:
        """Return whether those states are not on disk."""
        return self._needs_teacher(windows) and self.teacher_cache is None

    def _share(self, windows: Sequence[Drawn]) -> bool:
        """Return whether one encoder's states serve both decoders."""
        return self.shares_encoder and self._student_frames(windows) == FRAMES_PER_WINDOW

    def _student_frames(self, windows: Sequence[Drawn]) -> int:
        """Return the mel frames that the student gets of each window."""
        return self.inputs.augmentation(windows[0]).n_frames

    def _cache_of_student(self, windows: Sequence[Drawn]) -> EncoderCache | None:
        """Return the cache with the states of the student's own encoder, if they are in one."""
        return self.student_cache if self._student_frames(windows) == FRAMES_PER_WINDOW else None

    # On disk

    def with_encoder_caches(self, folder: Path, ranks: Ranks) -> "StateSource":
        """Return the source with the outputs of all encoders that stay on disk, under a folder.

        Each rank makes a part.
        """
        source = self
        if self.inputs.settings.asks_teacher or self.shares_encoder:
            cache = self._filled(
                folder / TEACHER_ENCODER, self.teacher, self._teacher_encode, ranks
            )
            source = replace(source, teacher_cache=cache)
        if not self.shares_encoder and not self.inputs.settings.train_encoder:
            cache = self._filled(
                folder / STUDENT_ENCODER, self.student, self._student_encode, ranks
            )
            source = replace(source, student_cache=cache)
        return source

    def _filled(
        self, folder: Path, model: Whisper, encode: Callable[[Tensor], Tensor], ranks: Ranks
    ) -> EncoderCache:
        examples, sizes = self.inputs.examples, model.config
        digest = weights_digest(model.encoder)
        cache = EncoderCache(folder, examples, self.inputs.manifest, encoder_digest=digest)
        n_bytes = cache.n_bytes(
            max_frames=sizes.max_frames, width=sizes.width, dtype=self.teacher.dtype
        )

        def encode_all(numbers: Sequence[int]) -> Tensor:
            return torch.cat([encode(self._plain_mel(some)) for some in self._slices(numbers)])

        with self._filling("encoder outputs", folder, n_bytes, ranks) as advance:
            cache.fill(encode_all, ranks, on_progress=advance)
        return cache

    @contextmanager
    def _filling(self, what: str, folder: Path, n_bytes: int, ranks: Ranks) -> Iterator[Advance]:
        """Show how a folder fills with states of all examples; end when every rank is done."""
        n = len(self.inputs.examples)
        if ranks.is_first:
            say(f"train: keeping {what} of {n} windows, {n_bytes / 1e9:.2f} GB, in {folder}")
        with progress_bar(what, n / ranks.n_ranks, "windows") as advance:
            yield advance
        ranks.wait()

    def with_teacher_store(self, folder: Path, ranks: Ranks) -> "StateSource":
        """Return the source with the teacher's final states on disk, and no layers of it in memory.

        Each rank makes a part.

        Raises:
            ValueError: the teacher has given up its layers before.
        """
        teacher, inputs = self.teacher, self.inputs
        if len(teacher.decoder.layers) != teacher.config.decoder_layers:
            raise ValueError(
                f"the teacher must have its {teacher.config.decoder_layers} decoder layers, found "
                f"{len(teacher.decoder.layers)}: load it again before another run"
            )
        store = TeacherStore(
            folder / TEACHER_STATES,
            inputs,
            weights_digest(teacher),
            torch.bfloat16 if teacher.dtype == torch.bfloat16 else torch.float16,
        )
        n_bytes = store.n_bytes(width=teacher.config.width)
        with self._filling("the teacher's last states", store.folder, n_bytes, ranks) as advance:
            store.fill(self._final_states, ranks, on_progress=advance)
        if self.teacher_cache is not None or not self.shares_encoder:
            teacher.encoder.layers = nn.ModuleList()  # type: ignore[assignment]
        teacher.decoder.layers = nn.ModuleList()  # type: ignore[assignment]
        return replace(self, store=store)

    def _final_states(self, indices: Sequence[int], tokens: TokenBatch) -> Tensor:
        """Run the teacher on as many windows and rows at a time as a micro-batch may have."""
        states_of_rows = []
        for windows in self._slices(list(dict.fromkeys(indices))):
            if self.teacher_cache is not None:
                encoded = self.teacher_cache.read(windows).to(self.teacher.device)
            else:
                encoded = self._teacher_encode(self._plain_mel(windows))
            of_these = [row for row, index in enumerate(indices) if index in windows]
            for rows in self._slices(of_these):
                some = TokenBatch(tokens.inputs[rows], tokens.labels[rows])
                states = encoded[[windows.index(indices[row]) for row in rows]]
                states_of_rows.append(self.teacher_states(some, states, Loaded()).final)
        return torch.cat(states_of_rows)

    def _slices(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Yield numbers, as many at a time as may go through the network together."""
        most = self.inputs.settings.micro_batch_size
        for at in range(0, len(numbers), most):
            yield list(numbers[at : at + most])

    # Networks

    @torch.no_grad()
    def _teacher_encode(self, mel: Tensor) -> Tensor:
        with torch.autocast(self.teacher.device.type, enabled=False):
            return self.teacher.encoder(mel)

    def _student_encode(self, mel: Tensor) -> Tensor:
        settings, encoder = self.inputs.settings, self.student.encoder
        with torch.set_grad_enabled(settings.train_encoder):
            states = encoder_states(encoder, mel, checkpointed=settings.checkpoint_activations)
        return states.to(mel.dtype)

    def _plain_mel(self, numbers: Sequence[int]) -> Tensor:
        """Return the log-mel of examples without augmentation."""
        examples = [self.inputs.examples[number] for number in numbers]
        n_threads = self.inputs.settings.data_workers
        sounds = load_windows(self.inputs.manifest, examples, n_threads=n_threads)
        return self._mel([Drawn(number, 0) for number in numbers], sounds, FRAMES_PER_WINDOW)

    def _mel(self, windows: Sequence[Drawn], sounds: Sequence[Samples], n_frames: int) -> Tensor:
        mel = self.inputs.mel(windows, sounds, n_frames=n_frames, device=self.teacher.device)
        return mel.to(self.teacher.dtype)


def remove_caches(folder: Path) -> None:
    """Delete what a run has kept on disk."""
    for name in _CACHES:
        shutil.rmtree(folder / name, ignore_errors=True)
