"""What readers of all layouts yield, how they report what cannot be used, and tables.

A table is separated by commas, tabs, semicolons or bars, or holds JSON.
"""

import codecs
import csv
import gzip
import json
import math
import posixpath
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import dropwhile, islice, product
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar
from zlib import error as ZlibError

from distilwhisper.corpus.ahead import in_order
from distilwhisper.corpus.importing.settings import FIELDS, ImportSettings
from distilwhisper.corpus.records import UTTERANCE_FIELDS, Utterance, audio_in
from distilwhisper.errors import DistilwhisperError
from distilwhisper.languages import language_code
from distilwhisper.speech.audio import AudioFacts
from distilwhisper.speech.sources import CorruptAudio

AUDIO_SUFFIXES = frozenset(
    ".3gp .aac .ac3 .aif .aifc .aiff .amr .au .avi .caf .flac .g722 .m4a .m4b .m4v .mka .mkv .mov "
    ".mp2 .mp3 .mp4 .mpeg .mpg .oga .ogg .opus .spx .w64 .wav .webm .wma".split()
)
TABLE_SUFFIXES = (".csv", ".jsonl", ".tsv")
JSON_SUFFIXES = (".json", ".jsonl")
_CELL_LINES = 500  # the most that a cell in quotes may have

Kind: TypeAlias = Literal[
    "audio missing",
    "audio unreadable",
    "bad line",
    "conflicting transcripts",
    "id taken",
    "name twice",
    "no speech",
    "span outside the sound",
    "transcript without audio",
    "transcript unreadable",
    "unknown language",
    "unreadable",
    "unsupported",
]
Errors: TypeAlias = tuple[type[Exception], ...]
Row: TypeAlias = Mapping[str, Any]  # values by column, of any kind
Result = TypeVar("Result")


class BadSource(ValueError):
    """A source is not what it was taken for; nothing of it is imported."""


class BadTranscripts(BadSource):
    """A table of transcripts cannot be read."""


class UnreadableSource(DistilwhisperError):
    """A source cannot be read to its end, through no fault of the command."""


class Unusable(ValueError):
    """Something that a source holds cannot be used; the message says what must hold."""

    def __init__(self, message: str, kind: Kind = "bad line") -> None:
        super().__init__(message)
        self.kind = kind


class Problem(NamedTuple):
    """What could not be used."""

    where: str  # file, and line, row or member
    kind: Kind  # what problems are counted by
    message: str  # what must hold and what was found


class Entry(NamedTuple):
    """One utterance of a source."""

    where: str  # as of a :class:`Problem`
    # Its audio is an absolute path or ``shard.tar#member``; it may have no duration yet
    utterance: Utterance
    data: bytes | None = None  # the sound where it lies in no file; the audio is a name for it then
    facts: AudioFacts | None = None  # once the sound has been opened; then there is a duration


Entries: TypeAlias = Iterator[Entry]


@dataclass(frozen=True)
class Source:
    """A source that is being read, and its problems so far."""

    path: Path  # of the source, or the hub id of a dataset
    settings: ImportSettings  # how to read it
    out: Path  # the manifest to be
    problems: list[Problem] = field(default_factory=list)  # what could not be used

    def add_problem(self, where: str, kind: Kind, message: str) -> None:
        """Add a :class:`Problem`; what is not UTF-8 in names is written with backslashes."""
        place, told = (t.encode("utf-8", "backslashreplace").decode() for t in (where, message))
        self.problems.append(Problem(place, kind, told))

    @contextmanager
    def problem_at(
        self, where: str, must: str = "", kind: Kind = "bad line", errors: Errors = (ValueError,)
    ) -> Iterator[None]:
        """Turn errors into a problem at this place.

        What must hold comes before what an error says, if that is not Unusable, which says both.
        """
        try:
            yield
        except Unusable as error:
            self.add_problem(where, error.kind, str(error))
        except errors as error:
            self.add_problem(where, kind, f"{must}: {error}" if must else str(error))

    def usable(
        self, function: Callable[[Entry], Result], entries: Entries
    ) -> Iterator[tuple[Entry, Result]]:
        """Yield entries, in their order, each with what a function makes of it, some ahead.

        Those for which it raises Unusable, or whose sound cannot be read, become problems.
        """

        def tried(entry: Entry) -> tuple[Entry, Result | Unusable]:
            try:
                return entry, function(entry)
            except Unusable as error:
                return entry, error
            except FileNotFoundError:
                message = f"its audio must be a file, found no {entry.utterance.audio}"
                return entry, Unusable(message, "audio missing")
            except (CorruptAudio, OSError, ValueError) as error:  # a path can be none: ValueError
                return entry, Unusable(str(error), "audio unreadable")

        for entry, result in in_order(tried, entries):
            if isinstance(result, Unusable):
                self.add_problem(entry.where, result.kind, str(result))
            else:
                yield entry, result


def located(audio: str, folder: Path) -> str:
    """Return the file that a path names, relative to a folder or else to the current one.

    A name is found however its accents are written: NFC, as most do, or NFD, as macOS does.
    """
    places = [audio_in(place, audio) for place in (folder.absolute(), Path.cwd())]
    places += [unicodedata.normalize(form, path) for path in places for form in ("NFC", "NFD")]
    exist = (place for place in places if Path(place.partition(".tar#")[0]).exists())
    return next(exist, places[0])


