"""Audio in files and plain tars, with its transcripts beside it or in tables.

Of WebDataset's shards, which are tars too, KEY.flac, KEY.txt and KEY.json are one sample.
"""

import json
import os
import posixpath
import tarfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    SPLITS,
    BadSource,
    BadTranscripts,
    Entries,
    Entry,
    Source,
    Unusable,
    encoding_of,
    find_columns,
    nfc,
    utterance_from,
)
from distilwhisper.corpus.importing.tables import TABLE_SUFFIXES, Table, audio_named
from distilwhisper.corpus.records import Utterance
from distilwhisper.progress import say

TABLE_STEMS = ("transcript", "transcripts", "metadata")
BESIDE_SUFFIXES = (".txt", ".json")
# Of texts that come with a corpus and are no transcripts.
_NOTES = ("readme", "license", "licence", "copying", "changelog", "citation", "notice")

_Part: TypeAlias = tuple[float, float | None, int | None]
_part = attrgetter("start_s", "duration_s", "channel")  # of its audio, in which an utterance lies


def read_folder(source: Source) -> Entries:
    """Yield all audio below a folder, in the order of the paths.

    Audio is found by its ending, in files and in members of ``.tar`` files; what begins with a
    dot is passed over. An utterance's id is its path without the ending, or with it where two
    would be called the same.

    Transcripts come from tables: ``.tsv``, ``.csv`` and ``.jsonl`` files, and ``.txt`` files called
    transcripts or metadata and tab-separated, in UTF-8. Their first line names a column with the
    path and one with the text (the names are in ``entries.FIELDS``), and may name others. A path
    is relative to the table's folder, with or without ending; a bare name will do where it is
    clear. Lines with a start are spans of the audio, each an utterance. Failing a table, the text
    is that of a ``.txt`` file beside the audio, or of a ``.json`` file with the same names as a
    table's columns. Audio without a transcript is taken along without one; a transcript without
    audio is a problem. Names that differ in how their accents are written (NFC, NFD) are one.

    Where folders called train, validation or test lie beside each other, their audio has them as
    its split.

    Args:
        source: the folder; its settings name columns, and the manifest to be is no table of it.

    Raises:
        BadSource: there is no audio in the folder.
        BadTranscripts: a table is not in UTF-8, or its first line does not name the columns.
    """
    listing = _find(source)
    if not listing.audio and not source.problems:
        raise BadSource(
            f"{source.path} must be a folder with audio below it, found none: no file, and no "
            f"member of a .tar, ends in {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    ids, splits = _ids(listing.audio), _splits(listing.audio)
    _sort_out_beside(source, listing)
    lines = _read_tables(source, listing, ids)
    for name in listing.audio:
        for item in _entries(source, name, ids[name], lines.get(name, {}).values(), listing):
            if item.utterance.split is None and name in splits:
                item = item._replace(utterance=replace(item.utterance, split=splits[name]))
            yield item


@dataclass
class _Listing:
    """What lies below a folder, by path; ``shard.tar#member`` for what lies in a tar."""

    audio: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    # What may be a transcript beside its audio, by its name as :func:`_beside` makes it. None: a
    # file of its own, not read yet.
    beside: dict[str, tuple[str, bytes | None]] = field(default_factory=dict)
    n_unread: Counter[str] = field(default_factory=Counter)  # by the ending


def _find(source: Source) -> _Listing:
    listing = _Listing()
    seen: dict[str, str] = {}
    own = {source.out.resolve(), source.out.with_suffix(".problems.jsonl").resolve()}
    for name, data in _files(source):
        stem, suffix = posixpath.splitext(posixpath.basename(name.rpartition(".tar#")[2]).lower())
        is_table = suffix in TABLE_SUFFIXES or (suffix == ".txt" and stem in TABLE_STEMS)
        is_text = suffix in BESIDE_SUFFIXES and stem not in _NOTES
        key = _beside(name) if is_text else nfc(name)
        if (is_text or suffix in AUDIO_SUFFIXES) and (known := seen.setdefault(key, name)) != name:
            message = f"must have a name of its own, found that of {known!a}"
            source.add_problem(name, "name twice", message)
        elif suffix in AUDIO_SUFFIXES:
            listing.audio.append(name)
        elif is_table and ".tar#" not in name:
            if (source.path / name).resolve() not in own:
                listing.tables.append(name)
        elif is_text:
            listing.beside[key] = name, data
        else:
            listing.n_unread[suffix or "no ending"] += 1
    listing.audio.sort()
    if listing.n_unread:
        kinds = ", ".join(f"{n} ({kind})" for kind, n in listing.n_unread.most_common())
        say(f"data: files of other kinds, which are not read: {kinds}")
    return listing


def _files(source: Source) -> Iterator[tuple[str, bytes | None]]:
    """Yield files below a folder, and members of its tars with the contents of transcripts."""
    for name in files_below(source):
        if not name.lower().endswith(".tar"):
            yield name, None
            continue
        try:
            with tarfile.open(source.path / name, "r:") as tar:
                for member, data in members_of(tar):
                    if _is_utf8(f"{name}#{member}", source):
                        yield f"{name}#{member}", data
        except (tarfile.TarError, OSError) as error:
            add_torn_tar(source, name, error)


def members_of(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes | None]]:
    """Yield the files in a tar, less what is hidden, and what those hold that may be transcripts.

    Raises:
        TarError, OSError: it cannot be read to its end.
    """
    for info in tar:
        name = info.name.removeprefix("./")
        if not info.isreg() or any(part.startswith(".") for part in name.split("/")):
            continue
        is_text = name.lower().endswith(BESIDE_SUFFIXES)
        file = tar.extractfile(info) if is_text else None
        yield name, None if file is None else file.read()


