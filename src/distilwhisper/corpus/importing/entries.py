"""What the readers of all layouts yield, and how they report what cannot be used."""

import codecs
import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from distilwhisper.corpus.importing.settings import FIELDS, ImportSettings
from distilwhisper.corpus.records import UTTERANCE_FIELDS, Utterance, audio_in
from distilwhisper.errors import DistilwhisperError
from distilwhisper.languages import language_code
from distilwhisper.speech.audio import AudioFacts

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


class BadSource(ValueError):
    """A source is not what it was taken for; nothing of it is imported."""


class BadTranscripts(BadSource):
    """A table of transcripts cannot be read."""


class UnreadableSource(DistilwhisperError):
    """A source cannot be read to its end, through no fault of the command."""


class Unusable(ValueError):
    """Something that a source holds cannot be used; the message says what must hold.

    Attributes:
        kind: what problems are counted by.
    """

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
    # Its audio is an absolute path, or ``shard.tar#member``; no duration stands for all that
    # follows the start
    utterance: Utterance
    # The sound itself where it lies in no file; the audio is then a name for it
    data: bytes | None = None
    # Of its sound; None before that has been opened. Then it has a duration.
    facts: AudioFacts | None = None


Entries: TypeAlias = Iterator[Entry]


@dataclass(frozen=True)
class Source:
    """A source that is being read, and its problems so far."""

    path: Path  # of the source, or the hub id of a dataset
    settings: ImportSettings  # how to read it
    out: Path  # the manifest to be
    problems: list[Problem] = field(default_factory=list)  # what could not be used

    def add_problem(self, where: str, kind: Kind, message: str) -> None:
        """Add a :class:`Problem`."""
        self.problems.append(Problem(where, kind, message))

    @contextmanager
    def problem_at(self, where: str) -> Iterator[None]:
        """Turn a ValueError into a problem at this place."""
        try:
            yield
        except ValueError as error:
            kind = error.kind if isinstance(error, Unusable) else "bad line"
            self.add_problem(where, kind, str(error))


def located(audio: str, folder: Path) -> str:
    """Return the file that a path names, relative to a folder or else to the current one.

    A name is found however its accents are written: NFC, as most do, or NFD, as macOS does.
    """
    places = [audio_in(place, audio) for place in (folder.absolute(), Path.cwd())]
    places += [unicodedata.normalize(form, path) for path in places for form in ("NFC", "NFD")]
    for place in places:
        if Path(place.partition(".tar#")[0]).exists():
            return place
    return places[0]


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


def utterance_from(row: Mapping[str, object], columns: Mapping[str, str], stem: str) -> Utterance:
    """Return the utterance of a row of a table; it has no audio yet.

    Args:
        row: values by column, of any kind. Those that no field takes are kept as they are.
        columns: which of them holds a field; see :func:`find_columns`.
        stem: what the audio is called: the id, unless a column holds it. A span of the audio, or a
            channel, has its times and its number in its id as well, and the stem is its recording.

    Raises:
        ValueError: a value cannot be what its field needs, or Whisper does not know the language.
    """
    values = {name: row.get(column) for name, column in columns.items()}
    span, channel = _span(values), _channel(values)
    taken = {column for name, column in columns.items() if name != "channel" or channel is not None}
    start_s, duration_s = span or (0.0, None)
    name = stem if channel is None else f"{stem}-channel{channel}"
    is_part = span is not None or channel is not None
    split = _words(values, "split")
    return Utterance(
        id=_words(values, "id") or (span_id(name, start_s, duration_s) if span else name),
        audio="",
        start_s=start_s,
        duration_s=duration_s,
        text=_words(values, "text"),
        speaker=_words(values, "speaker"),
        recording=_words(values, "recording") or (stem if is_part else None),
        language=known_language(_words(values, "language")),
        source=_words(values, "source"),
        split=None if split is None else SPLITS.get(split.lower(), split),
        channel=channel,
        extra=others_of(row, taken),
    )


# What people call the parts of a corpus, as folders and in tables.
SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


def others_of(row: Mapping[str, object], taken: Collection[str]) -> dict[str, object] | None:
    """Return the columns of a row that are not taken, renamed where a field has their name."""
    others = {
        f"original_{name}" if name in UTTERANCE_FIELDS else name: value
        for name, value in row.items()
        if name and name not in taken and value is not None and value != "" and value == value
    }
    return others or None


def known_language(language: str | None) -> str | None:
    """Return the code of a language as :func:`language_code` does.

    Raises:
        Unusable: Whisper does not know it.
    """
    try:
        return None if language is None else language_code(language)
    except ValueError as error:
        raise Unusable(str(error), "unknown language") from error


def find_columns(names: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each field that has one.

    Args:
        names: of all columns; their case does not matter.
        chosen: the columns that the user named, by field.

    Raises:
        BadSource: a chosen column is not there.
    """
    by_name = {name.strip().lower(): name for name in reversed(names)}
    columns = {}
    for name, known_as in FIELDS.items():
        wanted = (chosen[name].lower(),) if name in chosen else known_as
        found = next((by_name[called] for called in wanted if called in by_name), None)
        if name in chosen and found is None:
            raise BadSource(
                f"--column {name}={chosen[name]} must name a column, found {', '.join(names)}"
            )
        if found is not None and (name in chosen or found not in chosen.values()):
            columns[name] = found
    return columns


def _words(values: Mapping[str, object], name: str) -> str | None:
    """Return a value as words with single spaces; None where there are none."""
    value = values.get(name)
    if value is None or value != value:  # nan stands for nothing in many tables
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{name} must be text or a number, found {str(value)[:60]!r}")
    return " ".join(str(value).split()) or None


def _span(values: Mapping[str, object]) -> tuple[float, float | None] | None:
    """Return start and duration; a duration without a start is that of the whole, and not used."""
    start_s = _seconds(values, "start")
    if start_s is None:
        return None
    end_s, duration_s = _seconds(values, "end"), _seconds(values, "duration")
    length_s = duration_s if end_s is None else end_s - start_s
    if not (0 <= start_s < math.inf and (length_s is None or 0 < length_s < math.inf)):
        raise ValueError(
            f"a span must start at 0 or later and end after its start, found start {start_s}, "
            + (f"duration {duration_s}" if end_s is None else f"end {end_s}")
        )
    return start_s, None if length_s is None else round(length_s, 6)


def _channel(values: Mapping[str, object]) -> int | None:
    """Return the number of a channel; a name, as of a broadcaster, is of another kind."""
    value = str(values.get("channel"))
    return int(value) if re.fullmatch("[0-9]{1,3}", value) else None


def _seconds(values: Mapping[str, object], name: str) -> float | None:
    words = _words(values, name)
    if words is None:
        return None
    try:
        return float(words)
    except ValueError:
        raise ValueError(f"{name} must be a number of seconds, found {words!r}") from None
