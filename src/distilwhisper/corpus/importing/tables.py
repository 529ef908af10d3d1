"""Tables of transcripts: separated by commas, tabs, semicolons or bars, or JSON."""

import codecs
import csv
import gzip
import json
import posixpath
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import dropwhile, islice, product
from pathlib import Path
from typing import Any, NamedTuple
from zlib import error as ZlibError

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    BadTranscripts,
    Entries,
    Entry,
    Row,
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


def read_table(source: Source, path: Path | None = None, folder: Path | None = None) -> Entries:
    """Yield the utterances of a table that names its audio: the source, or another.

    An audio path is relative to a folder, that of the table if none is given, or else to the
    current one. An utterance's id is the path without its ending, with the times of its span.

    Raises:
        BadTranscripts: the table cannot be read, or names no audio.
    """
    table = Table(path or source.path, source.settings)
    if "audio" not in table.columns:
        raise table.refusal()
    for where, row, columns in table.rows(source, str(table.path)):
        with source.problem_at(where):
            audio = audio_named(row, columns)
            stem = posixpath.splitext(audio.replace(".tar#", "/"))[0]
            place = located(audio, folder or table.path.parent)
            yield Entry(where, utterance_from(row, columns, stem, place))


def audio_named(row: Row, columns: Mapping[str, str]) -> str:
    """Return the audio that a row names; a ValueError where it names none."""
    audio = row.get(columns.get("audio", ""))
    if not isinstance(audio, str) or not audio.strip():
        raise ValueError(f"it must name its audio, found {audio!r}")
    return audio.strip().replace("\\", "/")


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
        self.path, self._chosen = path, settings.columns
        self._form = None
        if path.suffix.lower() in JSON_SUFFIXES:
            _, first = next(json_rows(path, Source(path, settings, path)), ("", {}))
            self.names: Sequence[str] = [*first]
        else:
            self._form = _form(path, self._chosen)
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

        Rows that cannot be used are problems of the source; places begin with the name.
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
                    if cells is None or any(map(str.strip, cells)):
                        yield where, self._form.row(cells), self.columns
        except csv.Error as error:
            raise _unreadable(self.path, number + 1, error) from error


