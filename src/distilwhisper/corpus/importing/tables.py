"""Tables of transcripts: separated by commas, tabs, semicolons or bars, or JSON."""

import codecs
import csv
import json
import posixpath
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    BadTranscripts,
    Found,
    Unusable,
    entries_of,
    find_columns,
    located,
    utterance_from,
)
from distilwhisper.corpus.importing.settings import FIELDS, ImportSettings
from distilwhisper.corpus.records import Utterance

TABLE_SUFFIXES = (".csv", ".jsonl", ".tsv")
JSON_SUFFIXES = (".json", ".jsonl")
_CELL_LINES = 500  # the most that a cell in quotes may have

Row: TypeAlias = Mapping[str, object]


def read_table_file(table: Path, settings: ImportSettings, _: Path) -> Found:
    """Yield the utterances of a table whose audio paths are relative to its folder."""
    return table_entries(table, table.parent, settings)


def table_entries(table: Path, folder: Path, settings: ImportSettings) -> Found:
    """Yield the utterances of a table that names its audio.

    An audio path is relative to the folder, or else to the current one. An utterance's id is the
    path without its ending, with the times of the span if it is one.

    Raises:
        BadTranscripts: the table cannot be read, or names no audio.
    """
    if "audio" not in table_columns(table, settings):
        raise no_transcripts(table, settings)

    def made(line: tuple[Row, Mapping[str, str]]) -> list[Utterance]:
        audio = audio_named(*line)
        stem = posixpath.splitext(audio.replace(".tar#", "/"))[0]
        return [replace(utterance_from(*line, stem), audio=located(audio, folder))]

    lines = read_table(table, settings)
    yield from entries_of(((f"{table}:{number}", line) for number, line in lines), made)


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
    """Return the column of each field that a table has.

    Raises:
        BadTranscripts: the table is in an encoding that is not read.
        BadSource: a column that the settings name is not there.
    """
    return find_columns(table_names(table, settings), settings.columns)


def table_names(table: Path, settings: ImportSettings) -> Sequence[str]:
    """Return the names of a table's columns: its first line, or the keys of its first object.

    Raises:
        BadTranscripts: as :func:`table_columns`.
    """
    if _is_json(table):
        return next(([*row] for _, row in _json_rows(table) if not isinstance(row, Unusable)), [])
    return _form(table, settings).names


def tells(columns: Mapping[str, str]) -> bool:
    """Whether columns are those of a table of transcripts, or of spans."""
    return "audio" in columns and ("text" in columns or "start" in columns)


def no_transcripts(table: Path, settings: ImportSettings) -> BadTranscripts:
    """Return the error for a table whose columns are others."""
    names = table_names(table, settings)
    return BadTranscripts(
        f"{table}: the first line must name a column of {', '.join(FIELDS['audio'])} and one of "
        f"{', '.join(FIELDS['text'])}, {'as keys' if _is_json(table) else 'as cells'}, found "
        f"{', '.join(names) or 'none'}; rename the file if it is no table of transcripts, or say "
        "--column audio=NAME --column text=NAME"
    )


def read_table(
    table: Path, settings: ImportSettings
) -> Iterator[tuple[int, tuple[Row, Mapping[str, str]] | Unusable]]:
    """Yield a table's lines: number, and values by column with the fields' columns.

    Lines that are empty are passed over.

    Raises:
        BadTranscripts: the table is in an encoding that is not read.
        BadSource: a column that the settings name is not there.
    """
    if _is_json(table):
        for line, row in _json_rows(table):
            if isinstance(row, Unusable):
                yield line, row
            else:  # every line has its own keys
                names = [*row, *settings.columns.values()]
                yield line, (row, find_columns(names, settings.columns))
        return
    form = _form(table, settings)
    columns = find_columns(form.names, settings.columns)
    for line, cells in _rows(table, form):
        row = cells if isinstance(cells, Unusable) else _values(cells, form)
        yield line, row if isinstance(row, Unusable) else (row, columns)


class _Form(NamedTuple):
    """How a table is written."""

    delimiter: str
    has_quotes: bool  # a cell may be in quotes
    names: Sequence[str]
    path: str | None = None  # a pattern for the name in the first cell; there is no header then


def _form(table: Path, settings: ImportSettings) -> _Form:
    """Return how a table is written, as its first line tells: the form that names the audio."""
    first = next((line.rstrip("\n") for _, line in _lines(table) if line.strip()), "")
    wanted = {settings.columns.get("audio", FIELDS["audio"][0]).lower(), *FIELDS["audio"]}
    usual = "," if table.suffix.lower() == ".csv" else "\t"
    forms = []
    for delimiter in dict.fromkeys((usual, ",", ";", "\t", "|")):
        has_quotes = delimiter in ",;" or (delimiter == "\t" and usual == ",")
        names = (has_quotes and _closed([first], delimiter)) or first.split(delimiter)
        forms.append(_Form(delimiter, has_quotes, [name.strip().lower() for name in names]))
    forms = [form for form in forms if wanted & {*form.names}] or forms
    return forms[0] if wanted & {*forms[0].names} else _headless(table, first) or forms[0]


