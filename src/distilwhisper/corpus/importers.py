"""Other people's data to manifests: a folder of audio with its transcripts; and a fair split."""

import csv
import hashlib
import os
import posixpath
import tarfile
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

from distilwhisper.corpus.records import Manifest, Utterance, audio_from, write_manifest
from distilwhisper.corpus.store import write_jsonl
from distilwhisper.speech.audio import CorruptAudio, probe_duration_s
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.tokens import language_code

AUDIO_SUFFIXES = frozenset(
    ".3gp .aac .ac3 .aif .aifc .aiff .amr .au .avi .caf .flac .g722 .m4a .m4b .m4v .mka .mkv .mov "
    ".mp2 .mp3 .mp4 .mpeg .mpg .oga .ogg .opus .spx .w64 .wav .webm .wma".split()
)
PATH_COLUMNS = ("path", "file", "audio", "file_name", "filename")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
TABLE_STEMS = ("transcript", "transcripts", "metadata")

Problems: TypeAlias = dict[str, str]  # what could not be used, to the reason

# What an utterance has, as kind and value. Of a group's traits the smallest is its name.
_Trait: TypeAlias = tuple[int, str]
_TEXT, _ID, _RECORDING, _SPEAKER = range(4)


class BadTranscripts(ValueError):
    """A table of transcripts cannot be read."""


@dataclass(frozen=True)
class ImportSummary:
    """What an import found.

    Attributes:
        n_utterances: lines of the manifest.
        n_with_text: those that have a reference.
        hours: of audio.
        min_s: length of the shortest utterance; 0 if there is none, as for the next two.
        median_s: middle length.
        max_s: length of the longest utterance.
        problems: files and lines of tables that could not be used, to the reason.
    """

    n_utterances: int
    n_with_text: int
    hours: float
    min_s: float
    median_s: float
    max_s: float
    problems: Mapping[str, str]

    @property
    def n_without_text(self) -> int:
        """Utterances without a reference."""
        return self.n_utterances - self.n_with_text

    def __str__(self) -> str:
        return (
            f"{self.n_utterances} utterances, {self.hours:.2f} h "
            f"({self.min_s:.2f} to {self.max_s:.2f} s, median {self.median_s:.2f} s); "
            f"{self.n_with_text} with text, {self.n_without_text} without; "
            f"{len(self.problems)} problems"
        )


