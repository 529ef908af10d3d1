"""Audio in files and plain tars, with its transcripts beside it or in tables.

Of WebDataset's shards, which are tars too, KEY.flac, KEY.txt and KEY.json are one sample.
"""

import json
import os
import posixpath
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeAlias

from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    SPLITS,
    TABLE_SUFFIXES,
    BadSource,
    BadTranscripts,
    Entries,
    Entry,
    Source,
    Table,
    Unusable,
    audio_named,
    encoding_of,
    find_columns,
    nfc,
    utterance_from,
)
from distilwhisper.corpus.records import Utterance
from distilwhisper.progress import say

TABLE_STEMS = ("transcript", "transcripts", "metadata")
BESIDE_SUFFIXES = (".json", ".txt")  # in the order in which they are read
# Of texts that come with a corpus and are no transcripts.
_NOTES = ("readme", "license", "licence", "copying", "changelog", "citation", "notice")

# How a tar that cannot be read becomes a problem.
_TORN: Final = ("not a plain tar that is whole", "unreadable", (tarfile.TarError, OSError))

_Part: TypeAlias = tuple[float, float | None, int | None]
_part = attrgetter("start_s", "duration_s", "channel")  # of its audio, in which an utterance lies
_Text: TypeAlias = tuple[str, bytes | None]  # what may be a transcript; None: in a file below


