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

TEACHER_ENCODER, STUDENT_ENCODER = "encoder-cache", "student-encoder-cache"
TEACHER_STATES = "teacher-cache"


class Loaded(NamedTuple):
    """What was read of a micro-batch, and the mel frames that each encoder is still to encode."""

    sounds: list[Samples] | None  # None: nothing is to be encoded
    teacher_frames: int  # 0: its states are here, or nobody needs them
    student_frames: int  # 0: its states are here, or are the teacher's
    teacher: Float[Tensor, "batch frames width_t"] | None
    student: Float[Tensor, "batch frames width"] | None
    final: Float[Tensor, "tokens width_t"] | None  # of the teacher's decoder


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
        numbers, device = [one.example for one in windows], self.teacher.device
        n_frames = self.inputs.n_frames(windows[0])  # all the windows' alike
        is_whole = n_frames == FRAMES_PER_WINDOW
        serves_both = self.shares_encoder and is_whole
        needs_teacher = serves_both or (self.inputs.settings.asks_teacher and self.store is None)
        of_teacher = self.teacher_cache if needs_teacher else None
        of_student = self.student_cache if is_whole else None
        teacher_frames = FRAMES_PER_WINDOW if needs_teacher and of_teacher is None else 0
        student_frames = 0 if serves_both or of_student is not None else n_frames
        needs_sound = teacher_frames or student_frames
        return Loaded(
            [self.inputs.sound(window) for window in windows] if needs_sound else None,
            teacher_frames,
            student_frames,
            None if of_teacher is None else of_teacher.read(numbers).to(device),
            None if of_student is None else of_student.read(numbers).to(device),
            None if self.store is None else self.store.read(numbers, tokens).to(device),
        )

    def encode(self, windows: Sequence[Drawn], loaded: Loaded) -> tuple[Tensor | None, Tensor]:
        """Return states for both decoders, the teacher's first: None where nobody needs them."""
        teacher, student = loaded.teacher, loaded.student
        if loaded.sounds is not None:
            n_frames = max(loaded.teacher_frames, loaded.student_frames)
            mel = self._mel(windows, loaded.sounds, n_frames)
            if loaded.teacher_frames:
                teacher = self._teacher_encode(mel)
            if loaded.student_frames:
                student = self._student_encode(mel[:, :, : loaded.student_frames])
        student = teacher if student is None else student
        assert student is not None
        return teacher, student

    def teacher_states(
        self, tokens: TokenBatch, encoded: Tensor | None, loaded: Loaded
    ) -> ForcedStates:
        """Return the teacher's states of the tokens that count; of its layers only for mse_weight.

        Its encoder states are not needed where a store has the answer.
        """
        if loaded.final is not None:
            return ForcedStates(loaded.final, [])
        assert encoded is not None
        return self._teacher_decode(tokens, encoded)

    # On disk

    def with_encoder_caches(self, folder: Path, ranks: Ranks) -> "StateSource":
        """Return the source with the outputs of all encoders that stay on disk, under a folder.

        Each rank makes a part.
        """
        settings = self.inputs.settings
        of_teacher = of_student = None
        if settings.asks_teacher or self.shares_encoder:
            place = folder / TEACHER_ENCODER
            of_teacher = self._filled(place, self.teacher, self._teacher_encode, ranks)
        if not self.shares_encoder and not settings.train_encoder:
            place = folder / STUDENT_ENCODER
            of_student = self._filled(place, self.student, self._student_encode, ranks)
        return replace(self, teacher_cache=of_teacher, student_cache=of_student)

    def _filled(
        self, folder: Path, model: Whisper, encode: Callable[[Tensor], Tensor], ranks: Ranks
    ) -> EncoderCache:
        examples, sizes = self.inputs.examples, model.config
        digest = weights_digest(model.encoder)
        cache = EncoderCache(folder, examples, self.inputs.manifest, encoder_digest=digest)
        n_bytes = cache.n_bytes(sizes.max_frames, sizes.width, self.teacher.dtype)

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
        teacher, n_layers = self.teacher, self.teacher.config.decoder_layers
        if len(teacher.decoder.layers) != n_layers:
            raise ValueError(
                f"the teacher must have its {n_layers} decoder layers, found "
                f"{len(teacher.decoder.layers)}: load it again before another run"
            )
        dtype = torch.bfloat16 if teacher.dtype == torch.bfloat16 else torch.float16
        store = TeacherStore(folder / TEACHER_STATES, self.inputs, weights_digest(teacher), dtype)
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
                states_of_rows.append(self._teacher_decode(some, states).final)
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

    @torch.no_grad()
    def _teacher_decode(self, tokens: TokenBatch, encoded: Tensor) -> ForcedStates:
        device = self.teacher.device
        states = forced_states(self.teacher.decoder, encoded, tokens.inputs.to(device))
        layers = states.layers if self.inputs.settings.mse_weight else []
        return ForcedStates(states.final, layers).at(tokens.labels.to(device) != IGNORE)

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
        mel = self.inputs.mel(windows, sounds, n_frames, self.teacher.device)
        return mel.to(self.teacher.dtype)


def remove_caches(folder: Path) -> None:
    """Delete what a run has kept on disk."""
    for name in (TEACHER_ENCODER, STUDENT_ENCODER, TEACHER_STATES):
        shutil.rmtree(folder / name, ignore_errors=True)
