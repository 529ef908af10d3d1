"""A manifest of ours as a source: checked line by line, its audio still where it is."""

from dataclasses import replace
from pathlib import Path

from distilwhisper.corpus.importing.entries import Entries, entries_of, known_language
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import Utterance, audio_in, manifest_lines, utterance_of


def read_manifest_lines(source: Path, _: ImportSettings, __: Path) -> Entries:
    """Yield the utterances of a manifest; its audio paths are relative to its folder."""
    folder = source.parent.absolute()

    def parse(line: bytes) -> list[Utterance]:
        utterance = utterance_of(line)
        audio, language = audio_in(folder, utterance.audio), known_language(utterance.language)
        return [replace(utterance, audio=audio, language=language)]

    lines = manifest_lines(source)
    return entries_of(((f"{path}:{number}", line) for path, number, line in lines), parse)