def read_folder(source: Source) -> Entries:
    """Yield all audio below a folder, in the order of the paths.

    Audio is found by its ending, in files and in members of tars; what begins with a dot is passed
    over. An utterance's id is its path without the ending, or with it where two would be called the
    same. Transcripts come from tables; a path there is relative to the table's folder, with or
    without ending, and a bare name will do where it is clear. Lines with a start are spans of the
    audio, each an utterance. Failing a table, the text is that of a ``.txt`` file beside the audio,
    or of a ``.json`` file with the names of a table's columns. Audio without a transcript is taken
    along; a transcript without audio is a problem. Names that differ in how their accents are
    written are one. Where folders called train, validation or test lie beside each other, their
    audio has them as its split.
    """
    audio, tables, beside = _find(source)
    if not audio and not source.problems:
        raise BadSource(
            f"{source.path} must be a folder with audio below it, found none: no file, and no "
            f"member of a .tar, ends in {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    ids, splits = _ids(audio), _splits(audio)
    tables += _without_audio(source, beside, audio)
    lines = _read_tables(source, tables, ids)
    for name in audio:
        place, split = f"{source.path.absolute()}/{name}", splits.get(name)
        for part, line in lines.get(name, {}).items():
            utterance = replace(line.utterance, audio=place, split=line.utterance.split or split)
            yield Entry(name if part == (0.0, None, None) else line.where, utterance)
        if name not in lines:
            stem = posixpath.splitext(nfc(name))[0]
            texts = [beside[stem + end] for end in BESIDE_SUFFIXES if stem + end in beside]
            utterance = Utterance(ids[name], place, split=split)
            yield from _with_transcripts(source, name, utterance, texts)


def _find(source: Source) -> tuple[list[str], list[str], dict[str, _Text]]:
    """Return what lies below a folder: audio, tables, and what may be transcripts.

    What lies in a tar is called ``shard.tar#member``. Transcripts come by the NFC form of their
    name, its ending in small letters.
    """
    audio: list[str] = []
    tables: list[str] = []
    beside: dict[str, _Text] = {}
    n_unread: Counter[str] = Counter()  # by the ending
    seen: dict[str, str] = {}
    own = {source.out.resolve(), source.out.with_suffix(".problems.jsonl").resolve()}
    for name, data in _files(source):
        stem, suffix = posixpath.splitext(posixpath.basename(name.rpartition(".tar#")[2]).lower())
        is_table = suffix in TABLE_SUFFIXES or (suffix == ".txt" and stem in TABLE_STEMS)
        is_text = suffix in BESIDE_SUFFIXES and stem not in _NOTES
        key = posixpath.splitext(nfc(name))[0] + suffix if is_text else nfc(name)
        if (is_text or suffix in AUDIO_SUFFIXES) and (known := seen.setdefault(key, name)) != name:
            message = f"must have a name of its own, found that of {known!a}"
            source.add_problem(name, "name twice", message)
        elif suffix in AUDIO_SUFFIXES:
            audio.append(name)
        elif is_table and ".tar#" not in name:
            if (source.path / name).resolve() not in own:
                tables.append(name)
        elif is_text:
            beside[key] = name, data
        else:
            n_unread[suffix or "no ending"] += 1
    if n_unread:
        kinds = ", ".join(f"{n} ({kind})" for kind, n in n_unread.most_common())
        say(f"data: files of other kinds, which are not read: {kinds}")
    return sorted(audio), tables, beside


def _files(source: Source) -> Iterator[_Text]:
    """Yield files below a folder, and members of its tars with the contents of transcripts."""
    for name in files_below(source):
        if not name.lower().endswith(".tar"):
            yield name, None
            continue
        with source.problem_at(name, *_TORN), tarfile.open(source.path / name, "r:") as tar:
            yield from ((f"{name}#{member}", data) for member, data in _members(tar))


def _members(tar: tarfile.TarFile) -> Iterator[_Text]:
    """Yield the files in a tar that are not hidden, and what those hold that may be texts."""
    for info in tar:
        name = info.name.removeprefix("./")
        if info.isreg() and not any(part.startswith(".") for part in name.split("/")):
            file = tar.extractfile(info) if name.lower().endswith(BESIDE_SUFFIXES) else None
            yield name, None if file is None else file.read()


def _without_audio(source: Source, beside: dict[str, _Text], audio: Sequence[str]) -> Iterator[str]:
    """Take out what lies beside no audio, and yield it if it is a table; else it is a problem."""
    stems = {posixpath.splitext(nfc(name))[0] for name in audio}
    for key in [key for key in beside if posixpath.splitext(key)[0] not in stems]:
        name, data = beside.pop(key)
        if key.endswith(".json") and data is None:
            with suppress(BadSource):
                if Table(source.path / name, source.settings).has_transcripts:
                    yield name
                    continue
        message = "must be called as the audio beside it, found none; move it away if it is no text"
        source.add_problem(name, "transcript without audio", message)


def files_below(source: Source) -> Iterator[str]:
    """Yield paths below a folder, in order, less what is hidden; links to folders are followed.

    Folders that cannot be read, and pipes, which would be waited for, become problems.
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
            if path.exists() and not path.is_file():
                source.add_problem(name, "unreadable", "must be a file, found a pipe or a device")
            else:
                yield name
    for error in unread:
        name = Path(error.filename).relative_to(source.path).as_posix()
        source.add_problem(name, "unreadable", f"the folder cannot be read: {error.strerror}")


def _read_tables(
    source: Source, tables: Iterable[str], ids: Mapping[str, str]
) -> Mapping[str, Mapping[_Part, Entry]]:
    """Return the lines of tables on each audio: one on the whole, or any number of spans."""
    lines: dict[str, dict[_Part, Entry]] = defaultdict(dict)
    places = _places(ids)
    n_read, unfit = 0, None
    for name in tables:
        try:
            table = Table(source.path / name, source.settings)
        except BadTranscripts:
            raise
        except BadSource as error:  # it may be a table of other things
            unfit = error
            continue
        if not table.has_transcripts:
            if table.path.stem.lower() in TABLE_STEMS:
                raise table.refusal()
            say(f"data: {table.path} names no audio and its text in columns, and is not read")
            continue
        n_read += 1
        say(f"data: transcripts from {table.path}")
        for where, row, columns in table.rows(source, name):
            with source.problem_at(where):
                audio = _named_by(audio_named(row, columns), posixpath.dirname(name), places)
                utterance = utterance_from(row, columns, ids[audio])
                known = lines[audio].setdefault(_part(utterance), Entry(where, utterance))
                if utterance.text != known.utterance.text:
                    message = f"gives {audio} another text than {known.where}, which was taken"
                    raise Unusable(message, "conflicting transcripts")
    if unfit is not None and not n_read:
        raise unfit
    return lines


def _places(audio: Iterable[str]) -> dict[str, list[str]]:
    """Return audio by every name: its path, and "/" and its bare name, each without ending too."""
    places: dict[str, list[str]] = defaultdict(list)
    for name in audio:
        shard, sign, member = name.partition(".tar#")
        path = posixpath.join(posixpath.dirname(shard), member) if sign else name
        names = {nfc(each) for each in (name, path, f"/{posixpath.basename(path)}")}
        for place in names | {posixpath.splitext(each)[0] for each in names}:
            places[place].append(name)
    return places


def _named_by(path: str, folder: str, places: Mapping[str, list[str]]) -> str:
    """Return the one audio that a path in a table means, the table lying in a folder."""
    plain = posixpath.normpath(nfc(path).replace("\\", "/"))
    matches = places.get(posixpath.normpath(posixpath.join(nfc(folder), plain)))
    if not matches:
        bare = places.get(f"/{posixpath.basename(plain)}", [])
        matches = [name for name in bare if name.startswith(f"{folder}/" if folder else "")]
    if len(matches) != 1:
        names = "".join(f", {name}" for name in matches[:3])
        message = f"names {path!r}, which must be one audio file, found {len(matches)}{names}"
        raise Unusable(message, "transcript without audio")
    return matches[0]


def _splits(audio: Iterable[str]) -> dict[str, str]:
    """Return the splits of audio in folders called train, test and so on, if there are several."""
    folders = {name: name.partition("#")[0].partition("/")[0].lower() for name in audio}
    splits = {name: SPLITS[folder] for name, folder in folders.items() if folder in SPLITS}
    return splits if len({*splits.values()}) > 1 else {}


def _ids(audio: Sequence[str]) -> dict[str, str]:
    """Return an id for every audio: its path without ending where that names it alone."""
    stems = {name: posixpath.splitext(name.replace(".tar#", "/"))[0] for name in audio}
    n_named = Counter([*stems.values(), *audio])
    return {name: stem if n_named[stem] == 1 else name for name, stem in stems.items()}


def _with_transcripts(
    source: Source, where: str, utterance: Utterance, transcripts: Iterable[_Text]
) -> Entries:
    """Yield an utterance with what the transcripts beside its audio hold; none if one is faulty.

    They are .json files, with the names of a table's columns, and then .txt files, all of which is
    the text.
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
                columns = find_columns([*row, *columns.values()], columns)
                found = utterance_from(row, columns, utterance.id, utterance.audio)
                utterance = replace(found, split=found.split or utterance.split)
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
    An utterance's id is the shard's name and that key. A source without any tar is a BadSource.
    """
    root, names = source.path.parent, [source.path.name]
    if source.path.is_dir():
        root, names = source.path, [n for n in files_below(source) if n.endswith(".tar")]
    if not names:
        raise BadSource(f"{source.path} must be a .tar, or hold some, found none")
    for name in names:
        with source.problem_at(name, *_TORN), tarfile.open(root / name, "r:") as tar:
            for key, sample in groupby(_members(tar), key=_sample_key):
                yield from _sample(dict(sample), key, root / name, name, source)


def _sample_key(member: _Text) -> str:
    folder, base = posixpath.split(member[0])
    return nfc(posixpath.join(folder, base.partition(".")[0]))


def _sample(
    members: Mapping[str, bytes | None], key: str, shard: Path, name: str, source: Source
) -> Entries:
    """Yield the one utterance of a sample; none if it has neither audio nor a transcript."""
    endings = {member: posixpath.splitext(member.lower())[1] for member in members}
    audio = [member for member, ending in endings.items() if ending in AUDIO_SUFFIXES]
    # .json, then .txt
    transcripts = sorted((m for m in members if members[m] is not None), key=endings.__getitem__)
    if len(audio) == 1:
        id_ = f"{posixpath.splitext(name)[0]}/{key}"
        utterance = Utterance(id_, f"{shard.absolute()}#{audio[0]}")
        beside = ((member, members[member]) for member in transcripts)
        yield from _with_transcripts(source, f"{name}#{audio[0]}", utterance, beside)
    elif audio or transcripts:
        message = f"a sample must have one audio file, found {', '.join(members)}"
        source.add_problem(f"{name}#{key}", "audio missing", message)