def import_folder(source: Path, out: Path, *, language: str | None = None) -> ImportSummary:
    """Make a manifest of all audio below a folder, in the order of the paths.

    Audio is found by its ending, in files and in members of ``.tar`` files; what begins with a
    dot is passed over. An utterance's id is its path without the ending, or with it where two
    would be called the same.

    Transcripts come from tables: ``.tsv`` and ``.csv`` files, and ``.txt`` files called transcripts
    or metadata and tab-separated, in UTF-8. Their first line names a column with the path (path,
    file, audio, file_name) and one with the text (text, transcript, transcription, sentence), and
    may name one with the speaker. A path is relative to the table's folder, with or without
    ending; a bare name will do where it is clear. Failing a table, the text is that of a ``.txt``
    file beside the audio. Audio without a transcript is taken along without one.

    Args:
        source: the folder.
        out: the manifest, a .jsonl file; it replaces one that is there.
        language: of all of the audio, as code or English name.

    Returns:
        The sums. What could not be used is not in the manifest but named here, and listed in
        ``manifest.problems.jsonl`` beside ``manifest.jsonl``.

    Raises:
        ValueError: there is no audio in the folder, the language is unknown, or ``out`` is no
            .jsonl file.
        BadTranscripts: a table is not in UTF-8, or its first line does not name the columns.
    """
    if out.suffix != ".jsonl":
        raise ValueError(f"a manifest must be a .jsonl file, found {out}")
    code = None if language is None else language_code(language)
    if not source.is_dir():
        raise ValueError(f"{source} must be a folder with audio below it, found no folder")
    problems: Problems = {}
    found = _find(source, problems)
    if not found.audio and not problems:
        raise ValueError(
            f"{source} must be a folder with audio below it, found none: no file, and no member "
            f"of a .tar, ends in {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    transcripts = _read_tables(source, found, problems)
    _read_texts_beside(source, found, transcripts, problems)
    ids = _ids(found.audio)
    utterances = []
    for name in found.audio:
        if name in problems:
            continue
        path = f"{source.absolute()}/{name}"
        try:
            duration_s = _duration_s(path)
        except (CorruptAudio, OSError) as error:
            problems[name] = str(error)
            continue
        transcript = transcripts.get(name, _NO_TRANSCRIPT)
        utterances.append(
            Utterance(
                id=ids[name],
                audio=audio_from(out.parent, path),
                duration_s=duration_s,
                text=transcript.text or None,
                speaker=transcript.speaker or None,
                language=code,
            )
        )
    return _finish(out, utterances, problems)


def split_manifest(
    manifest: Manifest,
    fractions: Mapping[str, float],
    *,
    seed: int,
    keep_speakers_together: bool = False,
) -> dict[str, list[Utterance]]:
    """Split utterances into named parts that share neither a text nor a recording.

    Utterances of one text (normalised) or one recording make a group, and so do groups that share
    an utterance. A group goes to one part as a whole, drawn by a hash of the seed and its first
    text (its first id, if nothing is said): parts are about as large as asked, and utterances that
    are added later move no group but those they join. A part that would be empty gets the group
    drawn nearest to it.

    Args:
        manifest: what to split.
        fractions: of the groups, by the names of the parts that are held out; the part called
            ``train`` is the rest.
        seed: another one draws another split.
        keep_speakers_together: a speaker is in one part only, too.

    Returns:
        The parts by name, ``train`` first, each in the manifest's order.

    Raises:
        ValueError: the fractions are not between 0 and 1 or leave nothing to train on, or there
            are fewer groups than parts.
    """
    if not all(0 < fraction < 1 for fraction in fractions.values()) or sum(fractions.values()) >= 1:
        raise ValueError(
            "held-out fractions must be above 0 and sum to less than 1, found "
            + ", ".join(f"{name} {fraction}" for name, fraction in fractions.items())
        )
    group_of = _groups(manifest.utterances, keep_speakers_together=keep_speakers_together)
    groups = sorted(set(group_of.values()), key=lambda group: (_draw(group, seed), group))
    if len(groups) <= len(fractions):
        raise ValueError(
            f"{manifest.path} must fall into at least {len(fractions) + 1} groups that share no "
            f"text{', speaker' * keep_speakers_together} or recording, found {len(groups)} in "
            f"{len(manifest.utterances)} utterances: name parts that were made by hand"
        )
    part_of = _deal(groups, fractions, seed)
    parts: dict[str, list[Utterance]] = {"train": [], **{name: [] for name in fractions}}
    for utterance in manifest.utterances:
        parts[part_of[group_of[utterance.id]]].append(utterance)
    return parts


# Importing


@dataclass(frozen=True)
class _Transcript:
    text: str
    speaker: str
    origin: str  # table and line


_NO_TRANSCRIPT = _Transcript("", "", "")


@dataclass
class _Found:
    """What lies below a folder, by path; ``shard.tar#member`` for what lies in a tar."""

    audio: list[str]
    tables: list[str]
    texts: dict[str, bytes | None]  # None: a file of its own, not read yet


def _find(source: Path, problems: Problems) -> _Found:
    found = _Found([], [], {})
    for name in _files(source, problems):
        stem, suffix = posixpath.splitext(posixpath.basename(name).lower())
        if suffix in AUDIO_SUFFIXES:
            found.audio.append(name)
        elif suffix == ".tar":
            _find_members(source, name, found, problems)
        elif suffix in (".tsv", ".csv") or (suffix == ".txt" and stem in TABLE_STEMS):
            found.tables.append(name)
        elif suffix == ".txt":
            found.texts[name] = None
    found.audio.sort()
    return found


def _files(source: Path, problems: Problems) -> Iterator[str]:
    """Yield paths below a folder, in order, less what is hidden; links to folders are followed."""
    unread: list[OSError] = []
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(source, onerror=unread.append, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link to a folder above, or a second one
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in sorted(file for file in files if not file.startswith(".")):
            name = Path(folder, file).relative_to(source).as_posix()
            if _is_utf8(name):
                yield name
            else:
                problems[ascii(name)[1:-1]] = "its name is not UTF-8, so no manifest can hold it"
    for error in unread:
        name = Path(error.filename).relative_to(source).as_posix()
        problems[name] = f"the folder cannot be read: {error.strerror}"


def _find_members(source: Path, shard: str, found: _Found, problems: Problems) -> None:
    try:
        with tarfile.open(source / shard, "r:") as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                suffix = posixpath.splitext(name.lower())[1]
                hidden = any(part.startswith(".") for part in name.split("/"))
                if not info.isreg() or hidden or not _is_utf8(name):
                    continue
                if suffix in AUDIO_SUFFIXES:
                    found.audio.append(f"{shard}#{name}")
                elif suffix == ".txt" and (file := tar.extractfile(info)):
                    found.texts[f"{shard}#{name}"] = file.read()
    except (tarfile.TarError, OSError) as error:
        problems[shard] = f"not a plain tar that can be read to its end: {error}"


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_tables(source: Path, found: _Found, problems: Problems) -> dict[str, _Transcript]:
    transcripts: dict[str, _Transcript] = {}
    places = _places(found.audio)
    for table in found.tables:
        folder = posixpath.dirname(table)
        for path, transcript in _read_table(source, table):
            audio = _named_by(path, folder, places)
            if len(audio) != 1:
                problems[transcript.origin] = (
                    f"names {path!r}, which must be one audio file, found {len(audio)}"
                    + "".join(f", {name}" for name in audio[:3])
                )
            elif transcripts.setdefault(audio[0], transcript).text != transcript.text:
                problems[transcript.origin] = (
                    f"gives {audio[0]} another text than {transcripts[audio[0]].origin}, which was "
                    "taken"
                )
    return transcripts


def _read_table(source: Path, table: str) -> Iterator[tuple[str, _Transcript]]:
    """Yield the lines of a table as path and transcript; none if it is a table of other things."""
    path = source / table
    comma = path.suffix.lower() == ".csv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(
            file,
            delimiter="," if comma else "\t",
            quoting=csv.QUOTE_MINIMAL if comma else csv.QUOTE_NONE,
        )
        try:
            header = [column.strip().lower() for column in next(reader, [])]
            path_at, text_at = _column(header, PATH_COLUMNS), _column(header, TEXT_COLUMNS)
            speaker_at = _column(header, SPEAKER_COLUMNS)
            if path_at is None or text_at is None:
                if path.stem.lower() not in TABLE_STEMS:
                    return
                raise BadTranscripts(
                    f"{path}: the first line must name a column of {', '.join(PATH_COLUMNS)} and "
                    f"one of {', '.join(TEXT_COLUMNS)}, {'comma' if comma else 'tab'}-separated, "
                    f"found {header}; rename the file if it is no table of transcripts"
                )
            for row in reader:
                if row:
                    yield (
                        _cell(row, path_at),
                        _Transcript(
                            text=_cell(row, text_at),
                            speaker=_cell(row, speaker_at),
                            origin=f"{table}:{reader.line_num}",
                        ),
                    )
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadTranscripts(
                f"{path}: near line {reader.line_num + 1}, a table must be UTF-8 text, found: "
                f"{error}; save it anew, or move it out of the folder"
            ) from error


def _column(header: Sequence[str], names: Iterable[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _cell(row: Sequence[str], index: int | None) -> str:
    return row[index].strip() if index is not None and index < len(row) else ""


def _places(audio: Iterable[str]) -> dict[str, list[str]]:
    """Return audio by all that a table may call it."""
    places: dict[str, list[str]] = defaultdict(list)
    for name in audio:
        for place in _called(name):
            places[place].append(name)
    return places


def _called(name: str) -> set[str]:
    """Return an audio's path, and its bare name behind a slash, both with and without ending."""
    shard, sign, member = name.partition(".tar#")
    path = posixpath.join(posixpath.dirname(shard), member) if sign else name
    whole = {name, path, f"/{posixpath.basename(path)}"}
    return whole | {posixpath.splitext(called)[0] for called in whole}


def _named_by(path: str, folder: str, places: Mapping[str, list[str]]) -> list[str]:
    """Return the audio that a path in a table means, the table lying in a folder."""
    path = posixpath.normpath(path.replace("\\", "/"))
    exact = places.get(posixpath.normpath(posixpath.join(folder, path)))
    if exact:
        return exact
    below = f"{folder}/" if folder else ""
    bare = places.get(f"/{posixpath.basename(path)}", [])
    return [name for name in bare if name.startswith(below)]


def _read_texts_beside(
    source: Path, found: _Found, transcripts: dict[str, _Transcript], problems: Problems
) -> None:
    """Take the text of a .txt file beside the audio where no table has one."""
    for name in found.audio:
        beside = f"{posixpath.splitext(name)[0]}.txt"
        if beside not in found.texts or name in transcripts:
            continue
        try:
            data = found.texts[beside]
            if data is None:
                data = (source / beside).read_bytes()
            text = " ".join(data.decode("utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            problems[name] = f"its transcript {beside} cannot be read: {error}"
            continue
        transcripts[name] = _Transcript(text, "", beside)


def _ids(audio: Sequence[str]) -> dict[str, str]:
    """Return an id for every audio: its path without ending where that names it alone."""
    stems = {name: posixpath.splitext(name.replace(".tar#", "/"))[0] for name in audio}
    named: dict[str, int] = defaultdict(int)
    for stem in (*stems.values(), *audio):
        named[stem] += 1
    return {name: stem if named[stem] == 1 else name for name, stem in stems.items()}


def _duration_s(path: str) -> float:
    duration_s = round(probe_duration_s(path), 3)
    if duration_s <= 0:
        raise CorruptAudio(f"{path} must last at least a millisecond, found {duration_s} s")
    return duration_s


def _finish(out: Path, utterances: Sequence[Utterance], problems: Problems) -> ImportSummary:
    write_manifest(out, utterances)
    beside = out.with_suffix(".problems.jsonl")
    if problems:
        rows = [{"path": path, "problem": problem} for path, problem in sorted(problems.items())]
        write_jsonl(beside, rows)
    else:
        beside.unlink(missing_ok=True)  # of an earlier import
    lengths = [utterance.duration_s or 0.0 for utterance in utterances]
    return ImportSummary(
        n_utterances=len(utterances),
        n_with_text=sum(utterance.text is not None for utterance in utterances),
        hours=sum(lengths) / 3600,
        min_s=min(lengths, default=0.0),
        median_s=median(lengths) if lengths else 0.0,
        max_s=max(lengths, default=0.0),
        problems=dict(sorted(problems.items())),
    )


# Splitting


def _groups(utterances: Sequence[Utterance], *, keep_speakers_together: bool) -> dict[str, _Trait]:
    """Return every utterance's group by id: the first text, else the first id, that is in it."""
    parent: dict[_Trait, _Trait] = {}
    for utterance in utterances:
        own = (_ID, utterance.id)
        for trait in _traits(utterance, keep_speakers_together=keep_speakers_together):
            parent[_root(parent, own)] = _root(parent, trait)
    first: dict[_Trait, _Trait] = {}
    for trait in parent:
        root = _root(parent, trait)
        first[root] = min(first.get(root, trait), trait)
    return {u.id: first[_root(parent, (_ID, u.id))] for u in utterances}


def _traits(utterance: Utterance, *, keep_speakers_together: bool) -> Iterator[_Trait]:
    """Yield what no two parts may share."""
    yield _ID, utterance.id
    if utterance.text is not None:
        # Which normaliser it is decides here only what counts as the same text.
        text = normalizer_for(utterance.language or "en")(utterance.text).strip()
        if any(map(str.isalnum, text)):
            yield _TEXT, text
    if utterance.recording is not None:
        yield _RECORDING, utterance.recording
    if utterance.speaker is not None and keep_speakers_together:
        yield _SPEAKER, utterance.speaker


def _root(parent: dict[_Trait, _Trait], trait: _Trait) -> _Trait:
    while parent.setdefault(trait, trait) != trait:
        parent[trait] = parent[parent[trait]]
        trait = parent[trait]
    return trait


def _draw(group: _Trait, seed: int) -> float:
    """Return a number in [0, 1) for a group."""
    digest = hashlib.blake2b(f"{seed}/{group[0]}/{group[1]}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _deal(groups: Sequence[_Trait], fractions: Mapping[str, float], seed: int) -> dict[_Trait, str]:
    """Return every group's part; groups come in the order of their draws, more than parts."""
    draws = [_draw(group, seed) for group in groups]
    part_of = dict.fromkeys(groups, "train")
    begin, bound = 0, 0.0
    for n_dealt, (part, fraction) in enumerate(fractions.items()):
        bound += fraction
        n_to_leave = len(fractions) - n_dealt  # one group for every part to come
        end = min(max(bisect_left(draws, bound), begin + 1), len(groups) - n_to_leave)
        part_of |= dict.fromkeys(groups[begin:end], part)
        begin = end
    return part_of
