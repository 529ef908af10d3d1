"""Tables of transcripts: separated by commas, tabs, semicolons or bars, or JSON."""

import codecs
import csv
import gzip
import json
import posixpath
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from zlib import error as ZlibError

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    BadSource,
    BadTranscripts,
    Entries,
    Entry,
    Source,
    Unusable,
    encoding_of,
    find_columns,
    located,
    utterance_from,
)
from distilwhisper.corpus.importing.settings import FIELDS, ImportSettings

TABLE_SUFFIXES = (".csv", ".jsonl", ".tsv")
JSON_SUFFIXES = (".json", ".jsonl")
_CELL_LINES = 500  # the most that a cell in quotes may have

Row: TypeAlias = Mapping[str, Any]


def read_table(source: Source) -> Entries:
    """Yield the utterances of a table whose audio paths are relative to its folder."""
    return table_entries(source.path, source.path.parent, source)


def table_entries(path: Path, folder: Path, source: Source) -> Entries:
    """Yield the utterances of a table that names its audio.

    An audio path is relative to the folder, or else to the current one. An utterance's id is the
    path without its ending, with the times of the span if it is one.

    Raises:
        BadTranscripts: the table cannot be read, or names no audio.
    """
    table = Table(path, source.settings)
    if "audio" not in table.columns:
        raise table.refusal()
    for where, row, columns in table.rows(source, str(path)):
        with source.problem_at(where):
            audio = audio_named(row, columns)
            stem = posixpath.splitext(audio.replace(".tar#", "/"))[0]
            utterance = utterance_from(row, columns, stem)
            yield Entry(where, replace(utterance, audio=located(audio, folder)))


def audio_named(row: Row, columns: Mapping[str, str]) -> str:
    """Return the audio that a row names.

    Raises:
        ValueError: it names none.
    """
    audio = row.get(columns.get("audio", ""))
    if not isinstance(audio, str) or not audio.strip():
        raise ValueError(f"it must name its audio, found {audio!r}")
    return audio.strip().replace("\\", "/")


def read_commonvoice(source: Source) -> Entries:
    """Yield the utterances of one split of Common Voice, locale by locale, in the tables' order.

    Raises:
        BadSource: a locale lacks the split.
        BadTranscripts: a table cannot be read.
    """
    split = source.settings.split or "train"
    locales = locale_folders(source.path)
    for folder in locales:
        if not (folder / f"{split}.tsv").is_file():
            held = ", ".join(sorted(path.stem for path in folder.glob("*.tsv")))
            raise BadSource(f"--split {split} must be a table in {folder}, found {held or 'none'}")
    for folder in locales:
        yield from table_entries(folder / f"{split}.tsv", folder / "clips", source)


def locale_folders(source: Path) -> list[Path]:
    """Return Common Voice's folders, with clips/ and tables: the source, or those in it."""
    return [
        folder
        for folder in (source, *sorted(source.iterdir()))
        if (folder / "clips").is_dir() and any(folder.glob("*.tsv"))
    ]


class Table:
    """A table of transcripts, whose columns the settings may name.

    Attributes:
        names: of its columns: its first line, or the keys of its first object.
        columns: of each field that it has.

    Raises:
        BadTranscripts: it is in an encoding that is not read.
        BadSource: a column that the settings name is not there.
    """

    def __init__(self, path: Path, settings: ImportSettings) -> None:
        self.path = path
        self._chosen = settings.columns
        self._form = None if path.suffix.lower() in JSON_SUFFIXES else _form(path, self._chosen)
        if self._form is None:
            first = next(json_rows(path, Source(path, settings, path), path.name), None)
            self.names: Sequence[str] = [] if first is None else [*first[1]]
        else:
            self.names = self._form.names
        self.columns = find_columns(self.names, self._chosen)

    @property
    def has_transcripts(self) -> bool:
        """Whether its columns are those of transcripts, or of spans."""
        return "audio" in self.columns and ("text" in self.columns or "start" in self.columns)

    def refusal(self) -> BadTranscripts:
        """Return the error for a table whose columns are others."""
        return BadTranscripts(
            f"{self.path}: the first line must name a column of {', '.join(FIELDS['audio'])} and "
            f"one of {', '.join(FIELDS['text'])}, {'as cells' if self._form else 'as keys'}, found "
            f"{', '.join(self.names) or 'none'}; rename the file if it is no table of transcripts, "
            "or give --column audio=NAME --column text=NAME"
        )

    def rows(self, source: Source, name: str) -> Iterator[tuple[str, Row, Mapping[str, str]]]:
        """Yield the place of each row that is not empty, the row, and the columns of its fields.

        Args:
            source: gets the rows that cannot be used as problems.
            name: of the table in the places of rows.
        """
        if self._form is None:
            for where, row in json_rows(self.path, source, name):  # each has its own keys
                columns = find_columns([*row, *self._chosen.values()], self._chosen)
                yield where, row, columns
            return
        lines = dropwhile(lambda line: not line[1].strip(), _lines(self.path))
        n_header = 0 if self._form.path else 1
        number = 0
        try:
            for number, cells in _split(islice(lines, n_header, None), self._form):
                with source.problem_at(where := f"{name}:{number}"):
                    if cells is None:
                        raise Unusable(
                            'a quote (") that is opened must be closed before the next row, found '
                            "none"
                        )
                    if any(map(str.strip, cells)):
                        yield where, _values(cells, self._form), self.columns
        except csv.Error as error:
            raise _unreadable(self.path, number + 1, error) from error


