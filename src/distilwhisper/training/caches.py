"""Encoder outputs and the teacher's last states on disk, made once per window, not per epoch.

A distribution over 51,866 tokens is the product of one state with the embedding, so the teacher's
state of every token that counts (2.5 KB at width 1,280) is all that the KL needs, where the top few
logits would be biased. An example is given to the decoder in a few forms, with timestamps and
without: those that the run will draw are kept, each once.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from distilwhisper.corpus.batches import IGNORE, Example, TokenBatch, token_batch
from distilwhisper.corpus.records import Manifest
from distilwhisper.shapes import Float
from distilwhisper.speech.sources import digest_of
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.ranks import Ranks
from distilwhisper.training.state import write_tensors

# Windows per file. Files are made whole or not at all, and a window's companions are always the
# same ones, so a cache that was interrupted and finished later holds the same bits.
SHARD_WINDOWS = 32

# Examples' numbers and a row of tokens for each to the teacher's states of the tokens that count,
# row after row. An example's rows follow one another.
FinalStates: TypeAlias = Callable[[Sequence[int], TokenBatch], Float[Tensor, "tokens width"]]


@dataclass(frozen=True)
class EncoderCache:
    """States of every example; those of other sound, or of another encoder, are made again."""

    folder: Path
    examples: Sequence[Example]  # in the order that numbers them
    manifest: Manifest
    encoder_digest: str  # from :func:`weights_digest`

    def n_bytes(self, max_frames: int, width: int, dtype: torch.dtype) -> int:
        """Return the disk space that the whole cache takes."""
        return len(self.examples) * max_frames * width * dtype.itemsize

    def fill(
        self,
        encode: Callable[[Sequence[int]], Tensor],
        ranks: Ranks,
        *,
        on_progress: Callable[[int], None],
    ) -> None:
        """Encode what is not there yet and falls to this rank; report all, done or found done."""
        for numbers in own_shards(len(self.examples), ranks):
            sounds = [sound_key(self.examples[number], self.manifest) for number in numbers]
            path = shard_file(self.folder, numbers[0])
            if is_missing(path, made_from := _digest([self.encoder_digest, *sounds])):
                write_tensors(path, {"states": encode(numbers)}, {"made_from": made_from})
            on_progress(len(numbers))

    def read(self, indices: Sequence[int]) -> Float[Tensor, "batch frames width"]:
        """Return the states of some examples, in the order asked for."""
        rows = []
        for index in indices:
            with safe_open(shard_file(self.folder, index), framework="pt") as file:
                rows.append(file.get_slice("states")[index % SHARD_WINDOWS])
        return torch.stack(rows)


@dataclass(frozen=True)
class TeacherStore:
    """Final states of the tokens that count, of every example in every form that is drawn."""

    folder: Path
    inputs: TrainingInput
    teacher_digest: str  # of all its weights, from :func:`weights_digest`
    dtype: torch.dtype  # of the states on disk

    def n_bytes(self, *, width: int) -> int:
        """Return the disk space that the whole store takes."""
        inputs = self.inputs
        forms = filter(None, map(inputs.forms, range(len(inputs.examples))))
        n_tokens = sum(token_batch(rows, inputs.tokenizer).n_tokens for rows in forms)
        return n_tokens * width * self.dtype.itemsize

    def fill(
        self, final_states: FinalStates, ranks: Ranks, *, on_progress: Callable[[int], None]
    ) -> None:
        """Run the teacher on what is not there yet and falls to this rank; report as a cache does.

        Raises:
            ValueError: a state is too large for ``dtype``, or no number.
        """
        inputs = self.inputs
        for numbers in own_shards(len(inputs.examples), ranks):
            forms = [(index, form) for index in numbers for form in inputs.forms(index)]
            if forms:  # else the run ends before any of them has its turn
                rows = [index for index, _ in forms]
                tokens = token_batch([form for _, form in forms], inputs.tokenizer)
                sounds = [sound_key(inputs.examples[i], inputs.manifest) for i in numbers]
                facts = [self.teacher_digest, str(self.dtype), sounds, _names(rows, tokens)]
                path = shard_file(self.folder, numbers[0])
                if is_missing(path, made_from := _digest(facts)):
                    states = final_states(rows, tokens).to(self.dtype)
                    pieces = self._by_name(states, rows, tokens)
                    write_tensors(path, pieces, {"made_from": made_from})
            on_progress(len(numbers))

    def _by_name(
        self, states: Tensor, indices: Sequence[int], tokens: TokenBatch
    ) -> dict[str, Tensor]:
        pieces = torch.split(states, (tokens.labels != IGNORE).sum(dim=1).tolist())
        faulty = {
            utterance.id: None
            for index, piece in zip(indices, pieces, strict=True)
            if not piece.isfinite().all()
            for utterance in self.inputs.examples[index].utterances
        }
        if faulty:
            raise ValueError(
                f"the teacher's states must be numbers that {self.dtype} holds, found others in "
                f"{', '.join(faulty)}: name those at fault in skip_utterances, or train without "
                "cache_teacher"
            )
        names = _names(indices, tokens)
        return {name: piece.clone() for name, piece in zip(names, pieces, strict=True)}

    def read(self, indices: Sequence[int], tokens: TokenBatch) -> Float[Tensor, "tokens width"]:
        """Return the states of the tokens that count, row after row."""
        states = []
        for index, name in zip(indices, _names(indices, tokens), strict=True):
            with safe_open(shard_file(self.folder, index), framework="pt") as file:
                states.append(file.get_tensor(name))
        return torch.cat(states)


def _names(indices: Sequence[int], tokens: TokenBatch) -> list[str]:
    """Return the name of each row's states: the example's place, and what the decoder is given."""
    names = []
    mask = tokens.labels != IGNORE
    for index, inputs, counts in zip(indices, tokens.inputs, mask, strict=True):
        length = int(counts.nonzero()[-1]) + 1  # what is behind the last target is padding
        row = [inputs[:length].tolist(), counts[:length].tolist()]
        names.append(f"{index % SHARD_WINDOWS}-{_digest(row, n_bytes=8)}")
    return names


# The files of both


def own_shards(n_examples: int, ranks: Ranks) -> list[range]:
    """Return the numbers of the examples of each shard that falls to this rank."""
    starts = range(0, n_examples, SHARD_WINDOWS)[ranks.rank :: ranks.n_ranks]
    return [range(start, min(start + SHARD_WINDOWS, n_examples)) for start in starts]


def shard_file(folder: Path, index: int) -> Path:
    """Return the file that holds an example's states."""
    return folder / f"states-{index // SHARD_WINDOWS:05d}.safetensors"


def is_missing(path: Path, made_from: str) -> bool:
    """Return whether there is no shard that was made from a network and windows of this digest."""
    # One that is cut short was cut by a failing disk, not by us: it is made again.
    with suppress(FileNotFoundError, SafetensorError), safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("made_from") != made_from
    return True


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


def _digest(content: list[Any], *, n_bytes: int = 16) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=n_bytes).hexdigest()
