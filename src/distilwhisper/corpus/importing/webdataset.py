"""WebDataset's shards: plain tars in which KEY.flac, KEY.txt and KEY.json are one sample."""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    BadSource,
    Entry,
    Found,
    Problem,
    nfc,
)
from distilwhisper.corpus.importing.folder import BESIDE_SUFFIXES, files_below, told_by
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import Utterance


class _Member(NamedTuple):
    key: str
    name: str
    data: bytes | None  # of a transcript

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name.lower())[1]


def read_webdataset(source: Path, settings: ImportSettings) -> Found:
    """Yield the samples of tar shards in their order; their audio stays where it is.

    Members of one sample follow each other, and share what precedes the first dot of their name.
    An utterance's id is the shard's name and that key.

    Args:
        source: a tar, or a folder with tars below it.
        settings: names of keys in the JSON.

    Raises:
        BadSource: there is no tar.
    """
    problems: list[Problem] = []
    if source.is_dir():
        names = [name for name in files_below(source, problems) if name.endswith(".tar")]
        shards = [source / name for name in names]
    else:
        shards, names = [source], [source.name]
    yield from problems
    if not shards:
        raise BadSource(f"{source} must be a .tar, or hold some, found none")
    for name, shard in zip(names, shards, strict=True):
        yield from _shard(shard, name, settings)


def _shard(shard: Path, name: str, settings: ImportSettings) -> Found:
    try:
        with tarfile.open(shard, "r:") as tar:
            for _, members in groupby(_members(tar), key=lambda member: member.key):
                yield from _samples(list(members), shard, name, settings)
    except (tarfile.TarError, OSError) as error:
        message = f"not a plain tar that can be read to its end: {error}"
        yield Problem(name, "unreadable", message)


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        name = info.name.removeprefix("./")
        folder, base = posixpath.split(name)
        if not info.isreg() or base.startswith("."):
            continue
        data = None
        if name.lower().endswith(BESIDE_SUFFIXES) and (file := tar.extractfile(info)):
            data = file.read()
        yield _Member(nfc(posixpath.join(folder, base.partition(".")[0])), name, data)


def _samples(
    members: list[_Member], shard: Path, shard_name: str, settings: ImportSettings
) -> Found:
    """Yield the one utterance of a sample; none if it has neither audio nor a transcript."""
    audio = [member.name for member in members if member.suffix in AUDIO_SUFFIXES]
    transcripts = [member for member in members if member.data is not None]
    if len(audio) != 1:
        if audio or transcripts:
            names = ", ".join(member.name for member in members)
            message = f"a sample must have one audio file, found {names}"
            yield Problem(f"{shard_name}#{members[0].key}", "audio missing", message)
        return
    where = f"{shard_name}#{audio[0]}"
    id_ = f"{posixpath.splitext(shard_name)[0]}/{members[0].key}"
    told = Utterance(id=id_, audio="")
    for member in sorted(transcripts, key=lambda member: member.suffix):  # .json, then .txt
        try:
            told = told_by(member.data or b"", member.name, told, settings)
        except ValueError as error:
            message = f"its transcript {member.name} cannot be read: {error}"
            yield Problem(where, "transcript unreadable", message)
            return
    yield Entry(where, replace(told, audio=f"{shard.absolute()}#{audio[0]}"))
