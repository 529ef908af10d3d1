"""A manifest of ours as a source: checked line by line, its audio still where it is."""

from dataclasses import replace
from pathlib import Path

from distilwhisper.corpus.importing.entries import Found, entries_of, known_language
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import Utterance, audio_in, manifest_lines, utterance_of


def read_manifest_lines(source: Path, _: ImportSettings, __: Path) -> Found:
    """Yield the utterances of a manifest; its audio paths are relative to its folder."""
    folder = source.parent.absolute()

    def made(line: bytes) -> list[Utterance]:
        told = utterance_of(line)
        audio, language = audio_in(folder, told.audio), known_language(told.language)
        return [replace(told, audio=audio, language=language)]

    lines = manifest_lines(source)
    return entries_of(((f"{path}:{number}", line) for path, number, line in lines), made)
