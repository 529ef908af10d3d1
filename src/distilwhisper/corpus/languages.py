"""A language in the settings overrides those of a manifest, and is logged."""

from collections import Counter
from dataclasses import replace
from functools import cache

from distilwhisper.corpus.records import Manifest
from distilwhisper.languages import language_code
from distilwhisper.progress import say


def in_language(manifest: Manifest, language: str | None) -> Manifest:
    """Return a manifest whose utterances are all in one language; None: as it is.

    The log lists the languages of the manifest that are overruled.

    Raises:
        ValueError: Whisper knows no such language.
    """
    if language is None:
        return manifest
    log_overruled(manifest, language)
    code = language_code(language)
    utterances = (replace(utterance, language=code) for utterance in manifest.utterances)
    return replace(manifest, utterances=tuple(utterances))


def log_overruled(manifest: Manifest, language: str) -> None:
    """Log how many utterances name another language than the settings, if any do."""
    code = language_code(language)
    languages = Counter(u.language for u in manifest.utterances if u.language is not None)
    others = {name: n for name, n in languages.items() if code_or_name(name) != code}
    if others:
        say(
            f"{manifest.path}: {sum(others.values())} of {len(manifest.utterances)} utterances "
            f"name another language ({', '.join(others)}) and are taken for {code}, the "
            "language of the settings"
        )


@cache
def code_or_name(language: str) -> str:
    """Return a language's code, or an unknown name as it is; whoever must read it refuses it."""
    try:
        return language_code(language)
    except ValueError:
        return language