def add_torn_tar(source: Source, name: str, error: Exception) -> None:
    """Make a problem of a tar that cannot be read."""
    message = f"not a plain tar that can be read to its end: {error}"
    source.add_problem(name, "unreadable", message)


def _beside(name: str) -> str:
    """Return the key by which a transcript beside its audio is found."""
    stem, suffix = posixpath.splitext(nfc(name))
    return stem + suffix.lower()


def _sort_out_beside(source: Source, listing: _Listing) -> None:
    """Move what lies beside no audio to the tables, if it is one, and else to the problems."""
    stems = {posixpath.splitext(nfc(audio))[0] for audio in listing.audio}
    for key in [key for key in listing.beside if posixpath.splitext(key)[0] not in stems]:
        name, data = listing.beside.pop(key)
        if key.endswith(".json") and data is None:
            with suppress(BadSource):
                if Table(source.path / name, source.settings).has_transcripts:
                    listing.tables.append(name)
                    continue
        message = (
            "a transcript must be called as the audio beside it, found none called so: nothing "
            "reads it; move it out of the folder if it is none"
        )
        source.add_problem(name, "transcript without audio", message)


def files_below(source: Source) -> Iterator[str]:
    """Yield paths below a folder, in order, less what is hidden; links to folders are followed.

    Folders that cannot be read, names that are not UTF-8, and pipes, which would be waited for,
    become problems.
    """
    unread: list[OSError] = []
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(source.path, onerror=unread.append, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link to a folder above, or a second one
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in sorted(file for file in files if not file.startswith(".")):
            path = Path(folder, file)
            name = path.relative_to(source.path).as_posix()
            if not _is_utf8(name, source):
                continue
            if path.exists() and not path.is_file():
                source.add_problem(name, "unreadable", "must be a file, found a pipe or a device")
            else:
                yield name
    for error in unread:
        name = Path(error.filename).relative_to(source.path).as_posix()
        source.add_problem(name, "unreadable", f"the folder cannot be read: {error.strerror}")


def _is_utf8(name: str, source: Source) -> bool:
    """Return whether a name is UTF-8; one that is not becomes a problem."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        message = "its name is not UTF-8; no manifest can hold it"
        source.add_problem(ascii(name)[1:-1], "unreadable", message)
        return False
    return True


def _read_tables(
    source: Source, listing: _Listing, ids: Mapping[str, str]
) -> Mapping[str, Mapping[_Part, Entry]]:
    """Return the lines of tables on each audio: one on the whole, or any number of spans."""
    lines: dict[str, dict[_Part, Entry]] = defaultdict(dict)
    places = _places(listing.audio)
    n_read, unfit = 0, None
    for name in listing.tables:
        try:
            table = Table(source.path / name, source.settings)
        except BadTranscripts:
            raise
        except BadSource as error:  # it may be a table of other things
            unfit = error
            continue
        n_read += table.has_transcripts
        if not table.has_transcripts:
            if table.path.stem.lower() in TABLE_STEMS:
                raise table.refusal()
            say(f"data: {table.path} names no audio and its text in columns, and is not read")
            continue
        say(f"data: transcripts from {table.path}")
        for where, row, columns in table.rows(source, name):
            with source.problem_at(where):
                path = audio_named(row, columns)
                audio = _named_by(path, posixpath.dirname(name), places)
                utterance = utterance_from(row, columns, ids[audio])
                known = lines[audio].setdefault(_part(utterance), Entry(where, utterance))
                if utterance.text != known.utterance.text:
                    raise Unusable(
                        f"gives {audio} another text than {known.where}, which was taken",
                        "conflicting transcripts",
                    )
    if unfit is not None and not n_read:
        raise unfit
    return lines


def _places(audio: Iterable[str]) -> dict[str, list[str]]:
    """Return audio by every name that a table may give it.

    That is its path, and its bare name behind a slash, both with and without ending.
    """
    places: dict[str, list[str]] = defaultdict(list)
    for name in audio:
        shard, sign, member = name.partition(".tar#")
        path = posixpath.join(posixpath.dirname(shard), member) if sign else name
        names = {nfc(each) for each in (name, path, f"/{posixpath.basename(path)}")}
        for place in names | {posixpath.splitext(each)[0] for each in names}:
            places[place].append(name)
    return places


def _named_by(path: str, folder: str, places: Mapping[str, list[str]]) -> str:
    """Return the audio that a path in a table means, the table lying in a folder.

    Raises:
        Unusable: it means none, or several.
    """
    plain = posixpath.normpath(nfc(path).replace("\\", "/"))
    matches = places.get(posixpath.normpath(posixpath.join(nfc(folder), plain)))
    if not matches:
        bare = places.get(f"/{posixpath.basename(plain)}", [])
        matches = [name for name in bare if name.startswith(f"{folder}/" if folder else "")]
    if len(matches) != 1:
        names = "".join(f", {name}" for name in matches[:3])
        raise Unusable(
            f"names {path!r}, which must be one audio file, found {len(matches)}{names}",
            "transcript without audio",
        )
    return matches[0]


def _splits(audio: Sequence[str]) -> dict[str, str]:
    """Return the splits of audio in folders called train, test and so on, if there are several."""
    folders = {name: name.partition("#")[0].partition("/") for name in audio}
    splits = {
        name: SPLITS[top.lower()]
        for name, (top, below, _) in folders.items()
        if below and top.lower() in SPLITS
    }
    return splits if len({*splits.values()}) > 1 else {}


def _ids(audio: Sequence[str]) -> dict[str, str]:
    """Return an id for every audio: its path without ending where that names it alone."""
    stems = {name: posixpath.splitext(name.replace(".tar#", "/"))[0] for name in audio}
    named: dict[str, int] = defaultdict(int)
    for stem in (*stems.values(), *audio):
        named[stem] += 1
    return {name: stem if named[stem] == 1 else name for name, stem in stems.items()}


def _entries(
    source: Source, name: str, id_: str, lines: Collection[Entry], listing: _Listing
) -> Entries:
    """Yield the utterances of one audio, of tables or else of a file beside it."""
    audio = f"{source.path.absolute()}/{name}"
    for line in lines:
        is_part = _part(line.utterance) != (0.0, None, None)
        yield Entry(line.where if is_part else name, replace(line.utterance, audio=audio))
    if lines:
        return
    beside = [
        found
        for suffix in reversed(BESIDE_SUFFIXES)
        if (found := listing.beside.get(_beside(posixpath.splitext(name)[0] + suffix)))
    ]
    yield from with_transcripts(source, name, Utterance(id=id_, audio=audio), beside)


def with_transcripts(
    source: Source,
    where: str,
    utterance: Utterance,
    transcripts: Iterable[tuple[str, bytes | None]],
) -> Entries:
    """Yield an utterance with what the transcripts beside its audio hold; none if one is faulty.

    Args:
        source: its settings name columns; it gets the fault as a problem.
        where: the place of the utterance.
        utterance: without text.
        transcripts: names and contents of .json files, with the names of a table's columns, and
            then of .txt files, all of which is the text. None: a file below the source.
    """
    for name, data in transcripts:
        try:
            raw = (source.path / name).read_bytes() if data is None else data
            text = raw.decode(encoding_of(raw))
            if name.lower().endswith(".json"):
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise ValueError("it must be one JSON object")
                columns = source.settings.columns
                fields = find_columns([*row, *columns.values()], columns)
                found = utterance_from(row, fields, utterance.id)
                utterance = replace(found, audio=utterance.audio)
            else:
                utterance = replace(utterance, text=" ".join(text.split()) or utterance.text)
        except (OSError, ValueError) as error:
            message = f"its transcript {name} cannot be read: {error}"
            source.add_problem(where, "transcript unreadable", message)
            return
    yield Entry(where, utterance)


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
                for key, sample in groupby(members_of(tar), key=_sample_key):
                    yield from _sample(dict(sample), key, shard, name, source)
        except (tarfile.TarError, OSError) as error:
            add_torn_tar(source, name, error)


def _sample_key(member: tuple[str, bytes | None]) -> str:
    folder, base = posixpath.split(member[0])
    return nfc(posixpath.join(folder, base.partition(".")[0]))


def _sample(
    members: Mapping[str, bytes | None], key: str, shard: Path, shard_name: str, source: Source
) -> Entries:
    """Yield the one utterance of a sample; none if it has neither audio nor a transcript."""
    suffixes = {name: posixpath.splitext(name.lower())[1] for name in members}
    audio = [name for name, suffix in suffixes.items() if suffix in AUDIO_SUFFIXES]
    # .json, then .txt
    transcripts = sorted((n for n in members if members[n] is not None), key=suffixes.__getitem__)
    if len(audio) == 1:
        id_ = f"{posixpath.splitext(shard_name)[0]}/{key}"
        utterance = Utterance(id=id_, audio=f"{shard.absolute()}#{audio[0]}")
        beside = ((name, members[name]) for name in transcripts)
        yield from with_transcripts(source, f"{shard_name}#{audio[0]}", utterance, beside)
    elif audio or transcripts:
        message = f"a sample must have one audio file, found {', '.join(members)}"
        source.add_problem(f"{shard_name}#{key}", "audio missing", message)
