"""A recording of any length, read from front to back: held in memory, or decoded as it is read."""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ

BLOCK_SAMPLES = 30 * SAMPLE_RATE_HZ


@runtime_checkable
class Recording(Protocol):
    """What long-form decoding reads from."""

    def read(self, start: int, stop: int) -> Samples:
        """Return the samples from ``start``, which never goes back, up to ``stop`` or the end."""

    def reach(self, stop: int) -> int:
        """Return how many of the first ``stop`` samples there are; nothing is forgotten."""

    def again(self) -> "Recording":
        """Return the same recording, to be read from its beginning."""


def blocks_of(recording: Recording) -> Iterator[Samples]:
    """Yield a recording that was not read from yet, half a minute at a time."""
    at = 0
    while len(block := recording.read(at, at + BLOCK_SAMPLES)):
        yield block
        at += len(block)


def end_of(recording: Recording, at: int) -> int:
    """Read a recording on from a place, keeping nothing; return where it ends."""
    while (end := recording.reach(at + BLOCK_SAMPLES)) == at + BLOCK_SAMPLES:
        at = end
        recording.read(at, at)
    return end


class HeldRecording:
    """A recording in memory; it may be read in any order."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def read(self, start: int, stop: int) -> Samples:
        """Return a part, without copying it."""
        return self.samples[start:stop]

    def reach(self, stop: int) -> int:
        """Return ``stop``, or the length where that is less."""
        return min(stop, len(self.samples))

    def again(self) -> "HeldRecording":
        """Return itself."""
        return self


class StreamedRecording:
    """A recording decoded as it is read; only what can still be asked for is kept.

    Its blocks are what ``stream_samples`` yields; reading them raises what that raises.
    """

    def __init__(self, blocks: Callable[[], Iterator[Samples]]) -> None:
        self._read_blocks = blocks
        self._blocks = blocks()
        self._held: Samples = np.zeros(0, dtype=np.float32)
        self._first = 0  # place in the recording of the first sample held

    def read(self, start: int, stop: int) -> Samples:
        """Return a part, decoding up to its end and forgetting what lies before it."""
        if start < self._first:
            raise ValueError(
                f"a streamed recording is read forwards: samples before {self._first} are gone, "
                f"found {start}"
            )
        while start >= self._first + len(self._held):
            block = next(self._blocks, None)
            if block is None:
                return self._held[:0]
            self._first += len(self._held)  # all that was held lies before the start
            self._held = block
        self._held, self._first = self._held[start - self._first :], start
        self.reach(stop)
        return self._held[: stop - start]

    def reach(self, stop: int) -> int:
        """Decode up to a place; return it, or the length where that is less."""
        blocks = [self._held]
        end = self._first + len(self._held)
        while end < stop and (block := next(self._blocks, None)) is not None:
            blocks.append(block)
            end += len(block)
        if len(blocks) > 1:
            self._held = np.concatenate(blocks)
        return min(stop, end)

    def again(self) -> "StreamedRecording":
        """Return a second reader of the same source."""
        return StreamedRecording(self._read_blocks)
