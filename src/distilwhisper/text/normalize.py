"""One spelling for what sounds alike, so that two transcripts can be compared."""

import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import TypeAlias

from distilwhisper.extras import needed_by
from distilwhisper.languages import language_code, uses_spaces

with needed_by("comparing texts", extra="train"), warnings.catch_warnings():
    # A docstring in the library holds "\X": a warning to every user whose Python compiles it.
    warnings.simplefilter("ignore")
    from whisper_normalizer.basic import BasicTextNormalizer, remove_symbols
    from whisper_normalizer.english import EnglishTextNormalizer

Normalizer: TypeAlias = Callable[[str], str]

# Letters of the scripts of languages without spaces: Thai, Lao, Tibetan, Burmese, Khmer, kana, Han.
_UNSPACED_LETTER = re.compile(
    r"(?![\W\d_])[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
)

# Rules of the library that neither Whisper's released code nor transformers has. "cause" is a
# common word: with them, an error rate is no longer the one that others publish.
_NOT_IN_WHISPER = (r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b")

# Python refuses to read an integer of more than 4,300 digits. Nobody pronounces one, but a
# decoder that loops writes one.
_TOO_MANY_DIGITS = re.compile(r"(?:\d,?){4000}")


def normalizer_for(language: str | None) -> Normalizer:
    """The normaliser with which transcripts of a language are compared.

    English has the rules of :func:`whisper_normalizer_for`. Any other language has Whisper's basic
    rules, except that they respect the marks of its script (see :func:`_respecting_marks`): vowel
    signs stay in their word, optional points are dropped. In every language what holds no letter
    and no digit, as the dot that Whisper's rules leave of a final ellipsis, is not a word.

    The language must be known, on purpose: the basic rules on English give another error rate, and
    nothing shows it. None or a language unknown to Whisper is a ValueError.
    """
    return _NORMALIZERS.get(_known_code(language), _OTHER)


def whisper_normalizer_for(language: str | None) -> Normalizer:
    """Whisper's own normaliser for a language: the one with which public leaderboards count.

    English: lower case, no fillers or bracketed remarks, numbers as digits, contractions spelled
    out, American spelling. Any other language: lower case, no bracketed remarks, a space for every
    symbol and mark. The result may begin or end with a space, and may hold a lone full stop. Both
    give what openai-whisper 20250625 and transformers 5 give, without splitting letters of scripts
    without spaces.

    Source: arXiv:2212.04356, appendix C; package whisper-normalizer, less four rules of its own.
    """
    return _whisper_english if _known_code(language) == "en" else _BASIC


def _known_code(language: str | None) -> str:
    if language is not None:
        return language_code(language)
    raise ValueError(
        "a language must be given to choose a normaliser, found None; name the language of the "
        'transcripts ("en" for the English normaliser)'
    )


def is_written_with_spaces(text: str) -> bool:
    """Whether a text of unknown language has spaces between its words, by most letters' script."""
    letters = sum(map(str.isalpha, text))
    return len(_UNSPACED_LETTER.findall(text)) <= letters / 2


@dataclass(frozen=True)
class ScoringRule:
    """How a hypothesis is compared with a reference; see :func:`scoring_rule`."""

    normalize: Normalizer
    whisper_normalize: Normalizer  # Whisper's own rules, for comparison with published figures
    spaced: bool  # whether words are counted; else characters

    def split(self, text: str) -> list[str]:
        """Return what is counted of a text, normalised: its words, or its characters."""
        words = self.normalize(text).split()
        return words if self.spaced else list("".join(words))


def scoring_rule(reference: str | None, language: str | None) -> ScoringRule:
    """Return how every hypothesis of an utterance is compared with its reference.

    The rule does not depend on a hypothesis, so that all models are compared in one way. An unknown
    language is guessed from the reference: the normaliser is the English one where at least half of
    the letters are those of English, and words are counted where the script has spaces between
    them. So name the language of texts in Latin letters that are not English. One unknown to
    Whisper is a ValueError.
    """
    if language is not None:
        return ScoringRule(
            normalizer_for(language), whisper_normalizer_for(language), uses_spaces(language)
        )
    letters = [*filter(str.isalpha, reference or "")]
    is_english = sum(map(str.isascii, letters)) >= len(letters) / 2
    ours, whispers = (_ENGLISH, _whisper_english) if is_english else (_OTHER, _BASIC)
    return ScoringRule(ours, whispers, is_written_with_spaces(reference or ""))


def _normalize(clean: Normalizer, text: str) -> str:
    """Clean a text, and drop what holds no letter and no digit."""
    return " ".join(word for word in clean(text).split() if any(map(str.isalnum, word)))


@lru_cache(maxsize=10_000)  # a text is often normalised twice: by Whisper's rules, then by ours
def _whisper_english(text: str) -> str:
    return _english()(_TOO_MANY_DIGITS.sub(r"\g<0> ", text))


@cache
def _english() -> EnglishTextNormalizer:
    english = EnglishTextNormalizer()
    for pattern in _NOT_IN_WHISPER:
        del english.replacers[pattern]
    return english


# Marks that a writer may leave out: Hebrew accents and points; Arabic vowel points, Quranic signs
# and the lengthening stroke. Hamza and madda (U+0653 to U+0655) are part of their letter.
_HEBREW_POINTS = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_ARABIC_POINTS = re.compile(
    "[\u0610-\u061a\u0640\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4"
    "\u06e7\u06e8\u06ea-\u06ed]"
)
# What steers how letters join and which way they run; nothing that is pronounced.
_INVISIBLE = re.compile(
    "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff]"
)
# Malayalam's chillu letters, written with a joiner before Unicode 5.1.
_CHILLU = re.compile("([\u0d23\u0d28\u0d30\u0d32\u0d33])\u0d4d\u200d")
_CHILLU_LETTERS = str.maketrans("\u0d23\u0d28\u0d30\u0d32\u0d33", "\u0d7a\u0d7b\u0d7c\u0d7d\u0d7e")


def _respecting_marks(text: str) -> str:
    """A space for symbols and punctuation; vowel signs stay, optional points go.

    A vowel sign of Devanagari, Thai or Malayalam is a mark to Unicode: without it another word is
    written. The points of Hebrew and Arabic are marks too, and most writers leave them out.
    """
    return _respecting_points(_HEBREW_POINTS.sub("", unicodedata.normalize("NFKC", text)))


def _respecting_points(text: str) -> str:
    """Do the same, and keep the points of Hebrew letters."""
    text = unicodedata.normalize("NFKC", text)
    text = _CHILLU.sub(lambda match: match[1].translate(_CHILLU_LETTERS), text)
    text = _ARABIC_POINTS.sub("", _INVISIBLE.sub("", text))
    text = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)
    # Python lowers İ to an i with a second dot over it.
    return remove_symbols(text, preserve_marks=True).replace("i\u0307", "i")


_BASIC, _MARKED, _POINTED = BasicTextNormalizer(), BasicTextNormalizer(), BasicTextNormalizer()
_MARKED.clean, _POINTED.clean = _respecting_marks, _respecting_points


def _turkish(text: str) -> str:
    """Lower Turkish capitals as Turkish does: I to dotless ı, İ to i."""
    return _MARKED(unicodedata.normalize("NFC", text).replace("I", "ı").replace("İ", "i"))


_ENGLISH, _OTHER = partial(_normalize, _whisper_english), partial(_normalize, _MARKED)
_NORMALIZERS: Mapping[str, Normalizer] = {
    "en": _ENGLISH,
    **dict.fromkeys(("tr", "az"), partial(_normalize, _turkish)),
    "yi": partial(_normalize, _POINTED),  # points of Yiddish distinguish its vowels
}
