"""Kaldi's data directories and LibriSpeech's layout: text files whose lines begin with a key.

    DIRECTORY/wav.scp, text, segments, utt2spk, utt2lang     Kaldi
    SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt                LibriSpeech, beside its audio

Of Kaldi's files only wav.scp must be there.
"""

import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    BadSource,
    Entries,
    Entry,
    Source,
    Unusable,
    known_language,
    located,
    nfc,
)
from distilwhisper.corpus.importing.folder import files_below
from distilwhisper.corpus.records import Utterance

Lines: TypeAlias = dict[str, tuple[str, str]]  # the place of a line and the rest of it, by its key


def _keyed_lines(source: Source, path: Path, name: str) -> Lines:
    """Return the lines of a text file by their first word; none where there is no file.

    The source gets the lines that cannot be used as problems, at places in the file so named.
    """
    lines: Lines = {}
    raw = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(raw, start=1):
        with source.problem_at(where := f"{name}:{number}"):
            try:
                key, *words = line.decode("utf-8-sig").split() or [""]
            except UnicodeDecodeError as error:
                raise Unusable(f"must be UTF-8 text, found: {error}") from error
            if nfc(key) in lines:
                raise Unusable(f"names {key} a second time")
            if key:
                lines[nfc(key)] = where, " ".join(words)
    return lines


def _add_without_audio(source: Source, lines: Lines) -> None:
    """Make a problem of every line that is of no audio."""
    for key, (where, _) in lines.items():
        message = f"must name an utterance that has audio, found {key!r}"
        source.add_problem(where, "transcript without audio", message)


def read_kaldi(source: Source) -> Entries:
    """Yield the utterances of a Kaldi data directory, in the order of segments, else of wav.scp.

    Paths are relative to the directory, or else to the current folder.

    Raises:
        BadSource: there is no wav.scp.
    """
    folder = source.path
    if not (folder / "wav.scp").is_file():
        raise BadSource(f"{folder} must be a Kaldi data directory, found no wav.scp in it")
    names = ("wav.scp", "segments", "text", "utt2spk", "utt2lang")
    recordings, segments, *beside = (
        _keyed_lines(source, folder / name, str(folder / name)) for name in names
    )
    has_segments = (folder / "segments").exists()

    for key, (where, value) in (segments if has_segments else recordings).items():
        text, speaker, language = (file.pop(key, ("", ""))[1] or None for file in beside)
        with source.problem_at(where):
            name, start_s, duration_s = _segment(nfc(value)) if has_segments else (key, 0.0, None)
            if name not in recordings:
                raise Unusable(f"must name a recording of wav.scp, found {name!r}", "audio missing")
            audio = recordings[name][1]
            if not audio:
                raise Unusable(f"must name the audio of {name} in wav.scp")
            _check_is_file(audio)
            utterance = Utterance(
                id=key,
                audio=located(audio, folder),
                start_s=start_s,
                duration_s=duration_s,
                text=text,
                speaker=speaker,
                recording=name if has_segments else None,
                language=known_language(language),
            )
            yield Entry(where, utterance)
    for file in beside:
        _add_without_audio(source, file)


def _segment(rest: str) -> tuple[str, float, float | None]:
    """Return recording, start and duration; an end below zero is that of the recording.

    Raises:
        Unusable: the line has other fields.
    """
    with suppress(ValueError):
        name, first, last = rest.split()
        start_s, end_s = float(first), float(last)
        if start_s >= 0 and (end_s < 0 or start_s < end_s < float("inf")):
            return name, start_s, None if end_s < 0 else round(end_s - start_s, 6)
    raise Unusable(
        "must be: utterance recording start end, in seconds, the end behind the start; found "
        f"{rest!r}"
    )


def _check_is_file(audio: str) -> None:
    """See that an entry of wav.scp names a file of sound.

    Raises:
        Unusable: it is a command, or a part of an archive.
    """
    if audio.endswith("|"):
        named = [word for word in audio[:-1].split() if Path(word).suffix.lower() in AUDIO_SUFFIXES]
        way_out = "run it once and name the file that it makes"
        if len(named) == 1:
            way_out = f"name {named[0]} itself, if the command does no more than decode it"
        raise Unusable(f"commands are not run, found {audio!r}; {way_out}", "unsupported")
    if re.search(r":\d+$", audio) or audio == "-":
        message = f"must be a file of sound, found {audio!r}; write archives out as files"
        raise Unusable(message, "unsupported")


def read_librispeech(source: Source) -> Entries:
    """Yield the utterances of a folder of LibriSpeech, chapter by chapter.

    Speaker and recording are those of the path, and so is the source: the folder above the
    speaker's, if it is not the source itself. Audio without a line has no text.
    """
    chapters: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path in map(PurePosixPath, files_below(source)):
        chapters.setdefault(path.parent, []).append(path)
    for folder, paths in sorted(chapters.items()):
        lines: Lines = {}
        for path in sorted(paths):
            if path.name.endswith(".trans.txt"):
                lines |= _keyed_lines(source, source.path / path, str(path))
        speaker, chapter = (source.path.absolute() / folder).parts[-2:]
        for path in sorted(paths):
            if path.suffix.lower() not in AUDIO_SUFFIXES:
                continue
            _, text = lines.pop(nfc(path.stem), ("", ""))
            utterance = Utterance(
                id=path.stem,
                audio=f"{source.path.absolute()}/{path}",
                text=text or None,
                speaker=speaker,
                recording=f"{speaker}-{chapter}",
                source="/".join(folder.parts[:-2]) or None,
            )
            yield Entry(str(path), utterance)
        _add_without_audio(source, lines)
