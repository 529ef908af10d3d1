"""Encoder outputs on disk, so that a frozen encoder runs once per window, not per epoch."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from distilwhisper.corpus.batches import Example
from distilwhisper.corpus.records import Manifest
from distilwhisper.files import write_atomic
from distilwhisper.shapes import Float
from distilwhisper.speech.sources import digest_of
from distilwhisper.training.ranks import Ranks

# Windows per file. Files are made whole or not at all, and a window's companions are always the
# same ones, so a cache that was interrupted and finished later holds the same bits.
SHARD_WINDOWS = 32


class EncoderCache:
    """The encoder states of every example, in files of :data:`SHARD_WINDOWS` windows.

    Args:
        folder: made when needed.
        examples: in the order that numbers them.
        manifest: where their sound is; states of sound that has changed since are made again.
        encoder_digest: the encoder's weights, from :func:`weights_digest`; states of others are
            made again.
    """

    def __init__(
        self, folder: Path, examples: Sequence[Example], manifest: Manifest, *, encoder_digest: str
    ) -> None:
        self.folder = folder
        self.examples = examples
        self.manifest = manifest
        self.encoder_digest = encoder_digest

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
        """Encode what is not there yet and falls to this rank.

        Args:
            encode: examples' numbers to their encoder states, one row each.
            ranks: the processes that share the work.
            on_progress: called with the number of examples just done, or found done.
        """
        for numbers in own_shards(len(self.examples), ranks):
            path = shard_file(self.folder, numbers[0])
            sounds = [sound_key(self.examples[number], self.manifest) for number in numbers]
            made_from = digest([self.encoder_digest, *sounds])
            if not is_made_from(path, made_from):
                write_shard(path, {"states": encode(numbers)}, made_from)
            on_progress(len(numbers))

    def read(self, indices: Sequence[int]) -> Float[Tensor, "batch frames width"]:
        """Return the states of some examples, in the order asked for."""
        rows = []
        for index in indices:
            with safe_open(shard_file(self.folder, index), framework="pt") as file:
                rows.append(file.get_slice("states")[index % SHARD_WINDOWS])
        return torch.stack(rows)


def own_shards(n_examples: int, ranks: Ranks) -> Iterator[range]:
    """Yield the numbers of the examples of each shard that falls to this rank."""
    for shard in range(ranks.rank, -(-n_examples // SHARD_WINDOWS), ranks.n_ranks):
        yield range(shard * SHARD_WINDOWS, min((shard + 1) * SHARD_WINDOWS, n_examples))


def digest(made_from: list[Any]) -> str:
    """Return a hash of what a shard is made from, as JSON."""
    return hashlib.blake2b(json.dumps(made_from).encode(), digest_size=16).hexdigest()


def weights_digest(*modules: nn.Module) -> str:
    """Return what tells networks from any others: a hash of their weights, names and dtypes."""
    total = hashlib.blake2b(digest_size=16)
    for module in modules:
        for name, weight in module.state_dict().items():
            total.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            total.update(weight.cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def sound_key(example: Example, manifest: Manifest) -> list[Any]:
    """Return what tells an example's sound from any other: its pieces and the files they are in.

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
    """Return a file's digest; the time of its last change tells one reading from the next."""
    with path.open("rb") as file:
        return digest_of(file).hex()


def shard_file(folder: Path, index: int) -> Path:
    """Return the file that holds an example's states."""
    return folder / f"states-{index // SHARD_WINDOWS:05d}.safetensors"


def is_made_from(path: Path, made_from: str) -> bool:
    """Return whether a whole shard is there, made from just these windows by just this network."""
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get("made_from") == made_from)
    except SafetensorError:  # cut short by a failing disk, not by us: it is made again
        return False


def write_shard(path: Path, tensors: dict[str, Tensor], made_from: str) -> None:
    """Write a shard whole; its folder is made when needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(held, metadata={"made_from": made_from}))
