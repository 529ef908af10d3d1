"""LibriSpeech's layout: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside the audio it is of."""

from pathlib import PurePosixPath

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    Entries,
    Entry,
    Source,
    nfc,
)
from distilwhisper.corpus.importing.folder import files_below
from distilwhisper.corpus.records import Utterance

_ENDING = ".trans.txt"


def read_librispeech(source: Source) -> Entries:
    """Yield the utterances of a folder of LibriSpeech, chapter by chapter.

    Speaker and recording are those of the path, and so is the source: the folder above the
    speaker's, if it is not the source itself. Audio without a line has no text.
    """
    folders: dict[PurePosixPath, list[str]] = {}
    for name in files_below(source):
        folders.setdefault(PurePosixPath(name).parent, []).append(name)
    for folder in sorted(folders):
        yield from _chapter(source, folder, sorted(folders[folder]))


def _chapter(source: Source, folder: PurePosixPath, names: list[str]) -> Entries:
    lines: dict[str, tuple[str, str]] = {}
    for name in names:
        if name.endswith(_ENDING):
            lines |= source.keyed_lines(source.path / name, name)
    speaker, chapter = (source.path.absolute() / folder).parts[-2:]
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            continue
        _, text = lines.pop(nfc(path.stem), ("", ""))
        utterance = Utterance(
            id=path.stem,
            audio=f"{source.path.absolute()}/{name}",
            text=text or None,
            speaker=speaker,
            recording=f"{speaker}-{chapter}",
            source="/".join(folder.parts[:-2]) or None,
        )
        yield Entry(name, utterance)
    source.add_without_audio(lines)
