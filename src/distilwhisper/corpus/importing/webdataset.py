"""WebDataset's shards: plain tars in which KEY.flac, KEY.txt and KEY.json are one sample."""

import posixpath
import tarfile
from itertools import groupby, starmap
from pathlib import Path
from typing import NamedTuple

from distilwhisper.corpus.importing.entries import AUDIO_SUFFIXES, BadSource, Entries, Source, nfc
from distilwhisper.corpus.importing.folder import (
    add_torn_tar,
    files_below,
    members_of,
    with_transcripts,
)
from distilwhisper.corpus.records import Utterance


class _Member(NamedTuple):
    name: str
    data: bytes | None  # of a transcript

    @property
    def key(self) -> str:
        folder, base = posixpath.split(self.name)
        return nfc(posixpath.join(folder, base.partition(".")[0]))

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name.lower())[1]


def read_webdataset(source: Source) -> Entries:
    """Yield the samples of tar shards in their order; their audio stays where it is.

    Members of one sample follow each other, and share what precedes the first dot of their name.
    An utterance's id is the shard's name and that key.

    Args:
        source: a tar, or a folder with tars below it; its settings name keys in the JSON.

    Raises:
        BadSource: there is no tar.
    """
    path = source.path
    if path.is_dir():
        shards = {n: path / n for n in files_below(source) if n.endswith(".tar")}
    else:
        shards = {path.name: path}
    if not shards:
        raise BadSource(f"{path} must be a .tar, or hold some, found none")
    for name, shard in shards.items():
        try:
            with tarfile.open(shard, "r:") as tar:
                members = starmap(_Member, members_of(tar))
                for _, sample in groupby(members, key=lambda member: member.key):
                    yield from _samples(list(sample), shard, name, source)
        except (tarfile.TarError, OSError) as error:
            add_torn_tar(source, name, error)


def _samples(members: list[_Member], shard: Path, shard_name: str, source: Source) -> Entries:
    """Yield the one utterance of a sample; none if it has neither audio nor a transcript."""
    audio = [member.name for member in members if member.suffix in AUDIO_SUFFIXES]
    transcripts = [member for member in members if member.data is not None]
    if len(audio) != 1:
        if audio or transcripts:
            names = ", ".join(member.name for member in members)
            message = f"a sample must have one audio file, found {names}"
            source.add_problem(f"{shard_name}#{members[0].key}", "audio missing", message)
        return
    id_ = f"{posixpath.splitext(shard_name)[0]}/{members[0].key}"
    utterance = Utterance(id=id_, audio=f"{shard.absolute()}#{audio[0]}")
    transcripts.sort(key=lambda member: member.suffix)  # .json, then .txt
    yield from with_transcripts(source, f"{shard_name}#{audio[0]}", utterance, transcripts)
