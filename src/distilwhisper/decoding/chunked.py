"""One chunk of a long recording: decoded, judged, and decoded in two halves where it failed."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from distilwhisper.decoding.alignment import TimedWindow, text_end_s, time_window
from distilwhisper.decoding.failure import decode_with_fallback, is_silence, loops, loops_already
from distilwhisper.decoding.segments import split_segments
from distilwhisper.decoding.windows import Task, WindowDecoder, WindowRequest
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.levels import LEVEL_SAMPLES, is_audible, sounding_spans
from distilwhisper.speech.units import samples_to_seconds, seconds_to_samples
from distilwhisper.text.tokens import Tokenizer

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


@dataclass(frozen=True, eq=False)
class Chunk:
    """A chunk of a recording, or a part of one."""

    start: int  # of its samples in the recording
    samples: Samples
    shared_s: float = 0.0  # of its end, which the next chunk holds too
    language: str | None = None  # a code; None: to be detected

    @property
    def start_s(self) -> float:
        """Where it begins in the recording."""
        return samples_to_seconds(self.start)

    @property
    def end_s(self) -> float:
        """Where it ends in the recording."""
        return samples_to_seconds(self.start + len(self.samples))

    def part(self, first: int, stop: int) -> "Chunk":
        """Return some of its samples."""
        behind_s = samples_to_seconds(len(self.samples) - stop)
        samples, shared_s = self.samples[first:stop], self.shared_s - behind_s
        return Chunk(self.start + first, samples, shared_s, self.language)


def decode_chunk(decoder: WindowDecoder, chunk: Chunk) -> Task[list[TimedWindow]]:
    """Decode a chunk.

    Where the text ends long before the speech does, the rest is decoded as a window of its own.
    Where no temperature gives a text that is to be believed, the chunk is cut in two: a loop that
    one window leads into is rarely met from another beginning.

    Returns:
        The windows of the chunk, or of its parts; none where it is silent, or shorter than a word.
    """
    samples = chunk.samples
    if len(samples) < seconds_to_samples(SHORTEST_S) or np.abs(samples).max() < SILENT_PEAK:
        return []
    windows: list[TimedWindow] = []
    for span in sounding_spans(samples, pause_s=PAUSE_S):
        part = chunk.part(span.start, span.stop)
        known = chunk.language or (windows[0].decoded.language if windows else None)
        windows += yield from _decode_part(decoder, replace(part, language=known))
    return windows


def _decode_part(decoder: WindowDecoder, part: Chunk) -> Task[list[TimedWindow]]:
    whole = yield from _attempt(decoder, part)
    n_samples, share = len(part.samples), seconds_to_samples(HALVES_SHARE_S)
    is_long = (n_samples + share) // 2 >= seconds_to_samples(SHORTEST_HALF_S)
    if whole.decoded.failure and is_long:
        middle = n_samples // 2
        first = yield from _attempt(decoder, part.part(0, middle + share // 2))
        second = yield from _attempt(decoder, part.part(middle - share // 2, n_samples))
        have_failed = first.decoded.failure and second.decoded.failure
        return [whole] if have_failed else [first, second]
    windows = [whole]
    while (rest := _rest(windows[-1], part, decoder.tokenizer)) is not None:
        more = yield from _attempt(decoder, rest)
        if more.decoded.failure or not more.segments:
            break
        windows[-1] = replace(windows[-1], end_s=rest.start_s)
        windows.append(more)
        if more.segments[-1].end_s - more.start_s < CRAWL_S:
            break
    return windows


def _rest(window: TimedWindow, part: Chunk, tokenizer: Tokenizer) -> Chunk | None:
    """Return what lies behind a window's text, if it is speech that is in no other chunk.

    Two timestamps at the end of a text say that more is spoken behind them.
    """
    if not window.segments:
        return None
    end_s = window.segments[-1].end_s
    is_unfinished = all(map(tokenizer.is_timestamp, window.decoded.token_ids[-2:]))
    least_s = UNFINISHED_S if is_unfinished else LEFT_S
    first = seconds_to_samples(end_s) - part.start
    if part.end_s - end_s <= max(least_s, part.shared_s) or first <= 0:
        return None
    audible = is_audible(part.samples)[first // LEVEL_SAMPLES :]
    is_speech = audible.sum() * LEVEL_SAMPLES > seconds_to_samples(least_s / 2)
    return part.part(first, len(part.samples)) if is_speech else None


def _attempt(decoder: WindowDecoder, part: Chunk) -> Task[TimedWindow]:
    settings, start_s, end_s = decoder.settings, part.start_s, part.end_s
    window = decoder.window(part.samples, language=part.language)
    seed = settings.seed + part.start
    request = WindowRequest(decoder, window, decoder.previous_ids, seed=seed)
    hopeless = partial(loops_already, request)
    decoded = yield from decode_with_fallback(request, stricter=loops, hopeless=hopeless)
    token_ids = () if is_silence(decoded, settings) else decoded.token_ids
    segments = split_segments(token_ids, decoder.tokenizer, start_s=start_s, end_s=end_s)
    if segments and not settings.timestamps:
        text_end = start_s + text_end_s(request, decoded)
        if text_end < end_s - LEFT_S:  # nearer to the end the estimate is as good
            segments[-1] = replace(segments[-1], end_s=text_end)
    return time_window(request, decoded, segments, start_s=start_s, end_s=end_s)
