"""Where a training step's states come from: the networks, or what they made before, on disk.

Encoder outputs and the teacher's last states are made once per window, not per epoch. A
distribution over 51,866 tokens is the product of one state with the embedding, so the teacher's
state of every token that counts (2.5 KB at width 1,280) is all that the KL needs, where the top few
logits would be biased. An example is given to the decoder in a few forms, with timestamps and
without: those that the run will draw are kept, each once.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from distilwhisper.corpus.batches import IGNORE, Drawn, Example, TokenBatch, load_windows
from distilwhisper.corpus.records import Manifest
from distilwhisper.model.whisper import Whisper
from distilwhisper.progress import progress_bar, say
from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.sources import digest_of
from distilwhisper.speech.units import FRAMES_PER_WINDOW
from distilwhisper.training.forcing import ForcedStates, encoder_states, forced_states
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.ranks import Ranks
from distilwhisper.training.state import write_tensors

# What a run keeps on disk, in a folder each.
TEACHER_ENCODER, STUDENT_ENCODER = "encoder-cache", "student-encoder-cache"
TEACHER_STATES = "teacher-cache"
# Windows per file. Files are made whole or not at all, and a window's companions are always the
# same ones, so a cache that was interrupted and finished later holds the same bits.
SHARD_WINDOWS = 32

# All that the states of some examples depend on (without any there is nothing to keep), and what
# makes them, by name.
Shard: TypeAlias = tuple[list[Any], Callable[[], Mapping[str, Tensor]]]


@dataclass(frozen=True)
class StateCache:
    """Files of states of a corpus's examples; what was made from other facts is made again."""

    folder: Path
    n_examples: int
    shard: Callable[[range], Shard]

    def fill(self, ranks: Ranks, *, on_progress: Callable[[int], None]) -> None:
        """Make what is not there yet and falls to this rank; report all, made or found made."""
        for start in range(0, self.n_examples, SHARD_WINDOWS)[ranks.rank :: ranks.n_ranks]:
            numbers = range(start, min(start + SHARD_WINDOWS, self.n_examples))
            path, (facts, make) = self._file(start), self.shard(numbers)
            if facts and _made_from(path) != (made_from := _digest(facts)):
                write_tensors(path, make(), {"made_from": made_from})
            on_progress(len(numbers))

    def read(self, numbers: Sequence[int]) -> Tensor:
        """Return the states of some examples, each a row of its file's "states", in their order."""
        files = zip(numbers, self._opened(numbers), strict=True)
        return torch.stack([file.get_slice("states")[n % SHARD_WINDOWS] for n, file in files])

    def read_named(self, numbers: Sequence[int], names: Sequence[str]) -> Tensor:
        """Return the states of these names in the files of some examples, one after the other."""
        files = zip(names, self._opened(numbers), strict=True)
        return torch.cat([file.get_tensor(name) for name, file in files])

    def _opened(self, numbers: Sequence[int]) -> Iterator[Any]:
        for number in numbers:
            with safe_open(self._file(number), framework="pt") as file:
                yield file

    def _file(self, number: int) -> Path:
        return self.folder / f"states-{number // SHARD_WINDOWS:05d}.safetensors"


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

    teacher: Whisper  # never changed, but for the layers that ``kept`` gives up
    student: Whisper  # gradients flow through its encoder if that is trained
    inputs: TrainingInput
    # One encoder serves both decoders where both get the whole window: the student's is the
    # teacher's, and stays.
    shares_encoder: bool
    teacher_cache: StateCache | None = None
    student_cache: StateCache | None = None  # of its own frozen encoder on whole windows
    store: StateCache | None = None  # final states of the teacher's decoder

    def read(self, windows: Sequence[Drawn], tokens: TokenBatch) -> Loaded:
        """Read a micro-batch's sound, where it is needed, and what is on disk; thread-safe.

        Raises:
            UnreadableRecording: audio that was labelled cannot be read now.
        """
        numbers, device = [one.example for one in windows], self.teacher.device
        n_frames = self.inputs.n_frames(windows[0])  # all the windows' alike
        is_whole = n_frames == FRAMES_PER_WINDOW
        serves_both = self.shares_encoder and is_whole
        teacher_frames = student_frames = 0
        teacher = student = final = None
        if self.store is not None:
            final = self.store.read_named(numbers, _names(numbers, tokens)).to(device)
        if serves_both or (self.inputs.settings.asks_teacher and self.store is None):
            if self.teacher_cache is not None:
                teacher = self.teacher_cache.read(numbers).to(device)
            else:
                teacher_frames = FRAMES_PER_WINDOW
        if not serves_both:
            if self.student_cache is not None and is_whole:
                student = self.student_cache.read(numbers).to(device)
            else:
                student_frames = n_frames
        needs_sound = teacher_frames or student_frames
        sounds = [self.inputs.sound(window) for window in windows] if needs_sound else None
        return Loaded(sounds, teacher_frames, student_frames, teacher, student, final)

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

    def kept(self, folder: Path, ranks: Ranks) -> "StateSource":
        """Return the source with the states on disk that its settings ask for, under a folder.

        Each rank makes a part. With ``cache_teacher`` no layers of the teacher stay in memory.

        Raises:
            ValueError: the teacher has given up its layers before, or has states that are no
                numbers, or too large for the disk's.
        """
        settings, source = self.inputs.settings, self
        if settings.cache_encoder and (settings.asks_teacher or self.shares_encoder):
            cache = self._encoder_cache(folder / TEACHER_ENCODER, self.teacher, ranks)
            source = replace(source, teacher_cache=cache)
        if settings.cache_encoder and not (self.shares_encoder or settings.train_encoder):
            cache = self._encoder_cache(folder / STUDENT_ENCODER, self.student, ranks)
            source = replace(source, student_cache=cache)
        if settings.cache_teacher:
            source = replace(source, store=source._teacher_store(folder / TEACHER_STATES, ranks))
            if source.teacher_cache is not None or not self.shares_encoder:
                self.teacher.encoder.layers = nn.ModuleList()  # type: ignore[assignment]
            self.teacher.decoder.layers = nn.ModuleList()  # type: ignore[assignment]
        return source

    def _encoder_cache(self, folder: Path, model: Whisper, ranks: Ranks) -> StateCache:
        encode = self._teacher_encode if model is self.teacher else self._student_encode
        made_by, sizes = weights_digest(model.encoder), model.config

        def make(numbers: range) -> dict[str, Tensor]:
            parts = [encode(self._plain_mel(some)) for some in self._slices(numbers)]
            return {"states": torch.cat(parts)}

        def shard(numbers: range) -> Shard:
            return [made_by, *self._sounds(numbers)], partial(make, numbers)

        cache = StateCache(folder, len(self.inputs.examples), shard)
        n_bytes = cache.n_examples * sizes.max_frames * sizes.width * self.teacher.dtype.itemsize
        return self._filled(cache, "encoder outputs", n_bytes, ranks)

    def _teacher_store(self, folder: Path, ranks: Ranks) -> StateCache:
        """Keep the states of the tokens that count, of every example in every form drawn."""
        teacher, inputs, n_layers = self.teacher, self.inputs, self.teacher.config.decoder_layers
        if len(teacher.decoder.layers) != n_layers:
            raise ValueError(
                f"the teacher must have its {n_layers} decoder layers, found "
                f"{len(teacher.decoder.layers)}: load it again before another run"
            )
        dtype = torch.bfloat16 if teacher.dtype == torch.bfloat16 else torch.float16
        made_by = [weights_digest(teacher), str(dtype)]

        def shard(numbers: range) -> Shard:
            windows = [window for number in numbers for window in inputs.forms(number)]
            if not windows:  # the run ends before any of them has its turn
                return [], dict
            rows, tokens = [window.example for window in windows], inputs.tokens(windows)
            facts = [*made_by, self._sounds(numbers), _names(rows, tokens)]
            return facts, partial(self._final_states, rows, tokens, dtype)

        cache = StateCache(folder, len(inputs.examples), shard)
        drawn = filter(None, map(inputs.forms, range(cache.n_examples)))
        n_tokens = sum(inputs.tokens(forms).n_tokens for forms in drawn)
        n_bytes = n_tokens * teacher.config.width * dtype.itemsize
        return self._filled(cache, "the teacher's last states", n_bytes, ranks)

    def _final_states(
        self, numbers: Sequence[int], tokens: TokenBatch, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Return the teacher's states by row of tokens, of which each is of a numbered example.

        As many windows and rows go through it at a time as a micro-batch may have.
        """
        names, counts = _names(numbers, tokens), (tokens.labels != IGNORE).sum(dim=1)
        states: dict[str, Tensor] = {}
        for windows in self._slices(list(dict.fromkeys(numbers))):
            if self.teacher_cache is not None:
                encoded = self.teacher_cache.read(windows).to(self.teacher.device)
            else:
                encoded = self._teacher_encode(self._plain_mel(windows))
            of_these = [row for row, number in enumerate(numbers) if number in windows]
            for rows in self._slices(of_these):
                some = TokenBatch(tokens.inputs[rows], tokens.labels[rows])
                own = encoded[[windows.index(numbers[row]) for row in rows]]
                final = self._teacher_decode(some, own).final.to(dtype)
                pieces = map(torch.clone, torch.split(final, counts[rows].tolist()))
                states |= zip([names[row] for row in rows], pieces, strict=True)
        named = zip(numbers, names, strict=True)
        faulty = {number for number, name in named if not states[name].isfinite().all()}
        if faulty:
            ids = [u.id for n in sorted(faulty) for u in self.inputs.examples[n].utterances]
            raise ValueError(
                f"the teacher's states must be numbers that {dtype} holds, found others in "
                f"{', '.join(ids)}: name those at fault in skip_utterances, or train without "
                "cache_teacher"
            )
        return states

    def _filled(self, cache: StateCache, what: str, n_bytes: int, ranks: Ranks) -> StateCache:
        """Return a cache that every rank has filled its part of."""
        n, size = cache.n_examples, f"{n_bytes / 1e9:.2f} GB"
        if ranks.is_first:
            say(f"train: keeping {what} of {n} windows, {size}, in {cache.folder}")
        with progress_bar(what, n / ranks.n_ranks, "windows") as advance:
            cache.fill(ranks, on_progress=advance)
        ranks.wait()
        return cache

    def _sounds(self, numbers: Sequence[int]) -> list[Any]:
        inputs = self.inputs
        return [sound_key(inputs.examples[number], inputs.manifest) for number in numbers]

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


def _names(numbers: Sequence[int], tokens: TokenBatch) -> list[str]:
    """Return the name of each row's states: the example's place, and what the decoder is given."""
    names = []
    mask = tokens.labels != IGNORE
    for number, inputs, counts in zip(numbers, tokens.inputs, mask, strict=True):
        length = int(counts.nonzero()[-1]) + 1  # what is behind the last target is padding
        row = [inputs[:length].tolist(), counts[:length].tolist()]
        names.append(f"{number % SHARD_WINDOWS}-{_digest(row, n_bytes=8)}")
    return names


def _made_from(path: Path) -> str | None:
    """Return the digest of the facts that a file was made from; None where it must be made."""
    # One that is cut short was cut by a failing disk, not by us.
    with suppress(FileNotFoundError, SafetensorError), safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("made_from")
    return None


def _digest(facts: list[Any], *, n_bytes: int = 16) -> str:
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=n_bytes).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """Return a hash of a network's weights, with their names and dtypes."""
    total = hashlib.blake2b(digest_size=16)
    for name, weight in module.state_dict().items():
        total.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        total.update(weight.cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def sound_key(example: Example, manifest: Manifest) -> list[Any]:
    """Return the identity of an example's sound: its pieces and the files they are in.

    A file is known by its path and by :func:`~distilwhisper.speech.sources.digest_of`, as in
    labels, so that a copied corpus keeps its cache. Packed with other pauses, the same utterances
    are another sound.
    """
    pieces = []
    for utterance, start_s in zip(example.utterances, example.starts_s, strict=True):
        source = manifest.audio_source(utterance)
        path = Path(source)
        if not path.exists():  # a member of a shard
            path = Path(source.rpartition("#")[0])
        contents = _file_digest(path, path.stat().st_mtime_ns) if path.is_file() else None
        channel = [] if utterance.channel is None else [utterance.channel]
        span = [utterance.start_s, utterance.duration_s]
        pieces.append([start_s, source, *span, contents, *channel])
    return [example.id, pieces]


@lru_cache(maxsize=1024)  # utterances may be spans or members of one file
def _file_digest(path: Path, changed_ns: int) -> str:
    """Return a file's digest, which is cached until the file changes."""
    with path.open("rb") as file:
        return digest_of(file).hex()
