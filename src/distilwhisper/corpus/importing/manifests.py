"""A manifest of ours as a source: checked line by line, its audio still where it is."""

from dataclasses import replace

from distilwhisper.corpus.importing.entries import Entries, Source, known_language
from distilwhisper.corpus.records import Utterance, audio_in, manifest_lines, utterance_of


def read_manifest_lines(source: Source) -> Entries:
    """Yield the utterances of a manifest; its audio paths are relative to its folder."""
    folder = source.path.parent.absolute()

    def parse(line: bytes) -> list[Utterance]:
        utterance = utterance_of(line)
        audio, language = audio_in(folder, utterance.audio), known_language(utterance.language)
        return [replace(utterance, audio=audio, language=language)]

    lines = manifest_lines(source.path)
    return source.entries(((f"{path}:{number}", line) for path, number, line in lines), parse)