def _headless(table: Path, first: str) -> _Form | None:
    """Return LJ Speech's form: name|text, or name|text|the same in words, without a header.

    It is one where the first cell names a file of the folder beside it.
    """
    name, *texts = (cell.strip() for cell in first.split("|"))
    names = {1: ["audio", "text"], 2: ["audio", "written", "text"]}.get(len(texts))
    if names is None or not name:
        return None
    for folder in ("wavs/", "wav/"):
        for suffix in ("", ".wav", ".flac"):
            if (table.parent / f"{folder}{name}{suffix}").is_file():
                return _Form("|", False, names, f"{folder}{{}}{suffix}")
    return None


def _values(cells: Sequence[str], form: _Form) -> Row | Unusable:
    """Return a row's cells by column, or what is wrong; cells that are missing hold nothing."""
    too_few = form.path is not None and len(cells) < len(form.names)
    if too_few or any(cell.strip() for cell in cells[len(form.names) :]):
        quote = f", or put quotes around a text with {form.delimiter!r} in it" * form.has_quotes
        return Unusable(
            f"must have {len(form.names)} cells as the first line has, separated by "
            f"{form.delimiter!r}, found {len(cells)}: correct the line{quote}"
        )
    # Of two columns of one name the first counts.
    row = dict(reversed([*zip(form.names, cells, strict=False)]))
    return row if form.path is None else {**row, "audio": form.path.format(row["audio"].strip())}


def _rows(table: Path, form: _Form) -> Iterator[tuple[int, list[str] | Unusable]]:
    """Yield the cells of each line behind the header, or what is wrong with it.

    Lines that hold nothing are passed over.
    """
    lines = _lines(table)
    rows = (
        _quoted(lines, form.delimiter)
        if form.has_quotes
        else ((number, line.rstrip("\n").split(form.delimiter)) for number, line in lines)
    )
    rows = ((n, row) for n, row in rows if isinstance(row, Unusable) or any(map(str.strip, row)))
    number = 0
    try:
        for number, row in rows if form.path else islice(rows, 1, None):
            yield number, row
    except csv.Error as error:
        raise _unreadable(table, number + 1, error) from error


def _quoted(
    lines: Iterator[tuple[int, str]], delimiter: str
) -> Iterator[tuple[int, list[str] | Unusable]]:
    """Yield rows whose cells may be in quotes, over several lines.

    Where a quote is not closed, or only behind a line that names another audio, its line alone is
    faulty, and the next line is the next row.
    """
    ahead = deque(islice(lines, 1))
    while ahead:
        n_lines, cells = 1, _closed([ahead[0][1]], delimiter)
        while cells is None and n_lines < _CELL_LINES:
            if len(ahead) == n_lines:
                ahead.extend(islice(lines, 1))
            if len(ahead) == n_lines or _names_audio(ahead[n_lines][1], delimiter):
                break
            n_lines += 1
            cells = _closed([line for _, line in islice(ahead, n_lines)], delimiter)
        number = ahead[0][0]
        for _ in range(1 if cells is None else n_lines):
            ahead.popleft()
        fault = 'a quote (") that is opened must be closed before the next row, found none'
        yield number, Unusable(fault) if cells is None else cells
        ahead.extend(islice(lines, 0 if ahead else 1))


def _closed(lines: Sequence[str], delimiter: str) -> list[str] | None:
    """Return the cells of lines that are one row; None where a quote in them is still open.

    A quote that is closed within a cell stays as it is read by most: ``"so" he said``.
    """
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error) or len(lines) > 1:
            return None
        return next(csv.reader(lines, delimiter=delimiter))


def _names_audio(line: str, delimiter: str) -> bool:
    """Tell a row of its own by the ending of a file."""
    cells = (cell.strip(' "\n') for cell in line.split(delimiter))
    return any(posixpath.splitext(cell.lower())[1] in AUDIO_SUFFIXES for cell in cells)


def _lines(table: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a table of text.

    Raises:
        BadTranscripts: it is in another encoding than UTF-8, or UTF-16 with its mark.
    """
    number = 0
    try:
        with table.open(encoding="utf-16" if is_utf16(table) else "utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise ValueError("a zero byte, as of UTF-16 without the mark at its beginning")
                yield number, line
    except ValueError as error:
        raise _unreadable(table, number + 1, error) from error


def _unreadable(table: Path, number: int, error: Exception) -> BadTranscripts:
    return BadTranscripts(
        f"{table}: near line {number}, a table must be UTF-8 text, found: {error}; save it anew, "
        "or move it out of the folder"
    )


def is_utf16(path: Path) -> bool:
    """Whether a file begins with the mark of UTF-16."""
    with path.open("rb") as file:
        return file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _is_json(table: Path) -> bool:
    return table.suffix.lower() in JSON_SUFFIXES


def _json_rows(table: Path) -> Iterator[tuple[int, Row | Unusable]]:
    """Yield the objects of JSON lines, or of one array, with their numbers.

    Raises:
        BadTranscripts: it is UTF-16.
    """
    if is_utf16(table):
        raise BadTranscripts(f"{table}: JSON must be UTF-8 text, found UTF-16; save it anew")
    with table.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(codecs.BOM_UTF8).strip()
            if not line:
                continue
            is_array = number == 1 and line.startswith(b"[")
            try:
                found = json.loads((line + file.read() if is_array else line).decode("utf-8"))
            except ValueError as error:
                yield number, Unusable(f"must be one JSON object in UTF-8, {error}")
                continue
            for place, row in enumerate(found if is_array else [found], start=number):
                yield place, row if isinstance(row, dict) else Unusable("must be one JSON object")
