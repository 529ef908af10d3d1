"""One chunk of a long recording: decoded, judged, and decoded in two halves where it failed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from distilwhisper.decoding.chunks import Chunk
from distilwhisper.decoding.failure import decode_with_fallback, is_silence, loops
from distilwhisper.decoding.segments import TimedSegment, split_segments
from distilwhisper.decoding.timing import TimedWindow, moves_on, text_end_s, time_window
from distilwhisper.decoding.windows import Task, WindowDecoder, WindowRequest
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.levels import LEVEL_SAMPLES, is_audible, sounding_spans
from distilwhisper.speech.units import Span, samples_to_seconds, seconds_to_samples

# Halves of a failed chunk share this much, and a chunk is not cut when they would be shorter.
HALVES_SHARE_S = 4.0
SHORTEST_HALF_S = 7.0

# A chunk that never leaves the last bits of 16 is not decoded: the log-mel would make it louder.
# Nor is one in which there is no time for a word.
SILENT_PEAK, SHORTEST_S = 1e-4, 0.1

# What lies between pauses of this length is decoded as a window of its own: a model that meets one
# in a window often ends the text there, and its timestamps are wrong by the length of the pause.
PAUSE_S = 3.0

# Speech behind the end of a text is decoded again when it lasts longer than this, the shorter one
# where the model says that it left something.
LEFT_S, UNFINISHED_S = 3.0, 0.6
CRAWL_S = 0.5  # text that ends sooner does not move on: no third window is begun behind it


def decode_chunk(
    decoder: WindowDecoder,
    chunk: Chunk,
    samples: Samples,
    *,
    language: str | None,
    previous_ids: Sequence[int] = (),
) -> Task[list[TimedWindow]]:
    """Decode a chunk; a task for :meth:`WindowDecoder.run`.

    Where the text ends long before the speech does, the rest is decoded as a window of its own.
    Where no temperature gives a text that is to be believed, the chunk is cut in two: a loop that
    one window leads into is rarely met from another beginning.

    Without a language it is detected.

    Returns:
        The windows of the chunk, or of its parts; none where it is silent, or shorter than a word.
    """
    if len(samples) < seconds_to_samples(SHORTEST_S) or np.abs(samples).max() < SILENT_PEAK:
        return []
    windows: list[TimedWindow] = []
    for span in sounding_spans(samples, pause_s=PAUSE_S):
        part = Span(chunk.start + span.start, chunk.start + span.stop)
        known = language or (windows[0].decoded.language if windows else None)
        windows += yield from _decode_part(
            partial(_attempt, decoder, language=known, previous_ids=previous_ids),
            part,
            samples[span.start : span.stop],
            samples_to_seconds(chunk.shared - (chunk.stop - part.stop)),
            decoder.tokenizer.is_timestamp,
        )
    return windows


def _decode_part(
    attempt: Callable[[Span, Samples], Task[TimedWindow]],
    part: Span,
    samples: Samples,
    shared_s: float,
    is_timestamp: Callable[[int], bool],
) -> Task[list[TimedWindow]]:
    whole = yield from attempt(part, samples)
    share = seconds_to_samples(HALVES_SHARE_S)
    middle = len(samples) // 2
    is_long = (len(samples) + share) // 2 >= seconds_to_samples(SHORTEST_HALF_S)
    if whole.decoded.failure and is_long:
        halves: list[TimedWindow] = []
        for first, stop in ((0, middle + share // 2), (middle - share // 2, len(samples))):
            half = Span(part.start + first, part.start + stop)
            halves.append((yield from attempt(half, samples[first:stop])))
        return halves if any(half.decoded.failure is None for half in halves) else [whole]
    windows = [whole]
    while (rest := _rest(windows[-1], part, samples, shared_s, is_timestamp)) is not None:
        more = yield from attempt(rest, samples[rest.start - part.start :])
        if more.decoded.failure or not more.segments:
            break
        windows[-1] = replace(windows[-1], end_s=samples_to_seconds(rest.start))
        windows.append(more)
        if more.segments[-1].end_s - more.start_s < CRAWL_S:
            break
    return windows


def _rest(
    window: TimedWindow,
    part: Span,
    samples: Samples,
    shared_s: float,
    is_timestamp: Callable[[int], bool],
) -> Span | None:
    """Return what lies behind a window's text, if it is speech that is in no other chunk.

    Two timestamps at the end of a text say that more is spoken behind them.
    """
    if not window.segments:
        return None
    end_s = window.segments[-1].end_s
    is_unfinished = all(map(is_timestamp, window.decoded.token_ids[-2:]))
    least_s = UNFINISHED_S if is_unfinished else LEFT_S
    if samples_to_seconds(part.stop) - end_s <= max(least_s, shared_s):
        return None
    rest = Span(seconds_to_samples(end_s), part.stop)
    first = (rest.start - part.start) // LEVEL_SAMPLES
    audible = is_audible(samples)[first:]
    is_speech = audible.sum() * LEVEL_SAMPLES > seconds_to_samples(least_s / 2)
    return rest if is_speech and rest.start > part.start else None


def _attempt(
    decoder: WindowDecoder,
    part: Span,
    samples: Samples,
    *,
    language: str | None,
    previous_ids: Sequence[int],
) -> Task[TimedWindow]:
    window = decoder.window(samples, language=language)
    seed = decoder.settings.seed + part.start
    request = WindowRequest(window, tuple(previous_ids), seed=seed)
    decoded = yield from decode_with_fallback(
        request, decoder.settings, stricter=loops, moves_on=partial(moves_on, decoder, window)
    )
    start_s, end_s = samples_to_seconds(part.start), samples_to_seconds(part.stop)
    segments: list[TimedSegment] = []
    if not is_silence(decoded, decoder.settings):
        segments = split_segments(
            decoded.token_ids, decoder.tokenizer, start_s=start_s, end_s=end_s
        )
    if segments and not decoder.settings.timestamps:
        text_end = start_s + text_end_s(decoder, window, decoded)
        if text_end < end_s - LEFT_S:  # nearer to the end the estimate is as good
            segments[-1] = replace(segments[-1], end_s=text_end)
    return time_window(decoder, window, decoded, segments, start_s=start_s, end_s=end_s)
