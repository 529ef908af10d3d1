"""Encoder outputs on disk, so that the frozen encoder runs once per utterance, not per epoch."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from distilwhisper.corpus.batches import Example
from distilwhisper.corpus.store import write_atomic

# Windows per file. Files are made whole or not at all, and a window's companions are always the
# same ones, so a cache that was interrupted and finished later holds the same bits.
SHARD_WINDOWS = 32


class EncoderCache:
    """The encoder states of every example, in files of :data:`SHARD_WINDOWS` windows.

    Args:
        folder: made when needed.
        examples: in the order that numbers them.
    """

    def __init__(self, folder: Path, examples: Sequence[Example]) -> None:
        self.folder = folder
        self.examples = examples

    def n_bytes(self, *, max_frames: int, width: int, dtype: torch.dtype) -> int:
        """Return the disk space that the whole cache takes."""
        return len(self.examples) * max_frames * width * dtype.itemsize

    def fill(
        self,
        encode: Callable[[Sequence[Example]], Tensor],
        *,
        on_progress: Callable[[int], None],
    ) -> None:
        """Encode what is not there yet.

        Args:
            encode: examples to their encoder states, one row each.
            on_progress: called with the number of examples just done, or found done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for first in range(0, len(self.examples), SHARD_WINDOWS):
            shard = self.examples[first : first + SHARD_WINDOWS]
            path = self._path(first)
            # Packed with other pauses, the same utterances are other windows.
            held = json.dumps([[example.id, *example.starts_s] for example in shard])
            if not _holds(path, held):
                states = encode(shard).cpu().contiguous()
                write_atomic(path, save({"states": states}, metadata={"windows": held}))
            on_progress(len(shard))

    def read(self, indices: Sequence[int]) -> Float[Tensor, "batch frames width"]:
        """Return the states of some examples, in the order asked for."""
        rows = []
        for index in indices:
            with safe_open(self._path(index), framework="pt") as file:
                rows.append(file.get_slice("states")[index % SHARD_WINDOWS])
        return torch.stack(rows)

    def remove(self) -> None:
        """Delete the cache."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _path(self, index: int) -> Path:
        return self.folder / f"states-{index // SHARD_WINDOWS:05d}.safetensors"


def _holds(path: Path, held: str) -> bool:
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get("windows") == held)
    except SafetensorError:  # cut short by a failing disk, not by us: it is made again
        return False
