"""The languages that Whisper knows, and what people call them."""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Language:
    """A language that Whisper knows; a line of languages.tsv."""

    code: str
    iso_639_2: frozenset[str]  # its codes of three letters, as media files have them
    tags: tuple[str, ...]  # of BCP 47, for what Whisper calls otherwise: withdrawn, or of a part
    names: tuple[str, ...]  # in English, Whisper's own first
    own_names: tuple[str, ...]  # in the language itself


def _read_languages() -> Iterator[Language]:
    text = (resources.files("distilwhisper") / "languages.tsv").read_text(encoding="utf-8")
    for line in unicodedata.normalize("NFC", text).splitlines()[1:]:
        code, iso, tags, names, own, *_ = [*line.split("\t"), "", ""]
        yield Language(
            code,
            frozenset(iso.split()),
            tuple(tags.split()),
            tuple(names.split(", ")),
            tuple(filter(None, own.split(", "))),
        )


ALL_LANGUAGES = tuple(_read_languages())  # in Whisper's order; Cantonese came with large-v3
LANGUAGES: Mapping[str, str] = {one.code: one.names[0] for one in ALL_LANGUAGES}
_CODE_BY_NAME: Mapping[str, str] = {
    name: one.code
    for one in ALL_LANGUAGES
    for name in (one.code, *one.names, *one.own_names, *one.tags)
}


def language_code(language: str) -> str:
    """The code that Whisper uses for a language.

    Args:
        language: a code ("de"), an English name ("German", "Castilian"), a name in the language
            itself ("français"), or a tag of BCP 47 or a locale ("en-US", "pt_BR.UTF-8"), of which
            the language counts; zh-HK is Cantonese. In any case.

    Raises:
        ValueError: Whisper knows no such language; the message names one that is written almost
            alike, or else where all are listed.

    Source: the tables of openai/whisper, whisper/tokenizer.py.
    """
    wanted = unicodedata.normalize("NFC", language.strip()).lower()
    primary, *subtags = re.split("[-_.@]", wanted)
    if primary == "zh" and {"hk", "yue"} & {*subtags}:
        return "yue"
    for name in (wanted, primary if len(primary) <= 3 else ""):
        if name in _CODE_BY_NAME:
            return _CODE_BY_NAME[name]
    hint = "distilwhisper.languages.LANGUAGES lists them"
    for nearest in difflib.get_close_matches(wanted, _CODE_BY_NAME, n=1):
        code = _CODE_BY_NAME[nearest]
        hint = f'nearest is "{nearest}" ({code}, {LANGUAGES[code]})'
    raise ValueError(
        f"language must be one of Whisper's {len(LANGUAGES)}, as a code, a name or a tag such as "
        f'pt-BR; found "{language}", {hint}'
    )


@cache
def code_or_name(language: str) -> str:
    """Return a language's code, or an unknown name as it is; whoever must read it refuses it."""
    try:
        return language_code(language)
    except ValueError:
        return language


_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue", "km", "bo"})


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
