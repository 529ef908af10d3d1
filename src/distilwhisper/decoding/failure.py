"""Whether a window's text is to be believed, and what to try when it is not.

Source: ``openai/whisper: whisper/transcribe.py``, decode_with_fallback; the thresholds and what
they are compared with are its. Repetition is our own, for chunks: a loop at the end of a chunk
that holds much good text stays below the compression threshold.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from distilwhisper.decoding.alignment import moves_on
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.windows import DecodedWindow, Task, WindowRequest
from distilwhisper.languages import uses_spaces

MAX_REPEATS = 4  # a phrase repeated more often than this in a row is a loop
MAX_PHRASE_WORDS = 8


def decode_with_fallback(
    request: WindowRequest,
    *,
    stricter: Callable[[DecodedWindow], str | None] | None = None,
    hopeless: Callable[[Sequence[int]], bool] | None = None,
    excuse: Callable[[WindowRequest, DecodedWindow], bool] = moves_on,
) -> Task[DecodedWindow]:
    """Decode a window at each of the settings' temperatures until its text is to be believed.

    A window whose silence was cut off gets it back, for good, before it is tried any hotter. Texts
    that pass the thresholds may have a ``stricter`` judge. There may be an ``excuse`` for a first
    text that only repeats itself: that it follows the sound. Between the first text and the last,
    one that the judge will not pass, as its beginning is ``hopeless``, is not decoded to its end.

    Returns:
        The attempt that is believed; or else the likeliest, of those that do not repeat themselves
        if there are any, and of the others the last. Its ``failure`` tells which.
    """
    settings = request.decoder.settings
    attempts: list[DecodedWindow] = []
    for temperature in settings.temperature:
        is_whole = not attempts or temperature == settings.temperature[-1]
        attempt = replace(request, temperature=temperature, hopeless=None if is_whole else hopeless)
        window = yield attempt
        if request.window.whole_mel is not None and _needs_whole(window, settings):
            request.window.uncut()
            window = yield attempt
        failure = why_failed(window, settings) or (stricter(window) if stricter else None)
        if failure and not attempts and _repeats_only(window, settings):
            failure = None if excuse(request, window) else failure
        attempts.append(replace(window, failure=failure))
        if failure is None:
            return attempts[-1]
    unlikely = [one for one in attempts if not _repeats_itself(one, settings)]
    return max(unlikely or attempts[-1:], key=lambda one: one.avg_logprob)


def _repeats_only(window: DecodedWindow, settings: DecodingSettings) -> bool:
    anyhow = replace(settings, compression_ratio_threshold=None)
    return _repeats_itself(window, settings) and why_failed(window, anyhow) is None


def _repeats_itself(window: DecodedWindow, settings: DecodingSettings) -> bool:
    most = settings.compression_ratio_threshold
    return loops(window) is not None or (most is not None and window.compression_ratio > most)


def _needs_whole(window: DecodedWindow, settings: DecodingSettings) -> bool:
    """Return whether less than 30 s of context may be why a window's text is what it is.

    Models that never saw less loop, find no end, fail the thresholds, or find no text.
    """
    is_text = window.finished and window.text and not is_silence(window, settings)
    return not is_text or bool(loops(window) or why_failed(window, settings))


def why_failed(window: DecodedWindow, settings: DecodingSettings) -> str | None:
    """Return which threshold a window's text fails; None where it passes or is silence."""
    if is_silence(window, settings):
        return None
    ratio, logprob = settings.compression_ratio_threshold, settings.logprob_threshold
    if ratio is not None and window.compression_ratio > ratio:
        return f"compression ratio {window.compression_ratio:.1f} over {ratio:g}"
    if logprob is not None and window.avg_logprob < logprob:
        return f"average log-probability {window.avg_logprob:.2f} under {logprob:g}"
    return None


def is_silence(window: DecodedWindow, settings: DecodingSettings) -> bool:
    """Return whether nobody speaks: no-speech is likely, and the text is not."""
    likely, logprob = settings.no_speech_threshold, settings.logprob_threshold
    if likely is None or not window.no_speech_prob > likely:  # it may be unknown: nan
        return False
    return logprob is None or window.avg_logprob <= logprob


def loops(window: DecodedWindow) -> str | None:
    """Return how a window's text repeats itself, if it does."""
    words = _words(window.text, window.language)
    return "a phrase repeated over and over" if repeats(words) else None


def loops_already(request: WindowRequest, token_ids: Sequence[int]) -> bool:
    """Return whether a text that begins with these tokens loops, however it goes on."""
    text = request.decoder.tokenizer.decode(token_ids).strip()
    return repeats(_words(text, request.window.language or "en")[:-1])  # the last one may go on


def _words(text: str, language: str) -> list[str]:
    return text.split() if uses_spaces(language) else list(text)


def repeats(words: Sequence[str]) -> bool:
    """Return whether a text repeats one phrase over and over, more than ``MAX_REPEATS`` times."""
    for size in range(1, MAX_PHRASE_WORDS + 1):
        run = 0  # words that equal the one a phrase before
        for word, before in zip(words[size:], words, strict=False):
            run = run + 1 if word == before else 0
            if run >= size * MAX_REPEATS:
                return True
    return False
