"""Encoder outputs and the teacher's last states on disk, made once per window, not per epoch.

A distribution over 51,866 tokens is the product of one state with the embedding, so the teacher's
state of every token that counts (2.5 KB at width 1,280) is all that the KL needs, where the top few
logits would be biased. An example is given to the decoder in a few forms, with timestamps and
without: those that the run will draw are kept, each once.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from distilwhisper.corpus.batches import IGNORE, Example, TokenBatch, token_batch
from distilwhisper.corpus.records import Manifest
from distilwhisper.files import write_atomic
from distilwhisper.shapes import Float
from distilwhisper.speech.sources import digest_of
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.ranks import Ranks

# Windows per file. Files are made whole or not at all, and a window's companions are always the
# same ones, so a cache that was interrupted and finished later holds the same bits.
SHARD_WINDOWS = 32


@dataclass(frozen=True)
class EncoderCache:
    """The encoder states of every example, in files of :data:`SHARD_WINDOWS` windows.

    States of other sound, or of another encoder, are made again.
    """

    folder: Path
    examples: Sequence[Example]  # in the order that numbers them
    manifest: Manifest
    encoder_digest: str  # from :func:`weights_digest`

    def n_bytes(self, *, max_frames: int, width: int, dtype: torch.dtype) -> int:
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

        def shard(numbers: range) -> dict[str, Tensor]:
            return {"states": encode(numbers)}

        for numbers in own_shards(len(self.examples), ranks):
            sounds = [sound_key(self.examples[number], self.manifest) for number in numbers]
            made_from = [self.encoder_digest, *sounds]
            keep_shard(self.folder, numbers, made_from, partial(shard, numbers))
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
        self,
        final_states: Callable[[Sequence[int], TokenBatch], Float[Tensor, "tokens width"]],
        ranks: Ranks,
        *,
        on_progress: Callable[[int], None],
    ) -> None:
        """Run the teacher on what is not there yet and falls to this rank.

        Args:
            final_states: examples' numbers and one row of tokens for each, to the teacher's
                states of the tokens that count, row after row; an example's rows follow one
                another.
            ranks: the processes that share the work.
            on_progress: called with the number of examples just done, or found done.

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
                names = _names(rows, tokens)
                made_from = [self.teacher_digest, str(self.dtype), sounds, names]
                make = partial(self._states, final_states, rows, tokens, names)
                keep_shard(self.folder, numbers, made_from, make)
            on_progress(len(numbers))

    def _states(
        self,
        final_states: Callable[[Sequence[int], TokenBatch], Float[Tensor, "tokens width"]],
        indices: Sequence[int],
        tokens: TokenBatch,
        names: Sequence[str],
    ) -> dict[str, Tensor]:
        """Return the states of some rows by their names."""
        states = final_states(indices, tokens).to(self.dtype)
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
        digest = hashlib.blake2b(json.dumps(row).encode(), digest_size=8).hexdigest()
        names.append(f"{index % SHARD_WINDOWS}-{digest}")
    return names


# The files of both


def own_shards(n_examples: int, ranks: Ranks) -> Iterator[range]:
    """Yield the numbers of the examples of each shard that falls to this rank."""
    for shard in range(ranks.rank, -(-n_examples // SHARD_WINDOWS), ranks.n_ranks):
        yield range(shard * SHARD_WINDOWS, min((shard + 1) * SHARD_WINDOWS, n_examples))


def weights_digest(*modules: nn.Module) -> str:
    """Return a hash of the weights of some networks, with their names and dtypes."""
    total = hashlib.blake2b(digest_size=16)
    for module in modules:
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
        contents = _digest_of(path, path.stat().st_mtime_ns) if path.is_file() else None
        channel = [] if utterance.channel is None else [utterance.channel]
        span = [utterance.start_s, utterance.duration_s]
        pieces.append([start_s, source, *span, contents, *channel])
    return [example.id, pieces]


@lru_cache(maxsize=1024)  # utterances may be spans or members of one file
def _digest_of(path: Path, changed_ns: int) -> str:
    """Return a file's digest, which is cached until the file changes."""
    with path.open("rb") as file:
        return digest_of(file).hex()


def shard_file(folder: Path, index: int) -> Path:
    """Return the file that holds an example's states."""
    return folder / f"states-{index // SHARD_WINDOWS:05d}.safetensors"


def keep_shard(
    folder: Path, numbers: range, made_from: list[Any], make: Callable[[], dict[str, Tensor]]
) -> None:
    """Write the shard of some examples whole, unless it is there, made from just the same.

    Args:
        folder: made when needed.
        numbers: of all the examples in it.
        made_from: the network and the windows, as JSON.
        make: returns what the shard holds.
    """
    path = shard_file(folder, numbers[0])
    digest = hashlib.blake2b(json.dumps(made_from).encode(), digest_size=16).hexdigest()
    # One that is cut short was cut by a failing disk, not by us: it is made again.
    with suppress(FileNotFoundError, SafetensorError), safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("made_from") == digest:
            return
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
    write_atomic(path, save(on_cpu, metadata={"made_from": digest}))