def nfc(name: str) -> str:
    """Return a name in Unicode's NFC form, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def encoding_of(head: bytes) -> str:
    """Return what a text that begins so is to be read as: UTF-8, or UTF-16 if it has its mark."""
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if is_utf16 else "utf-8-sig"


# Rows to utterances


def span_id(stem: str, start_s: float, duration_s: float | None) -> str:
    """Return the id of a span of a recording: the recording and its two times in milliseconds."""
    end = "" if duration_s is None else f"-{round(1000 * (start_s + duration_s)):08d}"
    return f"{stem}-{round(1000 * start_s):08d}{end}"


def utterance_from(row: Row, columns: Mapping[str, str], stem: str, audio: str = "") -> Utterance:
    """Return the utterance of a row of a table; columns that no field takes are kept as they are.

    The stem is what the audio is called: the id, unless a column holds it. A span of the audio, or
    a channel, has its times and its number in its id as well, and the stem is its recording. A
    value that cannot be what its field needs, or an unknown language, is a ValueError.
    """
    values = {name: row.get(column) for name, column in columns.items()}
    words = {name: _words(name, values.get(name)) for name in _WORDS}
    start_s, duration_s = _span(values)
    # A name, as of a broadcaster, is a channel of another kind.
    number = re.fullmatch("[0-9]{1,3}", str(values.get("channel")))
    is_part = start_s is not None or number is not None
    name = stem if number is None else f"{stem}-channel{int(number[0])}"
    return Utterance(
        id=words["id"] or (name if start_s is None else span_id(name, start_s, duration_s)),
        audio=audio,
        start_s=start_s or 0.0,
        duration_s=duration_s,
        text=words["text"],
        speaker=words["speaker"],
        recording=words["recording"] or (stem if is_part else None),
        language=known_language(words["language"]),
        source=words["source"],
        split=SPLITS.get((words["split"] or "").lower(), words["split"]),
        channel=None if number is None else int(number[0]),
        extra=others_of(row, {columns[name] for name in columns if name != "channel" or number}),
    )


_WORDS = ("id", "text", "speaker", "recording", "language", "source", "split")
# What people call the parts of a corpus, as folders and in tables.
SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


def others_of(row: Row, taken: Collection[str]) -> dict[str, Any] | None:
    """Return the columns of a row that are not taken, renamed where a field has their name."""
    others = {
        f"original_{name}" if name in UTTERANCE_FIELDS else name: value
        for name, value in row.items()
        if name and name not in taken and value is not None and value != "" and value == value
    }
    return others or None


def known_language(language: str | None) -> str | None:
    """Return the code of a language that Whisper knows; Unusable is raised for another."""
    try:
        return None if language is None else language_code(language)
    except ValueError as error:
        raise Unusable(str(error), "unknown language") from error


def find_columns(names: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each field that has one, whatever the case of its name.

    A column that the user has chosen for a field and that is not there is a BadSource.
    """
    by_name = {name.strip().lower(): name for name in reversed(names)}
    columns = {}
    for name, known_as in FIELDS.items():
        wanted = (chosen[name].lower(),) if name in chosen else known_as
        found = next((by_name[called] for called in wanted if called in by_name), None)
        if name in chosen and found is None:
            must = f"--column {name}={chosen[name]} must name a column"
            raise BadSource(f"{must}, found {', '.join(names)}")
        if found is not None and (name in chosen or found not in chosen.values()):
            columns[name] = found
    return columns


def _words(name: str, value: object) -> str | None:
    """Return a value as words with single spaces; None where there are none."""
    if value is None or value != value:  # nan stands for nothing in many tables
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{name} must be text or a number, found {str(value)[:60]!r}")
    return " ".join(str(value).split()) or None


def _span(values: Row) -> tuple[float | None, float | None]:
    """Return start and duration; a duration without a start is that of the whole, and not used."""
    start_s = _seconds(values, "start")
    if start_s is None:
        return None, None
    end_s, duration_s = _seconds(values, "end"), _seconds(values, "duration")
    length_s = duration_s if end_s is None else end_s - start_s
    if not (0 <= start_s < math.inf and (length_s is None or 0 < length_s < math.inf)):
        found = f"duration {duration_s}" if end_s is None else f"end {end_s}"
        must = "a span must start at 0 or later and end after its start"
        raise ValueError(f"{must}, found start {start_s}, {found}")
    return start_s, None if length_s is None else round(length_s, 6)


def _seconds(values: Row, name: str) -> float | None:
    words = _words(name, values.get(name))
    try:
        return None if words is None else float(words)
    except ValueError:
        raise ValueError(f"{name} must be a number of seconds, found {words!r}") from None


# Tables of transcripts


def read_table(source: Source, path: Path | None = None, folder: Path | None = None) -> Entries:
    """Yield the utterances of a table that names its audio: the source, or another.

    An audio path is relative to a folder, that of the table if none is given, or else to the
    current one. An utterance's id is the path without its ending, with the times of its span. A
    table that cannot be read, or names no audio, is BadTranscripts.
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
    ahead = deque(islice(lines, _CELL_LINES))
    while ahead:
        n = 1
        while (cells := form.cells([line for _, line in islice(ahead, n)])) is None:
            if n == len(ahead) or _names_audio(ahead[n][1], form.delimiter):
                break
            n += 1
        yield ahead[0][0], cells
        for _ in range(1 if cells is None else n):
            ahead.popleft()
            ahead.extend(islice(lines, 1))


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

    What cannot be used is a problem of the source; places begin with the name, or the path. UTF-16
    is BadTranscripts.
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
