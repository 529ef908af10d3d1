"""A window's text on the recording's clock: segments, and words with their times."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distilwhisper.decoding.alignment import Aligner, alignment_heads, trim_words, upper_half_heads
from distilwhisper.decoding.segments import TimedSegment, TimedWord, split_words
from distilwhisper.decoding.windows import DecodedWindow, Window, WindowDecoder
from distilwhisper.languages import uses_spaces
from distilwhisper.shapes import Float64
from distilwhisper.speech.units import HOP_SAMPLES

FRAME_SAMPLES = 2 * HOP_SAMPLES  # of the encoder: 20 ms

# A text moves on in the sound if this share of its tokens looks later than those so many before,
# by this much a token at least. Of a sentence spoken over and over it was 0.75 or more, of a loop
# of the same words 0.46.
TOKENS_APART, LEAST_TOKEN_S, MOVING_SHARE = 16, 1 / 32, 0.7
LAST_TOKENS = 3  # one of them looks at the end of the text


@dataclass(frozen=True)
class TimedWindow:
    """A window's text, with times."""

    decoded: DecodedWindow
    start_s: float
    end_s: float  # of the sound
    segments: tuple[TimedSegment, ...]
    words: tuple[TimedWord, ...]


def time_window(
    decoder: WindowDecoder,
    window: Window,
    decoded: DecodedWindow,
    segments: Sequence[TimedSegment],
    *,
    start_s: float,
    end_s: float,
) -> TimedWindow:
    """Add words to a decoded window: timed by attention if the settings want it, else estimated."""
    spaced = uses_spaces(decoded.language)
    words = split_words(segments, decoder.tokenizer, spaced=spaced, logprobs=decoded.logprobs)
    if decoder.settings.word_timestamps and words:
        with decoder.searches.lock:
            words = _aligner(decoder, window).place(words, start_s=start_s)
        spans = [(segment.start_s, segment.end_s) for segment in segments]
        words = trim_words(words, spans, spoken_s=start_s)
    return TimedWindow(decoded, start_s, end_s, tuple(segments), tuple(words))


def moves_on(decoder: WindowDecoder, window: Window, decoded: DecodedWindow) -> bool:
    """Return whether a decoder looked further on in the sound as it wrote its text.

    It does where the same thing is spoken several times. In a loop it looks at one place, or
    returns to it with each turn.
    """
    if not decoded.finished:
        return False
    places_s = _places_s(decoder, window, decoded)
    if len(places_s) < 2:
        return False
    apart = min(TOKENS_APART, len(places_s) // 2)
    moved_s = places_s[apart:] - places_s[:-apart]
    return float(np.mean(moved_s > apart * LEAST_TOKEN_S)) >= MOVING_SHARE


def text_end_s(decoder: WindowDecoder, window: Window, decoded: DecodedWindow) -> float:
    """Return where in its window a text ends, in seconds, by where the decoder looked last."""
    return float(_places_s(decoder, window, decoded)[-LAST_TOKENS:].max())


def _places_s(
    decoder: WindowDecoder, window: Window, decoded: DecodedWindow
) -> Float64[np.ndarray, " tokens"]:
    text = [i for i in decoded.token_ids if not decoder.tokenizer.is_special(i)]
    with decoder.searches.lock:
        return _aligner(decoder, window).attended_s(text)


def _aligner(decoder: WindowDecoder, window: Window) -> Aligner:
    model, settings, tokenizer = decoder.checkpoint.model, decoder.settings, decoder.tokenizer
    named = alignment_heads(decoder.checkpoint.generation_config, model.config)
    states = window.encoder_states
    assert states is not None
    return Aligner(
        model,
        states,
        tokenizer.prompt_ids(language=window.language, task=settings.task, timestamps=False),
        tokenizer,
        named or upper_half_heads(model.config),
        min(-(-window.n_samples // FRAME_SAMPLES), len(states)),
        window.kept,
    )
