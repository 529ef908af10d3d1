"""Where a training step's states come from: the networks, or what they once said, on disk."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distilwhisper.corpus.batches import IGNORE, Drawn, TokenBatch
from distilwhisper.model.whisper import Whisper
from distilwhisper.progress import progress_bar, say
from distilwhisper.speech.audio import Samples
from distilwhisper.training.encoder_cache import EncoderCache, weights_digest
from distilwhisper.training.forcing import encoder_states, forced_states
from distilwhisper.training.inputs import SoundReader, TrainingInput
from distilwhisper.training.ranks import Ranks
from distilwhisper.training.teacher_store import TeacherStore

_CACHES = TEACHER_ENCODER, STUDENT_ENCODER, TEACHER_STATES = (
    "encoder-cache",
    "student-encoder-cache",
    "teacher-cache",
)


class Heard(NamedTuple):
    """Encoder states of some windows, for each of the decoders."""

    teacher: Float[Tensor, "batch frames width_t"] | None  # None where it is not needed
    student: Float[Tensor, "batch frames width"]


class Taught(NamedTuple):
    """The teacher's states of the tokens that count."""

    final: Float[Tensor, "tokens width_t"]
    layers: list[Float[Tensor, "tokens width_t"]]  # after each layer; none from disk


@dataclass(frozen=True)
class StateSource:
    """A teacher and a student that hear a corpus.

    Args:
        teacher: never changed, but for the layers that :meth:`with_teacher_store` gives up.
        student: gradients flow through its encoder if that is trained.
        inputs: the corpus, and what is drawn of it.
        reader: of its sound, in the order in which a run asks for it.
        shares_encoder: one encoder serves both decoders: the student's is the teacher's, and stays.
        train_encoder: the student's.
        asks_teacher: without it the teacher is not run at all.
        checkpointed: see :func:`~distilwhisper.training.forcing.forced_states`.
        teacher_cache: what the teacher's encoder said.
        student_cache: what the student's own frozen encoder said.
        store: what the teacher's decoder said.
    """

    teacher: Whisper
    student: Whisper
    inputs: TrainingInput
    reader: SoundReader
    shares_encoder: bool
    train_encoder: bool
    asks_teacher: bool
    checkpointed: bool
    teacher_cache: EncoderCache | None = None
    student_cache: EncoderCache | None = None
    store: TeacherStore | None = None

    def heard(self, drawn: Sequence[Drawn]) -> Heard:
        """Return the encoder states of the micro-batch whose turn it is.

        Raises:
            UnreadableRecording: audio that was labelled cannot be read now.
        """
        needs_teacher = self.shares_encoder or (self.asks_teacher and self.store is None)
        is_cached = (self.teacher_cache or not needs_teacher) and (
            self.student_cache or self.shares_encoder
        )
        mel = None if is_cached else self._mel(drawn, self.reader.read(drawn))
        teacher = self._teacher_heard(drawn, mel) if needs_teacher else None
        if self.shares_encoder:
            assert teacher is not None
            return Heard(teacher, teacher)
        return Heard(teacher, self._student_heard(drawn, mel))

    @torch.no_grad()
    def taught(self, indices: Sequence[int], tokens: TokenBatch, heard: Tensor | None) -> Taught:
        """Return the teacher's states of the tokens that count.

        Args:
            indices: the examples.
            tokens: what both decoders are given, a row for each example.
            heard: the teacher's encoder states; not needed where a store has the answer.
        """
        device = self.teacher.device
        if self.store is not None:
            return Taught(self.store.read(indices, tokens).to(device), [])
        assert heard is not None
        counted = tokens.labels.to(device) != IGNORE
        states = forced_states(self.teacher.decoder, heard, tokens.inputs.to(device))
        return Taught(states.final[counted], [layer[counted] for layer in states.layers])

    # On disk

    def with_encoder_caches(self, folder: Path, ranks: Ranks) -> "StateSource":
        """Return the source with the outputs of all encoders that stay on disk, under a folder.

        Each rank makes a part.
        """
        source = self
        if self.asks_teacher or self.shares_encoder:
            cache = self._filled(
                folder / TEACHER_ENCODER, self.teacher, self._teacher_encode, ranks
            )
            source = replace(source, teacher_cache=cache)
        if not self.shares_encoder and not self.train_encoder:
            cache = self._filled(
                folder / STUDENT_ENCODER, self.student, self._student_encode, ranks
            )
            source = replace(source, student_cache=cache)
        return source

    def _filled(
        self, folder: Path, model: Whisper, encode: Callable[[Tensor], Tensor], ranks: Ranks
    ) -> EncoderCache:
        examples = self.inputs.examples
        digest = weights_digest(model.encoder)
        cache = EncoderCache(folder, examples, self.inputs.manifest, encoder_digest=digest)
        config = model.config
        size = cache.n_bytes(
            max_frames=config.max_frames, width=config.width, dtype=self.teacher.dtype
        )
        if ranks.is_first:
            say(
                f"train: keeping encoder outputs of {len(examples)} windows, {size / 1e9:.2f} GB, "
                f"in {folder}"
            )
        with progress_bar("encode", len(examples) / ranks.n_ranks, "windows") as advance:
            cache.fill(lambda numbers: encode(self._plain_mel(numbers)), ranks, on_progress=advance)
        ranks.wait()
        return cache

    def with_teacher_store(self, folder: Path, ranks: Ranks) -> "StateSource":
        """Return the source with the teacher's final states on disk, and no layers of it in memory.

        Each rank makes a part.

        Args:
            folder: of the run.
            ranks: the processes that train together.

        Raises:
            ValueError: the teacher has given up its layers before.
        """
        teacher, inputs = self.teacher, self.inputs
        if len(teacher.decoder.layers) != teacher.config.decoder_layers:
            raise ValueError(
                f"the teacher must have its {teacher.config.decoder_layers} decoder layers, found "
                f"{len(teacher.decoder.layers)}: load it again before another run"
            )
        half = teacher.dtype in (torch.bfloat16, torch.float16)
        store = TeacherStore(
            folder / TEACHER_STATES,
            inputs,
            weights_digest(teacher),
            teacher.dtype if half else torch.float16,
        )
        if ranks.is_first:
            size = store.n_bytes(width=teacher.config.width)
            say(
                f"train: keeping the teacher's last states for {len(inputs.examples)} windows, "
                f"{size / 1e9:.2f} GB, in {store.folder}"
            )
        with progress_bar("teacher", len(inputs.examples) / ranks.n_ranks, "windows") as advance:
            store.fill(self._final_states, ranks, on_progress=advance)
        ranks.wait()
        if self.teacher_cache is not None or not self.shares_encoder:
            teacher.encoder.layers = nn.ModuleList()  # type: ignore[assignment]
        teacher.decoder.layers = nn.ModuleList()  # type: ignore[assignment]
        return replace(self, store=store)

    def _final_states(self, indices: Sequence[int], tokens: TokenBatch) -> Tensor:
        windows = list(dict.fromkeys(indices))
        mel = None if self.teacher_cache else self._plain_mel(windows)
        heard = self._teacher_heard([Drawn(number, 0) for number in windows], mel)
        rows = torch.tensor([windows.index(i) for i in indices], device=heard.device)
        return self.taught(indices, tokens, heard[rows]).final

    # Networks

    def _teacher_heard(self, drawn: Sequence[Drawn], mel: Tensor | None) -> Tensor:
        if self.teacher_cache is not None:
            numbers = [one.example for one in drawn]
            return self.teacher_cache.read(numbers).to(self.teacher.device)
        assert mel is not None
        return self._teacher_encode(mel)

    def _student_heard(self, drawn: Sequence[Drawn], mel: Tensor | None) -> Tensor:
        if self.student_cache is not None:
            numbers = [one.example for one in drawn]
            return self.student_cache.read(numbers).to(self.student.device)
        assert mel is not None
        return self._student_encode(mel)

    @torch.no_grad()
    def _teacher_encode(self, mel: Tensor) -> Tensor:
        with torch.autocast(self.teacher.device.type, enabled=False):
            return self.teacher.encoder(mel)

    def _student_encode(self, mel: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.train_encoder):
            states = encoder_states(self.student.encoder, mel, checkpointed=self.checkpointed)
        return states.to(mel.dtype)

    def _plain_mel(self, numbers: Sequence[int]) -> Tensor:
        """Return what the encoders hear of examples to which nothing happens."""
        drawn = [Drawn(number, 0) for number in numbers]
        return self._mel(drawn, [self.inputs.sound(one) for one in drawn])

    def _mel(self, drawn: Sequence[Drawn], sounds: Sequence[Samples]) -> Tensor:
        return self.inputs.mel(drawn, sounds, device=self.teacher.device).to(self.teacher.dtype)


def remove_caches(folder: Path) -> None:
    """Delete what a run has kept on disk."""
    for name in _CACHES:
        shutil.rmtree(folder / name, ignore_errors=True)


def same_weights(student: nn.Module, teacher: nn.Module) -> bool:
    """Return whether a student's weights are a teacher's, as far as its number format tells."""
    ours, theirs = student.state_dict(), teacher.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == weight.shape and torch.equal(ours[name].to(weight.dtype), weight)
        for name, weight in theirs.items()
    )
