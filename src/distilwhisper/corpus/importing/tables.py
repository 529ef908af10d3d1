"""Tables of transcripts: comma- or tab-separated with a header, or JSON lines."""

import codecs
import csv
import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from distilwhisper.corpus.importing.entries import (
    FIELDS,
    BadTranscripts,
    Entry,
    Found,
    ImportSettings,
    Problem,
    find_columns,
    located,
    problem_of,
    utterance_from,
)

TABLE_SUFFIXES = (".csv", ".jsonl", ".tsv")

Row: TypeAlias = Mapping[str, object]


def read_table_file(source: Path, settings: ImportSettings) -> Found:
    """Yield the utterances of a table that names its audio.

    An audio path is relative to the table's folder, or else to the current one. An utterance's id
    is the path without its ending, with the times of the span if it is one.

    Raises:
        BadTranscripts: the table cannot be read, or names no audio.
    """
    return table_entries(source, source.parent, settings)


def table_entries(table: Path, folder: Path, settings: ImportSettings) -> Found:
    """Yield the utterances of a table whose audio paths are relative to a folder.

    Raises:
        BadTranscripts: the table cannot be read, or names no audio.
    """
    if "audio" not in table_columns(table, settings):
        raise no_transcripts(table)
    for line, row, columns in read_table(table, settings):
        where = f"{table}:{line}"
        if isinstance(row, str):
            yield Problem(where, "bad line", row)
            continue
        try:
            audio = audio_named(row, columns)
            stem = posixpath.splitext(audio.replace(".tar#", "/"))[0]
            told = utterance_from(row, columns, stem)
        except ValueError as error:
            yield problem_of(where, error)
            continue
        yield Entry(where, replace(told, audio=located(audio, folder)))


def audio_named(row: Row, columns: Mapping[str, str]) -> str:
    """Return the audio that a row of a table names.

    Raises:
        ValueError: it names none.
    """
    audio = row.get(columns.get("audio", ""))
    if not isinstance(audio, str) or not audio.strip():
        raise ValueError(f"it must name its audio, found {audio!r}")
    return audio.strip().replace("\\", "/")


def table_columns(table: Path, settings: ImportSettings) -> dict[str, str]:
    """Return the column of each field that a table's first line has.

    Raises:
        BadTranscripts: the table is not in UTF-8.
        BadSource: a column that the settings name is not there.
    """
    return find_columns(_first_line(table), settings.columns)


def tells(columns: Mapping[str, str]) -> bool:
    """Whether columns are those of a table of transcripts, or of spans."""
    return "audio" in columns and ("text" in columns or "start" in columns)


def no_transcripts(table: Path) -> BadTranscripts:
    """Return the error for a table whose columns are others."""
    return BadTranscripts(
        f"{table}: the first line must name a column of {', '.join(FIELDS['audio'])} and one of "
        f"{', '.join(FIELDS['text'])}, {_separated(table)}, found {_first_line(table)}; rename "
        "the file if it is no table of transcripts, or say --column audio=NAME --column text=NAME"
    )


def read_table(
    table: Path, settings: ImportSettings
) -> Iterator[tuple[int, Row | str, Mapping[str, str]]]:
    """Yield a table's lines: number, values by column or what is wrong, and the fields' columns.

    Lines that are empty are passed over.

    Raises:
        BadTranscripts: the table is not in UTF-8, or breaks the rules of its kind.
        BadSource: a column that the settings name is not there.
    """
    if _is_json(table):
        for line, row in _json_lines(table):
            names = [] if isinstance(row, str) else [*row, *settings.columns.values()]
            # Every line has its own keys.
            yield line, row, find_columns(names, settings.columns) if names else {}
        return
    rows = _cells(table)
    header = [name.strip().lower() for name in next(rows, (0, []))[1]]
    columns = find_columns(header, settings.columns)
    for line, cells in rows:
        # Of two columns of one name the first counts; cells that are missing hold nothing.
        yield line, dict(reversed([*zip(header, cells, strict=False)])), columns


def _first_line(table: Path) -> list[str]:
    """Return the names of the columns."""
    if not _is_json(table):
        return [name.strip().lower() for name in next(_cells(table), (0, []))[1]]
    return next((list(row) for _, row in _json_lines(table) if not isinstance(row, str)), [])


def _is_json(table: Path) -> bool:
    return table.suffix.lower() == ".jsonl"


def _separated(table: Path) -> str:
    comma = "comma-separated" if table.suffix.lower() == ".csv" else "tab-separated"
    return "as keys" if _is_json(table) else comma


def _json_lines(table: Path) -> Iterator[tuple[int, Row | str]]:
    with table.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.removeprefix(codecs.BOM_UTF8).strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                yield number, f"must be one JSON object in UTF-8, {error}"
                continue
            yield number, row if isinstance(row, dict) else "must be one JSON object"


def _cells(table: Path) -> Iterator[tuple[int, list[str]]]:
    comma = table.suffix.lower() == ".csv"
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(
            file,
            delimiter="," if comma else "\t",
            quoting=csv.QUOTE_MINIMAL if comma else csv.QUOTE_NONE,
        )
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadTranscripts(
                f"{table}: near line {reader.line_num + 1}, a table must be UTF-8 text, found: "
                f"{error}; save it anew, or move it out of the folder"
            ) from error
