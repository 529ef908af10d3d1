"""Sound that lies in no file of its own, stored once in plain tars beside a manifest.

A shard is named after its content, so that what an earlier manifest points at is never rewritten,
and an import that is done again makes the same files. Nothing here deletes a finished shard.
"""

import hashlib
import io
import os
import posixpath
import re
import tarfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from distilwhisper.corpus.importing.entries import Entries, Entry
from distilwhisper.corpus.store import StoreError
from distilwhisper.run.locks import lock_folder

SHARD_BYTES = 1 << 30


def stored(entries: Entries, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> Entries:
    """Yield entries in order, with all of their sound in files.

    What is stored is held back until its shard has its name.

    Args:
        entries: those with data are stored; the others pass.
        folder: of the shards; made when there is something to store.
        shard_bytes: a shard ends with the sound that reaches this size.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
        FolderInUse: another import writes there.
    """
    waiting: list[Entry] = []
    index = 0
    shard: _Shard | None = None
    with ExitStack() as exits:
        for item in entries:
            if item.data is not None:
                if shard is None:
                    exits.enter_context(lock_folder(folder))
                    shard = exits.enter_context(_Shard(folder))
                item = shard.add(item, item.data)
            if shard is None:
                yield item
                continue
            waiting.append(item)
            if shard.n_bytes >= shard_bytes:
                yield from _in_shard(waiting, shard.finish(index))
                waiting, shard, index = [], None, index + 1
        if shard is not None:
            yield from _in_shard(waiting, shard.finish(index))


class _Shard:
    """A tar that has no name yet; it is gone on exit unless it was finished."""

    def __init__(self, folder: Path) -> None:
        self.n_bytes = 0
        self._n_members = 0
        self._folder = folder
        self._temporary = folder / ".shard.tmp"  # the folder is locked
        self._digest = hashlib.blake2b(digest_size=6)
        self._file = self._temporary.open("wb")
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w")

    def __enter__(self) -> "_Shard":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, entry: Entry, data: bytes) -> Entry:
        """Store a sound, and return it as a member, in front of which the shard is missing."""
        utterance = entry.utterance
        suffix = posixpath.splitext(utterance.audio)[1].lower()
        kept = suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""
        info = tarfile.TarInfo(f"{self._n_members:06d}{kept}")
        info.size = len(data)
        try:
            self._tar.addfile(info, io.BytesIO(data))
        except OSError as error:
            raise _full(self._folder, error) from error
        self._digest.update(f"{info.name} {info.size} ".encode())
        self._digest.update(data)
        self._n_members += 1
        self.n_bytes += len(data)
        return entry._replace(utterance=replace(utterance, audio=f"#{info.name}"), data=None)

    def finish(self, index: int) -> Path:
        """Flush the shard to the disk, give it its name, and return that."""
        path = self._folder / f"audio-{index:05d}-{self._digest.hexdigest()}.tar"
        try:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(path)
        except OSError as error:
            raise _full(self._folder, error) from error
        return path.absolute()


def _in_shard(waiting: list[Entry], shard: Path) -> Entries:
    for item in waiting:
        if item.utterance.audio.startswith("#"):
            audio = f"{shard}{item.utterance.audio}"
            item = item._replace(utterance=replace(item.utterance, audio=audio))
        yield item


def _full(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{folder} could not be written: {error.strerror or error}. Shards finished before are "
        "kept; free space, or make the place writable, and run the same command again"
    )
