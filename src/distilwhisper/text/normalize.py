"""One spelling for what sounds alike, so that two transcripts can be compared."""

import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

from distilwhisper.text.tokens import language_code

with warnings.catch_warnings():
    # A docstring in the library holds "\X": a warning to every user whose Python compiles it.
    warnings.simplefilter("ignore")
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

Normalizer: TypeAlias = Callable[[str], str]

_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue", "km", "bo"})

# Rules of the library that neither Whisper's released code nor transformers has. "cause" is a
# common word: with them, an error rate is no longer the one that others publish.
_NOT_IN_WHISPER = (r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b")

# Python refuses to read an integer of more than 4,300 digits. No speaker says one, but a
# decoder that is caught in a loop writes one.
_MAX_DIGITS = 4_000
_TOO_MANY_DIGITS = re.compile(rf"(?:\d,?){{{_MAX_DIGITS}}}")


def normalizer_for(language: str | None) -> Normalizer:
    """The normaliser with which transcripts of a language are compared.

    English has Whisper's English one: lower case, no fillers or bracketed remarks, numbers
    as digits, contractions spelled out, American spelling. Any other language has the basic
    one: lower case, no bracketed remarks, a space for every symbol and mark. The result may
    begin or end with a space.

    Both give what openai-whisper 20250625 and transformers 5 give. Letters are not split for
    scripts without spaces: see :func:`uses_spaces`.

    Args:
        language: code or English name of the spoken language. There is no default on purpose:
            the basic normaliser on English gives another error rate, and nothing shows it.

    Raises:
        ValueError: the language is None or unknown to Whisper.

    Source: arXiv:2212.04356, appendix C; package whisper-normalizer, less four rules that
    it adds to Whisper's (kinda, sorta, dunno, cause).
    """
    if language is None:
        raise ValueError(
            "a language must be given to choose a normaliser, found None; name the language "
            'of the transcripts ("en" for the English normaliser)'
        )
    return _normalize_english if language_code(language) == "en" else _normalize_basic


def uses_spaces(language: str) -> bool:
    """Whether words of a language are separated by spaces, so that a word error rate exists.

    False for Chinese, Cantonese, Japanese, Thai, Lao, Burmese, Khmer and Tibetan: judge those
    by characters.

    Args:
        language: code or English name.

    Raises:
        ValueError: the language is unknown to Whisper.

    Source: the first six are those that Whisper splits into characters (openai/whisper,
    whisper/tokenizer.py, ``split_to_word_tokens``). Khmer has no spaces between words, and
    Tibetan marks syllables and not words: Unicode Standard Annex 14, on class SA and Tibetan.
    """
    return language_code(language) not in _WITHOUT_SPACES


def _normalize_english(text: str) -> str:
    if len(text) > _MAX_DIGITS:
        text = _TOO_MANY_DIGITS.sub(r"\g<0> ", text)
    return str(_english()(text))


def _normalize_basic(text: str) -> str:
    return str(_basic()(text))


@cache
def _english() -> Normalizer:
    english = EnglishTextNormalizer()
    for pattern in _NOT_IN_WHISPER:
        del english.replacers[pattern]
    return english


@cache
def _basic() -> Normalizer:
    return BasicTextNormalizer()
