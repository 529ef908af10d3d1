"""A manifest of ours as a source: checked line by line, its audio still where it is."""

import codecs
import os
from dataclasses import replace
from pathlib import Path

from distilwhisper.corpus.importing.entries import Entry, Found, Problem
from distilwhisper.corpus.records import utterance_from_line


def read_manifest_lines(source: Path) -> Found:
    """Yield the utterances of a manifest; its audio paths are relative to its folder."""
    folder = source.parent.absolute()
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            where = f"{source}:{number}"
            try:
                utterance = utterance_from_line(line)
            except ValueError as error:
                yield Problem(where, "bad line", str(error))
                continue
            audio = os.path.join(folder, utterance.audio)  # noqa: PTH118  a Path would edit members
            yield Entry(where, replace(utterance, audio=audio))
