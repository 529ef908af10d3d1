"""What everything counts in: Whisper's sample rate, frames and windows."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 30.0  # what the encoder reads at once
HOP_SAMPLES = 160  # one frame: 10 ms
WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
FRAMES_PER_WINDOW = WINDOW_SAMPLES // HOP_SAMPLES


@dataclass(frozen=True)
class Span:
    """Samples, or other steps of time, from ``start`` to ``stop``, which is the first behind it."""

    start: int
    stop: int

    def overlap(self, other: "Span") -> int:
        """Return how many steps the two have in common; below zero, how many lie between them."""
        return min(self.stop, other.stop) - max(self.start, other.start)


def merged_spans(
    spans: Iterable[Span], most: int, *, long_pause: float = math.inf
) -> Iterator[Span]:
    """Yield spans, neighbours as one while it is at most so long and no long pause parts them."""
    held: Span | None = None
    for span in spans:
        if held and span.stop - held.start <= most and span.start - held.stop < long_pause:
            held = Span(held.start, span.stop)
            continue
        if held:
            yield held
        held = span
    if held:
        yield held


def seconds_to_samples(seconds: float) -> int:
    """Return the sample nearest to a time; a half is rounded up."""
    return math.floor(seconds * SAMPLE_RATE_HZ + 0.5)


def samples_to_seconds(n: int) -> float:
    """Return how long ``n`` samples last."""
    return n / SAMPLE_RATE_HZ
