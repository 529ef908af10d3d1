"""Sound that lies in no file of its own, stored once in plain tars beside a manifest.

A shard is named after its content, so that what an earlier manifest points at is never rewritten,
and an import that is done again makes the same files. Nothing here deletes a finished shard.
"""

import hashlib
import io
import posixpath
import re
import tarfile
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

from distilwhisper.corpus.importing.entries import Entries, Entry
from distilwhisper.files import replacing, sync
from distilwhisper.run.locks import lock_folder

SHARD_BYTES = 1 << 30


def stored(entries: Entries, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> Entries:
    """Yield entries in order, with all of their sound in files.

    Entries wait until their shard has its name.

    Args:
        entries: those with data are stored; the others pass.
        folder: of the shards; made when there is something to store.
        shard_bytes: a shard ends with the sound that reaches this size.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
        FolderInUse: another import writes there.
    """
    for index in count():
        for entry in entries:
            if entry.data is not None:
                break
            yield entry
        else:
            return
        with lock_folder(folder):
            members = _written(chain([entry], entries), folder, index, shard_bytes)
        yield from members


def _written(entries: Entries, folder: Path, index: int, shard_bytes: int) -> list[Entry]:
    """Write a shard, and return the entries up to its end, in which its members are named."""
    members: list[Entry] = []
    digest = hashlib.blake2b(digest_size=6)
    n_bytes = n_members = 0
    unnamed = folder / ".shard.tar"
    with replacing(unnamed) as file, tarfile.TarFile(fileobj=file, mode="w") as tar:
        for entry in entries:
            if entry.data is not None:
                suffix = posixpath.splitext(entry.utterance.audio)[1].lower()
                suffix = suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""
                info = tarfile.TarInfo(f"{n_members:06d}{suffix}")
                info.size = len(entry.data)
                tar.addfile(info, io.BytesIO(entry.data))
                digest.update(f"{info.name} {info.size} ".encode() + entry.data)
                n_members, n_bytes = n_members + 1, n_bytes + info.size
                utterance = replace(entry.utterance, audio=f"#{info.name}")
                entry = entry._replace(utterance=utterance, data=None)
            members.append(entry)
            if n_bytes >= shard_bytes:
                break
    shard = unnamed.replace(folder / f"audio-{index:05d}-{digest.hexdigest()}.tar").absolute()
    sync(folder)
    return [
        e._replace(utterance=replace(e.utterance, audio=f"{shard}{e.utterance.audio}"))
        if e.utterance.audio.startswith("#")
        else e
        for e in members
    ]
