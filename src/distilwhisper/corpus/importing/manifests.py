"""A manifest of ours as a source: checked line by line, its audio still where it is."""

import os
from dataclasses import replace
from pathlib import Path

from distilwhisper.corpus.importing.entries import (
    Entry,
    Found,
    known_language,
    problem_of,
)
from distilwhisper.corpus.records import manifest_lines, utterance_of


def read_manifest_lines(source: Path) -> Found:
    """Yield the utterances of a manifest; its audio paths are relative to its folder."""
    folder = source.parent.absolute()
    for path, number, line in manifest_lines(source):
        where = f"{path}:{number}"
        try:
            utterance = utterance_of(line)
            language = known_language(utterance.language)
        except ValueError as error:
            yield problem_of(where, error)
            continue
        audio = os.path.join(folder, utterance.audio)  # noqa: PTH118  a Path would edit members
        yield Entry(where, replace(utterance, audio=audio, language=language))
