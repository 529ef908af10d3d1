"""The languages that Whisper knows, and what people call them."""

import difflib
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple


class _Language(NamedTuple):
    """A line of languages.tsv."""

    code: str
    iso_639_2: list[str]  # its codes of three letters, as media files have them
    tags: list[str]  # of BCP 47, for what Whisper calls otherwise: withdrawn, or of a part
    names: list[str]  # in English, Whisper's own first
    own_names: list[str]  # in the language itself


def _language(line: str) -> _Language:
    code, iso, tags, names, own, *_ = [*line.split("\t"), "", ""]
    own_names = own.split(", ") if own else []
    return _Language(code, iso.split(), tags.split(), names.split(", "), own_names)


_TABLE = (resources.files("distilwhisper") / "languages.tsv").read_text(encoding="utf-8")
# In Whisper's order; Cantonese came with large-v3.
_ALL = [_language(line) for line in unicodedata.normalize("NFC", _TABLE).splitlines()[1:]]
LANGUAGES: Mapping[str, str] = {one.code: one.names[0] for one in _ALL}
_CODE_BY_NAME: Mapping[str, str] = {
    name: one.code for one in _ALL for name in (one.code, *one.names, *one.own_names, *one.tags)
}
_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue", "km", "bo"})


def media_codes(code: str) -> set[str]:
    """Return all codes that a media file may have for the language of one of them."""
    by_language = ({one.code, *one.iso_639_2} for one in _ALL)
    return next((codes for codes in by_language if code in codes), {code})


def language_code(language: str) -> str:
    """The code that Whisper uses for a language.

    It may be given as a code ("de"), an English name ("German", "Castilian"), a name in the
    language itself ("français"), or a tag of BCP 47 or a locale ("en-US", "pt_BR.UTF-8"), of which
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


def language_faults(*languages: str | None) -> list[str]:
    """Return what is wrong with the languages of settings; None is a language to be found out."""
    faults = []
    for language in languages:
        try:
            language_code("en" if language is None else language)
        except ValueError as error:
            faults.append(str(error))
    return faults


@cache
def code_or_name(language: str) -> str:
    """Return a language's code, or an unknown name as it is; whoever must read it refuses it."""
    try:
        return language_code(language)
    except ValueError:
        return language


def uses_spaces(language: str) -> bool:
    """Whether words of a language are separated by spaces, so that a word error rate exists.

    False for Chinese, Cantonese, Japanese, Thai, Lao, Burmese, Khmer and Tibetan: judge those
    by characters.

    Raises:
        ValueError: the language is unknown to Whisper.

    Source: the first six are those that Whisper splits into characters (openai/whisper,
    whisper/tokenizer.py, ``split_to_word_tokens``). Khmer has no spaces between words, and
    Tibetan marks syllables and not words: Unicode Standard Annex 14, on class SA and Tibetan.
    """
    return language_code(language) not in _WITHOUT_SPACES
