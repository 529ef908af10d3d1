"""One chunk of a long recording: decoded, judged, and decoded in two halves where it failed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from distilwhisper.decoding.chunks import Chunk
from distilwhisper.decoding.failure import Judged, decode_with_fallback, is_silence, loops
from distilwhisper.decoding.heard import HeardWindow, hear, moves_on, text_end_s
from distilwhisper.decoding.segments import TimedSegment, split_segments
from distilwhisper.decoding.windows import Task, WindowDecoder, WindowRequest
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.levels import LEVEL_SAMPLES, levels_db, sounding_spans
from distilwhisper.speech.units import samples_to_seconds, seconds_to_samples

# Halves of a failed chunk share this much, and a chunk is not cut when they would be shorter.
HALVES_SHARE_S = 4.0
SHORTEST_HALF_S = 7.0

# A chunk that never leaves the last bits of 16 is not decoded: the log-mel would make it louder.
SILENT_PEAK = 1e-4

# What lies between pauses of this length is decoded as a window of its own: a model that meets one
# in a window often ends the text there, and its timestamps are wrong by the length of the pause.
PAUSE_S = 3.0

# Speech behind the end of a text is decoded again when it lasts longer than this, the shorter one
# where the model says that it left something. It is speech where the level, over 0.1 s, comes near
# to that of the louder parts.
UNHEARD_S, UNFINISHED_S = 3.0, 0.6
CRAWL_S = 0.5  # text that ends sooner does not move on: no third window is begun behind it
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
    parts: list[HeardWindow] = []
    for span in sounding_spans(samples, pause_s=PAUSE_S):
        part = Chunk(chunk.start + span.start, chunk.start + span.stop)
        not_again_s = samples_to_seconds(chunk.stop - part.stop)
        parts += yield from _decode_part(
            decoder,
            part,
            samples[span.start : span.stop],
            language or (parts[0].decoded.language if parts else None),
            previous_ids,
            max(heard_again_s - not_again_s, 0.0),
        )
    return parts


def _decode_part(
    decoder: WindowDecoder,
    chunk: Chunk,
    samples: Samples,
    language: str | None,
    previous_ids: Sequence[int],
    heard_again_s: float,
) -> Task[list[HeardWindow]]:
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
    is_timestamp = decoder.tokenizer.is_timestamp
    while (rest := _unheard(parts[-1], chunk, samples, heard_again_s, is_timestamp)) is not None:
        left = samples[rest.start - chunk.start :]
        more, failed = yield from _attempt(decoder, rest, left, language, previous_ids)
        if failed or not more.segments:
            break
        parts[-1] = replace(parts[-1], end_s=samples_to_seconds(rest.start))
        parts.append(more)
        if more.segments[-1].end_s - more.start_s < CRAWL_S:
            break
    return parts


def _unheard(
    heard: HeardWindow,
    chunk: Chunk,
    samples: Samples,
    heard_again_s: float,
    is_timestamp: Callable[[int], bool],
) -> Chunk | None:
    """Return what lies behind a part's text, if it is speech that nobody else hears.

    Two timestamps at the end of a text say that more is spoken behind them.
    """
    if not heard.segments:
        return None
    end_s = heard.segments[-1].end_s
    says_more = all(map(is_timestamp, heard.decoded.token_ids[-2:]))
    least_s = UNFINISHED_S if says_more else UNHEARD_S
    if samples_to_seconds(chunk.stop) - end_s <= max(least_s, heard_again_s):
        return None
    rest = Chunk(seconds_to_samples(end_s), chunk.stop)
    levels = levels_db(samples)
    first = (rest.start - chunk.start) // LEVEL_SAMPLES
    audible = levels[first:] > np.quantile(levels, LOUD_QUANTILE) - AUDIBLE_DB
    is_speech = audible.sum() * LEVEL_SAMPLES > seconds_to_samples(least_s / 2)
    return rest if is_speech and rest.start > chunk.start else None


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
    judged: Judged = yield from decode_with_fallback(
        request, decoder.settings, stricter=loops, moves_on=partial(moves_on, decoder, window)
    )
    start_s, end_s = samples_to_seconds(chunk.start), samples_to_seconds(chunk.stop)
    decoded = judged.window
    segments: list[TimedSegment] = []
    if not is_silence(decoded, decoder.settings):
        segments = split_segments(
            decoded.token_ids, decoder.tokenizer, start_s=start_s, end_s=end_s
        )
    if segments and not decoder.settings.timestamps:
        text_end = start_s + text_end_s(decoder, window, decoded)
        if text_end < end_s - UNHEARD_S:  # nearer to the end the estimate is as good
            segments[-1] = replace(segments[-1], end_s=text_end)
    heard = hear(decoder, window, decoded, segments, start_s=start_s, end_s=end_s)
    return heard, judged.failure is not None