class _Form(NamedTuple):
    """How a table is written."""

    delimiter: str
    has_quotes: bool  # a cell may be in quotes
    names: Sequence[str]
    path: str | None = None  # a pattern for the name in the first cell; there is no header then


def _form(table: Path, chosen: Mapping[str, str]) -> _Form:
    """Return how a table is written, by its first line: in the form that names the audio."""
    first = next((line.rstrip("\n") for _, line in _lines(table) if line.strip()), "")
    wanted = {chosen.get("audio", FIELDS["audio"][0]).lower(), *FIELDS["audio"]}
    usual = "," if table.suffix.lower() == ".csv" else "\t"
    forms = []
    for delimiter in dict.fromkeys((usual, ",", ";", "\t", "|")):
        has_quotes = delimiter in ",;" or (delimiter == "\t" and usual == ",")
        names = _cells([first], delimiter, has_quotes) or first.split(delimiter)
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


def _values(cells: Sequence[str], form: _Form) -> Row:
    """Return a row's cells by column; cells that are missing hold nothing.

    Raises:
        Unusable: there are more cells than columns, or fewer where all must be there.
    """
    too_few = form.path is not None and len(cells) < len(form.names)
    if too_few or any(cell.strip() for cell in cells[len(form.names) :]):
        quote = f", or put quotes around a text with {form.delimiter!r} in it" * form.has_quotes
        raise Unusable(
            f"must have {len(form.names)} cells as the first line has, separated by "
            f"{form.delimiter!r}, found {len(cells)}: correct the line{quote}"
        )
    # Of two columns of one name the first counts.
    row = dict(reversed([*zip(form.names, cells, strict=False)]))
    return row if form.path is None else {**row, "audio": form.path.format(row["audio"].strip())}


def _split(lines: Iterator[tuple[int, str]], form: _Form) -> Iterator[tuple[int, list[str] | None]]:
    """Yield rows with the numbers of their first lines; cells in quotes may have several lines.

    Where a quote is not closed, or only behind a line that names another audio, its line alone is
    faulty: None. The next line is the next row.
    """
    ahead = deque(islice(lines, 1))
    while ahead:
        n_lines, cells = 1, _cells([ahead[0][1]], *form[:2])
        while cells is None and n_lines < _CELL_LINES:
            if len(ahead) == n_lines:
                ahead.extend(islice(lines, 1))
            if len(ahead) == n_lines or _names_audio(ahead[n_lines][1], form.delimiter):
                break
            n_lines += 1
            cells = _cells([line for _, line in islice(ahead, n_lines)], *form[:2])
        number = ahead[0][0]
        for _ in range(1 if cells is None else n_lines):
            ahead.popleft()
        yield number, cells
        ahead.extend(islice(lines, 0 if ahead else 1))


def _cells(lines: Sequence[str], delimiter: str, has_quotes: bool) -> list[str] | None:
    """Return the cells of lines that are one row; None where a quote in them is still open.

    A quote that is closed within a cell is read as most programs do: ``"so" he wrote``.
    """
    if not has_quotes:
        return lines[0].rstrip("\n").split(delimiter)
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error) or len(lines) > 1:
            return None
        return next(csv.reader(lines, delimiter=delimiter))


def _names_audio(line: str, delimiter: str) -> bool:
    """Return whether a line is a row of its own: one of its cells ends as a file of audio does."""
    cells = (cell.strip(' "\n') for cell in line.split(delimiter))
    return any(posixpath.splitext(cell.lower())[1] in AUDIO_SUFFIXES for cell in cells)


def _lines(table: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a table of text.

    Raises:
        BadTranscripts: it is in another encoding than UTF-8, or UTF-16 with its mark.
    """
    number = 0
    try:
        with table.open(encoding=_encoding(table)) as file:
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


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return encoding_of(file.read(2))


def json_rows(path: Path, source: Source, name: str) -> Iterator[tuple[str, Row]]:
    """Yield the objects of JSON lines, gzipped or not, or of one array, each with its place.

    Args:
        path: of the file.
        source: gets what cannot be used as problems.
        name: of the file in the places of lines.

    Raises:
        BadTranscripts: it is UTF-16.
    """
    if _encoding(path) == "utf-16":
        raise BadTranscripts(f"{path}: JSON must be UTF-8 text, found UTF-16; save it anew")
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(codecs.BOM_UTF8).strip()
                if not line:
                    continue
                is_array = number == 1 and line.startswith(b"[")
                try:
                    found = json.loads((line + file.read() if is_array else line).decode("utf-8"))
                except ValueError as error:
                    message = f"must be one JSON object in UTF-8, {error}"
                    source.add_problem(f"{name}:{number}", "bad line", message)
                    continue
                for place, row in enumerate(found if is_array else [found], start=number):
                    if isinstance(row, dict):
                        yield f"{name}:{place}", row
                    else:
                        source.add_problem(f"{name}:{place}", "bad line", "must be one JSON object")
    except (OSError, EOFError, ZlibError) as error:
        message = f"cannot be read on from here: {error}"
        source.add_problem(f"{name}:{number + 1}", "unreadable", message)
