"""LibriSpeech's layout: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside the audio it is of."""

from pathlib import Path, PurePosixPath

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    Entry,
    Found,
    Problem,
    nfc,
)
from distilwhisper.corpus.importing.folder import files_below
from distilwhisper.corpus.records import Utterance

_ENDING = ".trans.txt"


def read_librispeech(source: Path) -> Found:
    """Yield the utterances of a folder of LibriSpeech, chapter by chapter.

    Speaker and recording are those of the path, and so is the source: the folder above the
    speaker's, if it is not the one asked for. Audio without a line has no text.
    """
    folders: dict[PurePosixPath, list[str]] = {}
    problems: list[Problem] = []
    for name in files_below(source, problems):
        folders.setdefault(PurePosixPath(name).parent, []).append(name)
    yield from problems
    for folder in sorted(folders):
        yield from _chapter(source, folder, sorted(folders[folder]))


def _chapter(source: Path, folder: PurePosixPath, names: list[str]) -> Found:
    lines: dict[str, tuple[str, str]] = {}
    for name in names:
        if name.endswith(_ENDING):
            for number, line in enumerate((source / name).read_bytes().splitlines(), start=1):
                where = f"{name}:{number}"
                try:
                    key, *words = line.decode("utf-8-sig").split() or [""]
                except UnicodeDecodeError as error:
                    yield Problem(where, "bad line", f"must be UTF-8 text, found: {error}")
                    continue
                key = nfc(key)
                if key in lines:
                    yield Problem(where, "bad line", f"speaks of {key} a second time")
                elif key:
                    lines[key] = where, " ".join(words)
    speaker, chapter = (source.absolute() / folder).parts[-2:]
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            continue
        _, text = lines.pop(nfc(path.stem), ("", ""))
        utterance = Utterance(
            id=path.stem,
            audio=f"{source.absolute()}/{name}",
            text=text or None,
            speaker=speaker,
            recording=f"{speaker}-{chapter}",
            source="/".join(folder.parts[:-2]) or None,
        )
        yield Entry(name, utterance)
    for key, (where, _) in lines.items():
        message = f"must be of an audio file in this folder, found none called {key}"
        yield Problem(where, "transcript without audio", message)
