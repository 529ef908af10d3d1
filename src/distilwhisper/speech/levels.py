"""How loud a sound is from one tenth of a second to the next, and where it pauses."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ, Span, samples_to_seconds, seconds_to_samples

LEVEL_SAMPLES = SAMPLE_RATE_HZ // 10

# A pause is so much below the loudest second, and nowhere this much above its own quiet parts:
# speech, however quiet, rises and falls by more, and is none.
PAUSE_BELOW_DB = 12.0
STEADY_DB = 8.0
SHORTEST_SOUND_S = 0.3  # shorter sound in a pause is a click
INAUDIBLE_DB = -70.0
PAUSE_KEPT_S = 0.5  # of the pauses on both sides, as a model wants them

# Speech comes so near to the louder parts of what is around it; breaths between words do not.
LOUD_QUANTILE, AUDIBLE_DB = 0.9, 20.0
SHORTEST_BREAK, LONG_BREAK = 3, 10  # in levels: shorter ones are within words, longer ones as good


def levels_db(samples: Samples) -> npt.NDArray[np.float64]:
    """Return the mean power of each whole 0.1 s, in dB."""
    whole = samples[: len(samples) // LEVEL_SAMPLES * LEVEL_SAMPLES].reshape(-1, LEVEL_SAMPLES)
    return 10 * np.log10(np.square(whole, dtype=np.float64).mean(axis=1) + 1e-10)


def sounding_spans(samples: Samples, *, pause_s: float) -> list[Span]:
    """Return the spans between long pauses, each with a little of the pauses beside it.

    They are in order; the whole where it has no pause of at least ``pause_s``, or is nothing else.
    Of the samples, some seconds of sound, one second is as loud as speech gets in them.
    """
    levels = levels_db(samples)
    is_pause = np.zeros(len(levels), dtype=bool)
    loudest_second = np.sort(levels)[-10:][0] if len(levels) else 0.0
    for first, stop in _runs(levels < loudest_second - PAUSE_BELOW_DB):
        steady = levels[first:stop] < np.quantile(levels[first:stop], 0.25) + STEADY_DB
        for start, end in _runs(steady):
            long = (end - start) * LEVEL_SAMPLES >= seconds_to_samples(pause_s)
            is_pause[first + start : first + end] = long
    spans = []
    for first, stop in _runs(~is_pause):
        if is_pause.any() and (stop - first) * LEVEL_SAMPLES < seconds_to_samples(SHORTEST_SOUND_S):
            continue
        kept = seconds_to_samples(PAUSE_KEPT_S)
        end = stop * LEVEL_SAMPLES + kept if stop < len(levels) else len(samples)
        spans.append(Span(max(first * LEVEL_SAMPLES - kept, 0), min(end, len(samples))))
    return spans or [Span(0, len(samples))]


def is_audible(samples: Samples) -> npt.NDArray[np.bool_]:
    """Return which whole 0.1 s come near to the louder parts of a sound."""
    levels = levels_db(samples)
    loud = np.quantile(levels, LOUD_QUANTILE) if len(levels) else 0.0
    return levels > loud - AUDIBLE_DB


def longest_pause(samples: Samples, first: int) -> int | None:
    """Return the middle of the longest pause behind a place, in samples; None: there is none.

    Of pauses of a second and more, the last. One at the edge counts as far as it is inside.
    """
    offset = first // LEVEL_SAMPLES
    pauses = [
        (min(stop - start, LONG_BREAK), (start + stop) * LEVEL_SAMPLES // 2)
        for start, stop in _runs(~is_audible(samples)[offset:])
        if stop - start >= SHORTEST_BREAK
    ]
    return offset * LEVEL_SAMPLES + max(pauses)[1] if pauses else None


def speech_like_s(blocks: Iterable[Samples]) -> float:
    """Return for how long a sound is as loud as the louder parts of what rises and falls in it.

    Speech does so, and music; silence, hum and steady noise do not. Blocks have some seconds each.
    """
    n_samples = 0
    for block in blocks:
        for span in sounding_spans(block, pause_s=1.0):
            levels = levels_db(block[span.start : span.stop])
            if not len(levels):
                continue
            quiet, loud = np.quantile(levels, [0.1, 0.9])
            if loud > INAUDIBLE_DB and loud - quiet > STEADY_DB:
                n_samples += int((levels > loud - PAUSE_BELOW_DB).sum()) * LEVEL_SAMPLES
    return samples_to_seconds(n_samples)


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the places (first, stop) where flags are set without a break."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]
