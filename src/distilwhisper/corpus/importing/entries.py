"""What the readers of all layouts yield, and how they report what cannot be used."""

import codecs
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from distilwhisper.corpus.ahead import in_order
from distilwhisper.corpus.importing.settings import FIELDS, ImportSettings
from distilwhisper.corpus.records import UTTERANCE_FIELDS, Utterance, audio_in
from distilwhisper.errors import DistilwhisperError
from distilwhisper.languages import language_code
from distilwhisper.speech.audio import AudioFacts

N_THREADS = 8  # they wait for disks more than they compute
AUDIO_SUFFIXES = frozenset(
    ".3gp .aac .ac3 .aif .aifc .aiff .amr .au .avi .caf .flac .g722 .m4a .m4b .m4v .mka .mkv .mov "
    ".mp2 .mp3 .mp4 .mpeg .mpg .oga .ogg .opus .spx .w64 .wav .webm .wma".split()
)

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

        Those for which it raises Unusable become problems.
        """

        def tried(entry: Entry) -> tuple[Entry, Result | Unusable]:
            try:
                return entry, function(entry)
            except Unusable as error:
                return entry, error

        for entry, result in in_order(tried, entries, n_threads=N_THREADS, n_ahead=2 * N_THREADS):
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


def span_id(stem: str, start_s: float, duration_s: float | None) -> str:
    """Return the id of a span of a recording: the recording and its two times in milliseconds."""
    end = "" if duration_s is None else f"-{round(1000 * (start_s + duration_s)):08d}"
    return f"{stem}-{round(1000 * start_s):08d}{end}"


def utterance_from(row: Row, columns: Mapping[str, str], stem: str, audio: str = "") -> Utterance:
    """Return the utterance of a row of a table.

    Args:
        row: columns that no field takes are kept as they are.
        columns: which of them holds a field; see :func:`find_columns`.
        stem: what the audio is called: the id, unless a column holds it. A span of the audio, or a
            channel, has its times and its number in its id as well, and the stem is its recording.
        audio: where it is, if that is known yet.

    Raises:
        ValueError: a value cannot be what its field needs, or Whisper does not know the language.
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

    Raises:
        BadSource: a column that the user has chosen for a field is not there.
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
