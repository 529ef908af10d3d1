"""One chunk of a long recording: decoded, judged, and decoded in two halves where it failed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distilwhisper.decoding.chunks import Chunk
from distilwhisper.decoding.failure import Judged, decode_with_fallback, is_silence, loops
from distilwhisper.decoding.heard import HeardWindow, hear
from distilwhisper.decoding.segments import TimedSegment, split_segments
from distilwhisper.decoding.windows import Task, WindowDecoder, WindowRequest
from distilwhisper.speech.audio import Samples, samples_to_seconds, seconds_to_samples

# Halves of a failed chunk share this much, and a chunk is not cut when they would be shorter.
HALVES_SHARE_S = 4.0
SHORTEST_HALF_S = 7.0

# A chunk that never leaves the last bits of 16 is not decoded: the log-mel would make it louder.
SILENT_PEAK = 1e-4

# Speech behind the end of a chunk's text is decoded again when it lasts longer than this. It is
# speech where the level, over 0.1 s, comes near to that of the chunk's louder parts.
UNHEARD_S = 3.0
LEVEL_SAMPLES = 1600
LOUD_QUANTILE, AUDIBLE_DB = 0.9, 20.0


def decode_chunk(
    decoder: WindowDecoder,
    chunk: Chunk,
    samples: Samples,
    *,
    language: str | None,
    previous_ids: Sequence[int] = (),
    heard_again_s: float,
) -> Task[list[HeardWindow]]:
    """Decode a chunk; a task for :meth:`WindowDecoder.run`.

    Where the text ends long before the speech does, the rest is decoded as a window of its own.
    Where no temperature gives a text that is to be believed, the chunk is cut in two: a loop that
    one window leads into is rarely met from another beginning.

    Args:
        decoder: encodes and searches.
        chunk: its place in the recording.
        samples: its sound.
        language: a code; none: detected from this chunk.
        previous_ids: what the window is told came before.
        heard_again_s: how much of the chunk's end the next one hears too.

    Returns:
        What was heard in the chunk, or in its parts; nothing where it is silent.
    """
    if np.abs(samples).max() < SILENT_PEAK:
        return []
    heard, failed = yield from _attempt(decoder, chunk, samples, language, previous_ids)
    share = seconds_to_samples(HALVES_SHARE_S)
    if failed and (len(samples) + share) // 2 >= seconds_to_samples(SHORTEST_HALF_S):
        middle = len(samples) // 2
        halves: list[HeardWindow] = []
        n_failed = 0
        for first, stop in ((0, middle + share // 2), (middle - share // 2, len(samples))):
            part = Chunk(chunk.start + first, chunk.start + stop)
            half, half_failed = yield from _attempt(
                decoder, part, samples[first:stop], language, previous_ids
            )
            halves.append(half)
            n_failed += half_failed
        return halves if n_failed < len(halves) else [heard]
    parts = [heard]
    while (rest := _unheard(parts[-1], chunk, samples, heard_again_s)) is not None:
        left = samples[rest.start - chunk.start :]
        more, failed = yield from _attempt(decoder, rest, left, language, previous_ids)
        if failed or not more.segments:
            break
        parts[-1] = replace(parts[-1], end_s=samples_to_seconds(rest.start))
        parts.append(more)
    return parts


def _unheard(
    heard: HeardWindow, chunk: Chunk, samples: Samples, heard_again_s: float
) -> Chunk | None:
    """Return what lies behind a chunk's text, if it is long speech that nobody else hears."""
    if not heard.segments:
        return None
    end_s = heard.segments[-1].end_s
    if samples_to_seconds(chunk.stop) - end_s <= max(UNHEARD_S, heard_again_s):
        return None
    rest = Chunk(seconds_to_samples(end_s), chunk.stop)
    levels_db = _levels_db(samples)
    first = (rest.start - chunk.start) // LEVEL_SAMPLES
    audible = levels_db[first:] > np.quantile(levels_db, LOUD_QUANTILE) - AUDIBLE_DB
    is_speech = audible.sum() * LEVEL_SAMPLES > seconds_to_samples(UNHEARD_S / 2)
    return rest if is_speech and rest.start > chunk.start else None


def _levels_db(samples: Samples) -> np.ndarray:
    """Return the mean power of each 0.1 s, in dB."""
    whole = samples[: len(samples) // LEVEL_SAMPLES * LEVEL_SAMPLES].reshape(-1, LEVEL_SAMPLES)
    return 10 * np.log10(np.square(whole, dtype=np.float64).mean(axis=1) + 1e-10)


def _attempt(
    decoder: WindowDecoder,
    chunk: Chunk,
    samples: Samples,
    language: str | None,
    previous_ids: Sequence[int],
) -> Task[tuple[HeardWindow, bool]]:
    window = decoder.window(samples, language=language)
    seed = decoder.settings.seed + chunk.start
    request = WindowRequest(window, tuple(previous_ids), seed=seed)
    judged: Judged = yield from decode_with_fallback(request, decoder.settings, stricter=loops)
    start_s, end_s = samples_to_seconds(chunk.start), samples_to_seconds(chunk.stop)
    decoded = judged.window
    segments: list[TimedSegment] = []
    if not is_silence(decoded, decoder.settings):
        segments = split_segments(
            decoded.token_ids, decoder.tokenizer, start_s=start_s, end_s=end_s
        )
    heard = hear(decoder, window, decoded, segments, start_s=start_s, end_s=end_s)
    return heard, judged.failure is not None
