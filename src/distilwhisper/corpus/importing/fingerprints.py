"""Fingerprints of a source, which change with its files, transcripts and audio."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distilwhisper.corpus.importing.entries import Source
from distilwhisper.corpus.importing.folder import files_below
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import read_manifest
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.sources import digest_of

N_READERS = 8  # that wait for the disk at the same time

# Of files that people correct by hand; Kaldi's have no ending. They are read whole.
_TRANSCRIPTS = frozenset((".csv", ".json", ".jsonl", ".scp", ".tsv", ".txt", ""))


def source_fingerprints(source: Path, *, skip: Path) -> dict[str, str]:
    """Return fingerprints of a source, by name, for a repeated run to compare.

    Of sound, which may be large, the size counts, and what it holds at its beginning, middle and
    end; of transcripts all that they hold. The time of change does not: a copy is the same source.

    Args:
        source: a folder, or a manifest with the files that it names.
        skip: a folder below the source that is not of it: that of the run.
    """
    if source.is_dir():
        below = (source / name for name in files_below(Source(source, ImportSettings(), skip)))
        own = skip.resolve()
        files = [path for path in below if own not in path.resolve().parents]
        texts = [path for path in files if path.suffix.lower() in _TRANSCRIPTS]
    else:
        manifest = read_manifest(source)
        audio = {manifest.audio_source(u).partition(".tar#") for u in manifest.utterances}
        named = {Path(path + (sign and ".tar")) for path, sign, _ in audio}
        files, texts = [source, *(path for path in named if path.is_file())], [source]
    with ThreadPoolExecutor(N_READERS) as threads:
        sound = _digest(threads.map(_line, {*files} - {*texts}))
    return {
        "source": str(source.resolve()),
        "number of files in the source": str(len(files)),
        "transcripts in the source": _digest(f"{p} {fingerprint(p)}" for p in texts),
        "sound in the source": sound,
    }


def _line(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path} {digest_of(file).hex()}"


def _digest(lines: Iterable[str]) -> str:
    whole = "\n".join(sorted(lines)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(whole).hexdigest()