class _Form(NamedTuple):
    """How a table is written."""

    delimiter: str
    has_quotes: bool  # a cell may be in quotes
    names: Sequence[str]
    path: str | None = None  # a pattern for the name in the first cell; there is no header then

    def row(self, cells: Sequence[str] | None) -> Row:
        """Return a row's cells by column; cells that are missing hold nothing."""
        if cells is None:
            raise Unusable('an opened quote (") must be closed before the next row, found none')
        too_few = self.path is not None and len(cells) < len(self.names)
        if too_few or any(cell.strip() for cell in cells[len(self.names) :]):
            quote = f", or put quotes around a text with {self.delimiter!r} in it" * self.has_quotes
            raise Unusable(
                f"must have {len(self.names)} cells as the first line has, separated by "
                f"{self.delimiter!r}, found {len(cells)}: correct the line{quote}"
            )
        # Of two columns of one name the first counts.
        row = dict(reversed([*zip(self.names, cells, strict=False)]))
        if self.path is not None:
            row["audio"] = self.path.format(row["audio"].strip())
        return row

    def cells(self, lines: Sequence[str]) -> list[str] | None:
        """Return the cells of lines that are one row; None where a quote in them is still open.

        A quote that is closed within a cell is read as most programs do: ``"so" he wrote``.
        """
        if not self.has_quotes:
            return lines[0].rstrip("\n").split(self.delimiter)
        try:
            return next(csv.reader(lines, delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end of data" in str(error) or len(lines) > 1:
                return None
            return next(csv.reader(lines, delimiter=self.delimiter))


def _form(table: Path, chosen: Mapping[str, str]) -> _Form:
    """Return how a table is written, by its first line: in the form that names the audio."""
    first = next((line.rstrip("\n") for _, line in _lines(table) if line.strip()), "")
    wanted = {chosen.get("audio", FIELDS["audio"][0]).lower(), *FIELDS["audio"]}
    usual = "," if table.suffix.lower() == ".csv" else "\t"
    forms = []
    for delimiter in dict.fromkeys((usual, ",", ";", "\t", "|")):
        has_quotes = delimiter in ",;" or (delimiter == "\t" and usual == ",")
        form = _Form(delimiter, has_quotes, ())
        names = form.cells([first]) or first.split(delimiter)
        forms.append(form._replace(names=[name.strip().lower() for name in names]))
    naming = (form for form in forms if wanted & {*form.names})
    return next(naming, None) or _headless(table, first) or forms[0]


def _headless(table: Path, first: str) -> _Form | None:
    """Return LJ Speech's form, name|text or name|text|the same in words, without a header.

    It is one where the first cell names a file of the folder beside it.
    """
    name, *texts = (cell.strip() for cell in first.split("|"))
    names = {1: ["audio", "text"], 2: ["audio", "written", "text"]}.get(len(texts))
    for folder, end in product(("wavs", "wav"), ("", ".wav", ".flac")):
        if name and names and (table.parent / folder / f"{name}{end}").is_file():
            return _Form("|", False, names, f"{folder}/{{}}{end}")
    return None


def _split(lines: Iterator[tuple[int, str]], form: _Form) -> Iterator[tuple[int, list[str] | None]]:
    """Yield rows with the numbers of their first lines; cells in quotes may have several lines.

    Where a quote is not closed, or only behind a line that names another audio, its line alone is
    faulty: None. The next line is the next row.
    """
    ahead: deque[tuple[int, str]] = deque()

    def has(n: int) -> bool:
        ahead.extend(islice(lines, max(n - len(ahead), 0)))
        return len(ahead) >= n

    while has(1):
        n = 1
        while (cells := form.cells([line for _, line in islice(ahead, n)])) is None and has(n + 1):
            if n == _CELL_LINES or _names_audio(ahead[n][1], form.delimiter):
                break
            n += 1
        yield ahead[0][0], cells
        for _ in range(1 if cells is None else n):
            ahead.popleft()


def _names_audio(line: str, delimiter: str) -> bool:
    """Return whether a line is a row of its own: one of its cells ends as a file of audio does."""
    cells = (cell.strip(' "\n') for cell in line.split(delimiter))
    return any(posixpath.splitext(cell.lower())[1] in AUDIO_SUFFIXES for cell in cells)


def _lines(table: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a table, numbered; BadTranscripts where it is in no encoding of ours."""
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


def json_rows(path: Path, source: Source, name: str | None = None) -> Iterator[tuple[str, Row]]:
    """Yield the objects of JSON lines, gzipped or not, or of one array, each with its place.

    What cannot be used is a problem of the source; places begin with the name, or the path.

    Raises:
        BadTranscripts: it is UTF-16.
    """
    if _encoding(path) == "utf-16":
        raise BadTranscripts(f"{path}: JSON must be UTF-8 text, found UTF-16; save it anew")
    name, number = name or str(path), 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(codecs.BOM_UTF8).strip()
                if not line:
                    continue
                is_array = number == 1 and line.startswith(b"[")
                found: list[Any] = []
                with source.problem_at(f"{name}:{number}", "must be one JSON object in UTF-8"):
                    whole = json.loads((line + file.read() if is_array else line).decode("utf-8"))
                    found = whole if is_array else [whole]
                for place, row in enumerate(found, start=number):
                    if isinstance(row, dict):
                        yield f"{name}:{place}", row
                    else:
                        source.add_problem(f"{name}:{place}", "bad line", "must be one JSON object")
    except (OSError, EOFError, ZlibError) as error:
        message = f"cannot be read on from here: {error}"
        source.add_problem(f"{name}:{number + 1}", "unreadable", message)
