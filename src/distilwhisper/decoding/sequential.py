"""A long recording window by window: each begins where the timestamps of the last one ended.

Source: ``openai/whisper: whisper/transcribe.py``; with the same weights and settings the text is
the same, as long as nothing is sampled.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from distilwhisper.decoding.failure import decode_with_fallback, is_silence
from distilwhisper.decoding.segments import TimedSegment, runs_of_text, text_segment
from distilwhisper.decoding.timing import TimedWindow, moves_on, time_window
from distilwhisper.decoding.windows import Task, WindowDecoder, WindowRequest
from distilwhisper.speech.mel import RecordingMel
from distilwhisper.speech.units import HOP_SAMPLES, SAMPLE_RATE_HZ, Span
from distilwhisper.text.tokens import TIMESTAMPS_PER_SECOND, Tokenizer

FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES  # what "seek" is counted in
FRAMES_PER_TIMESTAMP = 2
HOT = 0.5  # text sampled above this temperature is in no prompt
# A window that ends its text this early, so many times in a row, is left for the next one: a model
# that writes timestamps alone would go on in steps of 20 ms.
CRAWL_FRAMES, MAX_CRAWLS = 100, 3


def decode_sequentially(
    decoder: WindowDecoder,
    mel: RecordingMel,
    spans: Iterable[Span],
    *,
    language: str,
    on_progress: Callable[[float], None],
    on_window: Callable[[TimedWindow], None],
) -> Task[None]:
    """Decode spans of a recording from front to back; a task for :meth:`WindowDecoder.run`.

    Where languages are mixed, the language is that of windows whose own is in doubt. The seconds of
    audio just done are reported, and each window that holds text, as soon as it is known.
    """
    settings, tokenizer = decoder.settings, decoder.tokenizer
    before = list(decoder.first_prompt)
    seek = crawls = 0
    for span in spans:
        seek = max(seek, span.start // HOP_SAMPLES)
        while True:
            frames, n_frames = mel.window(seek, -(-span.stop // HOP_SAMPLES))
            if not n_frames:
                break
            own_language = None if settings.multilingual else language
            window = decoder.window_of(frames, n_frames * HOP_SAMPLES, language=own_language)
            previous = tuple(tokenizer.previous_ids(before, hotwords=decoder.hotwords))
            request = WindowRequest(window, previous, seed=settings.seed + seek)
            goes_on = partial(moves_on, decoder, window)
            decoded = yield from decode_with_fallback(request, settings, moves_on=goes_on)
            if window.language != language and not decoded.own_language.is_sure:
                window.language = language
                decoded = yield from decode_with_fallback(request, settings, moves_on=goes_on)
            if is_silence(decoded, settings):
                seek += n_frames
                on_progress(n_frames / FRAMES_PER_SECOND)
                continue
            start_s = seek / FRAMES_PER_SECOND
            end_s = start_s + n_frames / FRAMES_PER_SECOND
            pieces, moved = split_window(
                decoded.token_ids, tokenizer, start_s=start_s, n_frames=n_frames
            )
            segments = [segment for segment, _ in pieces]
            on_window(time_window(decoder, window, decoded, segments, start_s=start_s, end_s=end_s))
            if decoded.temperature > HOT or not settings.condition_on_previous_text:
                before = []
            else:
                before += [token_id for _, ids in pieces for token_id in ids]
            crawls = crawls + 1 if moved < CRAWL_FRAMES else 0
            moved = n_frames if crawls > MAX_CRAWLS else moved
            seek += moved
            on_progress(moved / FRAMES_PER_SECOND)


def split_window(
    token_ids: Sequence[int], tokenizer: Tokenizer, *, start_s: float, n_frames: int
) -> tuple[list[tuple[TimedSegment, Sequence[int]]], int]:
    """Cut the tokens of a window, of ``n_frames`` of 10 ms, and find where the next one begins.

    Two timestamps in a row end one segment and begin the next. The last segment is left to the
    next window, which begins with it, unless a single timestamp ended it.

    Returns:
        The segments that hold text, each with its ids as decoded, and the frames to move on by.
    """
    is_time = [tokenizer.is_timestamp(token_id) for token_id in token_ids]
    cuts = [i for i in range(1, len(token_ids)) if is_time[i - 1] and is_time[i]]
    end, moved = len(token_ids), n_frames
    if not cuts:
        times = [i for i, is_one in zip(token_ids, is_time, strict=True) if is_one]
        spoken_s = tokenizer.timestamp_s(times[-1]) if times else 0.0
        spans = [(start_s, start_s + (spoken_s or n_frames / FRAMES_PER_SECOND), slice(0, end))]
    else:
        if is_time[-2:] != [False, True]:
            end = cuts[-1]
            moved = (token_ids[end - 1] - tokenizer.timestamp_begin) * FRAMES_PER_TIMESTAMP
        spans = [
            (
                start_s + (run.opened or 0) / TIMESTAMPS_PER_SECOND,
                start_s + (run.closed or 0) / TIMESTAMPS_PER_SECOND,
                slice(max(run.text.start - 1, 0), run.text.stop + 1),
            )
            for run in runs_of_text(token_ids, tokenizer)
            if run.text.stop < end
        ]
    segments = [
        (text_segment(token_ids, part, tokenizer, start_s=start, end_s=stop), token_ids[part])
        for start, stop, part in spans
    ]
    spoken = [
        (one, ids)
        for one, ids in segments
        if one.end_s > one.start_s and tokenizer.decode(one.token_ids).strip()
    ]
    return spoken, moved
