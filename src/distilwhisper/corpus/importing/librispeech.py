"""LibriSpeech's layout: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside the audio it is of."""

from pathlib import Path, PurePosixPath

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    Entries,
    Entry,
    Line,
    Problem,
    keyed_lines,
    nfc,
    without_audio,
)
from distilwhisper.corpus.importing.folder import files_below
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import Utterance

_ENDING = ".trans.txt"


def read_librispeech(source: Path, _: ImportSettings, __: Path) -> Entries:
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


def _chapter(source: Path, folder: PurePosixPath, names: list[str]) -> Entries:
    problems: list[Problem] = []
    lines: dict[str, Line] = {}
    for name in names:
        if name.endswith(_ENDING):
            lines |= keyed_lines(source / name, name, problems)
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
    yield from problems
    yield from without_audio(lines)
