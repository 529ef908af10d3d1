"""Kaldi data directories: wav.scp, and where there are such text, segments, utt2spk, utt2lang."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    BadSource,
    Found,
    Problem,
    Unusable,
    entries_of,
    known_language,
    located,
    nfc,
    problem_of,
)
from distilwhisper.corpus.records import Utterance


def read_kaldi(source: Path) -> Found:
    """Yield the utterances of a Kaldi data directory, in the order of segments, else of wav.scp.

    Paths are relative to the directory, or else to the current folder. Where the files are in one
    order, as Kaldi wants them, they are read side by side; other orders cost memory.

    Raises:
        BadSource: there is no wav.scp.
    """
    if not (source / "wav.scp").is_file():
        raise BadSource(f"{source} must be a Kaldi data directory, found no wav.scp in it")
    beside = [_Beside(source / name) for name in ("text", "utt2spk", "utt2lang")]

    def made(span: _Span) -> list[Utterance]:
        text, speaker, language = (file.take(span.key) or None for file in beside)
        if span.fault is not None:
            raise Unusable(span.fault, "unsupported")
        utterance = Utterance(
            id=span.key,
            audio=located(span.audio, source),
            start_s=span.start_s,
            duration_s=span.duration_s,
            text=text,
            speaker=speaker,
            recording=span.recording,
            language=known_language(language),
        )
        return [utterance]

    has_segments = (source / "segments").exists()
    yield from entries_of(_segments(source) if has_segments else _recordings(source), made)
    for file in beside:
        yield from file.left_over()


class _Line(NamedTuple):
    key: str
    rest: str


class _Span(NamedTuple):
    """An utterance before it is known what is said in it."""

    key: str
    audio: str
    fault: str | None  # why the audio cannot be read
    recording: str | None = None
    start_s: float = 0.0
    duration_s: float | None = None


class _Beside:
    """A file with a line per utterance, read as far as it is asked; absent it has no lines."""

    def __init__(self, path: Path) -> None:
        self._lines = _lines(path) if path.exists() else iter(())
        self._passed: dict[str, tuple[str, str]] = {}
        self._problems: list[Problem] = []

    def take(self, key: str) -> str | None:
        """Return what the file says of an utterance."""
        if key in self._passed:
            return self._passed.pop(key)[1]
        for where, line in self._lines:
            if isinstance(line, Unusable):
                self._problems.append(problem_of(where, line))
            elif line.key == key:
                return line.rest
            elif line.key in self._passed:
                message = f"speaks of {line.key} a second time"
                self._problems.append(Problem(where, "bad line", message))
            else:
                self._passed[line.key] = where, line.rest
        return None

    def left_over(self) -> Iterator[Problem]:
        """Yield the lines that cannot be read, or that speak of no utterance."""
        self.take("")  # no line has this key: reads the rest
        yield from self._problems
        for key, (where, _) in self._passed.items():
            message = f"must be of an utterance, found {key!r}, which has no audio"
            yield Problem(where, "transcript without audio", message)


def _lines(path: Path) -> Iterator[tuple[str, _Line | Unusable]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                words = line.decode("utf-8-sig").split(maxsplit=1)
            except UnicodeDecodeError as error:
                yield f"{path}:{number}", Unusable(f"must be UTF-8 text, found: {error}")
                continue
            if words:
                rest = " ".join("".join(words[1:]).split())
                yield f"{path}:{number}", _Line(nfc(words[0]), rest)


def _recordings(source: Path) -> Iterator[tuple[str, _Span | Unusable]]:
    """Yield the lines of wav.scp."""
    for where, line in _lines(source / "wav.scp"):
        if isinstance(line, Unusable):
            yield where, line
        elif not line.rest:
            yield where, Unusable(f"must name the audio of {line.key}")
        else:
            yield where, _Span(line.key, line.rest, _fault(line.rest))


def _segments(source: Path) -> Iterator[tuple[str, _Span | Unusable]]:
    recordings: dict[str, _Span] = {}
    for where, recording in _recordings(source):
        if isinstance(recording, Unusable):
            yield where, recording
        else:
            recordings[recording.key] = recording
    for where, line in _lines(source / "segments"):
        try:
            if isinstance(line, Unusable):
                raise line
            name, start_s, duration_s = _segment(nfc(line.rest))
            if name not in recordings:
                message = f"must name a recording of wav.scp, found {name!r}"
                raise Unusable(message, "audio missing")
            yield (
                where,
                recordings[name]._replace(
                    key=line.key, recording=name, start_s=start_s, duration_s=duration_s
                ),
            )
        except Unusable as fault:
            yield where, fault


def _segment(rest: str) -> tuple[str, float, float | None]:
    """Return recording, start and duration; an end below zero is that of the recording.

    Raises:
        Unusable: the line has other fields.
    """
    wanted = "must be: utterance recording start end, in seconds, the end behind the start"
    try:
        name, first, last = rest.split()
        start_s, end_s = float(first), float(last)
    except ValueError:
        raise Unusable(f"{wanted}; found {rest!r}") from None
    if not (start_s >= 0 and (end_s < 0 or start_s < end_s < float("inf"))):
        raise Unusable(f"{wanted}; found {rest!r}")
    return name, start_s, None if end_s < 0 else round(end_s - start_s, 6)


def _fault(audio: str) -> str | None:
    """Return why an entry of wav.scp is no file of sound; None if it is one."""
    if audio.endswith("|"):
        named = [word for word in audio[:-1].split() if Path(word).suffix.lower() in AUDIO_SUFFIXES]
        way_out = "run it once and name the file that it makes"
        if len(named) == 1:
            way_out = f"name {named[0]} itself, if the command does no more than decode it"
        return f"commands are not run, found {audio!r}; {way_out}"
    if re.search(r":\d+$", audio) or audio == "-":
        return f"must be a file of sound, found {audio!r}; write archives out as files"
    return None
