"""What was heard in a window, on the recording's clock: segments, and words with their times."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from distilwhisper.decoding.alignment import (
    align_words,
    alignment_heads,
    trim_words,
    upper_half_heads,
)
from distilwhisper.decoding.segments import TimedSegment, TimedWord, split_words
from distilwhisper.decoding.windows import DecodedWindow, Window, WindowDecoder
from distilwhisper.speech.audio import HOP_SAMPLES
from distilwhisper.text.normalize import uses_spaces
from distilwhisper.text.transcript import Word

FRAME_SAMPLES = 2 * HOP_SAMPLES  # of the encoder: 20 ms


@dataclass(frozen=True)
class HeardWindow:
    """A window's text, with times."""

    decoded: DecodedWindow
    start_s: float
    end_s: float  # of the sound
    segments: tuple[TimedSegment, ...]
    words: tuple[TimedWord, ...]


def hear(
    decoder: WindowDecoder,
    window: Window,
    decoded: DecodedWindow,
    segments: Sequence[TimedSegment],
    *,
    start_s: float,
    end_s: float,
) -> HeardWindow:
    """Add words to a decoded window: timed by attention if the settings say so, else estimated."""
    words = split_words(segments, decoder.tokenizer, spaced=uses_spaces(decoded.language))
    if decoder.settings.word_timestamps and words:
        words = _time_words(decoder, window, words, segments, start_s=start_s)
    return HeardWindow(decoded, start_s, end_s, tuple(segments), tuple(words))


def _time_words(
    decoder: WindowDecoder,
    window: Window,
    words: Sequence[TimedWord],
    segments: Sequence[TimedSegment],
    *,
    start_s: float,
) -> list[TimedWord]:
    checkpoint, tokenizer = decoder.checkpoint, decoder.tokenizer
    config = checkpoint.model.config
    assert window.encoder_states is not None
    with decoder.lock:
        timed = align_words(
            checkpoint.model,
            window.encoder_states,
            [word.token_ids for word in words],
            prompt_ids=tokenizer.prompt_ids(
                language=window.language if tokenizer.is_multilingual else None,
                task=decoder.settings.task,
                timestamps=False,
            ),
            tokenizer=tokenizer,
            heads=alignment_heads(checkpoint.generation_config, config) or upper_half_heads(config),
            n_frames=min(-(-window.n_samples // FRAME_SAMPLES), len(window.encoder_states)),
        )
    by_segment: list[list[Word]] = [[] for _ in segments]
    for word, one in zip(words, timed, strict=True):
        placed = replace(one, start_s=start_s + one.start_s, end_s=start_s + one.end_s)
        by_segment[word.segment].append(placed)
    spans = [(segment.start_s, segment.end_s) for segment in segments]
    trimmed = chain.from_iterable(trim_words(by_segment, spans, spoken_s=start_s))
    return [
        replace(word, start_s=one.start_s, end_s=one.end_s, probability=one.probability)
        for word, one in zip(words, trimmed, strict=True)
    ]
