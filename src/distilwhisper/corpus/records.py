"""The records of a corpus, joined by id: utterances, labels and verdicts."""

import codecs
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from distilwhisper.corpus.store import TornShard, parse_json, read_jsonl, shard_paths, write_jsonl
from distilwhisper.languages import code_or_name, language_code
from distilwhisper.progress import say
from distilwhisper.text.wer import ErrorCounts

_N_FAULTS_SHOWN = 10
_LARGEST = sys.float_info.max
_SHARED_STRINGS = ("speaker", "recording", "language", "source", "split")

Unit = Literal["word", "character"]


class BadManifest(ValueError):
    """A manifest breaks its rules; the message names the faulty lines."""


class DuplicateId(ValueError):
    """Two records of one folder are of the same utterance."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A span of a recording that is one example; the sound itself stays where it is."""

    id: str  # is of one utterance in the whole manifest
    # Path relative to the manifest, or absolute, or a URL; ``shard.tar#member`` for a member
    audio: str
    start_s: float = 0.0  # where the span begins in the recording
    duration_s: float | None = None  # length of the span; None reaches to the end of the recording
    text: str | None = None  # the reference; None where there is none, "" where no words are spoken
    speaker: str | None = None
    recording: str | None = None  # what utterances of the same recording have in common
    language: str | None = None  # code or English name
    source: str | None = None  # where it comes from
    split: str | None = None  # the part that its makers put it in: train, validation, test, other
    channel: int | None = None  # of its file, counted from 0; None for all of them, mixed
    # Other keys of its line, such as a licence: kept, and used by nothing here
    extra: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def is_silent(self) -> bool:
        """Whether its reference is there, and blank: nobody speaks."""
        return self.text is not None and not self.text.strip()


UTTERANCE_FIELDS = tuple(name for name in Utterance.__slots__ if name != "extra")
_RARE_FIELDS = ("split", "channel")  # not written where they are None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Utterances in the order of their file."""

    path: Path  # the file, or the folder of shards
    root: Path  # absolute folder that audio paths are relative to
    utterances: tuple[Utterance, ...]  # their ids differ

    def audio_source(self, utterance: Utterance) -> str:
        """Return an utterance's audio as an absolute path or URL, ``#member`` included."""
        return audio_in(self.root, utterance.audio)


@dataclass(frozen=True, slots=True)
class Label:
    """A teacher's transcript of one utterance."""

    id: str  # of the utterance
    token_ids: tuple[int, ...] = ()  # start of transcript to end of text; none after an error
    text: str = ""  # the same without special tokens: the pseudo-label
    language: str | None = None  # code, given or detected
    avg_logprob: float | None = None  # mean of the tokens, in nats; None if it is no number
    no_speech_prob: float | None = None  # probability that nobody speaks; None if it is no number
    compression_ratio: float | None = None  # of the text; None if there is none
    error: str | None = None  # why there is no label; None if there is one
    finished: bool = True  # the teacher ended by itself; False where the token limit cut it off
    duration_s: float | None = None  # length of the sound; None if it is not known
    # Code of what the teacher detects, whatever it was given; None if nothing, or it knows English
    # alone
    detected_language: str | None = None
    language_probability: float | None = None  # of that, among all languages that it knows
    sound: str | None = None  # fingerprint of the recording; None if it is not known

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON can hold it: a number that is not finite becomes None."""
        row = {name: getattr(self, name) for name in _LABEL_KINDS}
        lost = [n for n, v in row.items() if type(v) is float and not math.isfinite(v)]
        return row | dict.fromkeys(lost)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Label":
        """Return the record that :meth:`to_dict` wrote; unknown keys are ignored.

        A key that is missing, or whose value is of a wrong type, is a ValueError.
        """
        id_, token_ids, *others = _values(row, _LABEL_KINDS)
        if not set(map(type, token_ids)) <= {int}:
            raise ValueError("token_ids must be whole numbers")
        return cls(id_, tuple(token_ids), *others)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an utterance's pseudo-label is kept."""

    id: str  # of the utterance
    keep: bool  # whether a student may learn from it
    reason: str  # why, or why not; one of those in ``stages/filter.py``
    wer: float | None = None  # errors over the reference's words, or characters; None without them
    errors: ErrorCounts | None = None  # of the pseudo-label against the reference; None without one
    unit: Unit = "word"  # what ``errors`` counts

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON can hold it."""
        row = {name: getattr(self, name) for name in _VERDICT_KINDS}
        if self.errors is not None:
            row["errors"] = {name: getattr(self.errors, name) for name in _COUNT_KINDS}
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Verdict":
        """Return the record that :meth:`to_dict` wrote, as :meth:`Label.from_dict` does."""
        id_, keep, reason, wer, errors, unit = _values(row, _VERDICT_KINDS)
        if unit not in get_args(Unit):
            raise ValueError(f"unit must be word or character, found {unit!r}")
        counts = None if errors is None else ErrorCounts(*_values(errors, _COUNT_KINDS))
        return cls(id_, keep, reason, wer, counts, unit)


_KINDS: Mapping[Any, tuple[type, ...]] = {  # types of a field, and of the JSON that holds it
    bool: (bool,),
    int: (int,),
    str: (str,),
    Unit: (str,),
    str | None: (str, NoneType),
    float | None: (float, int, NoneType),
    tuple[int, ...]: (list,),
    ErrorCounts | None: (dict, NoneType),
}


def _kinds_of(record: type) -> Mapping[str, tuple[type, ...]]:
    """Return what JSON may hold for each field of a record, in their order."""
    return {name: _KINDS[kind] for name, kind in get_type_hints(record).items()}


_LABEL_KINDS, _VERDICT_KINDS, _COUNT_KINDS = map(_kinds_of, (Label, Verdict, ErrorCounts))


def _values(row: Mapping[str, Any], kinds_of: Mapping[str, tuple[type, ...]]) -> list[Any]:
    """Return a row's values in the order of a record's fields, of which each must be there."""
    try:
        values = [*map(row.__getitem__, kinds_of)]
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from error
    for (name, kinds), value in zip(kinds_of.items(), values, strict=True):
        if type(value) not in kinds:
            raise ValueError(f"{name} must not be {_shown(value)}")
    return values


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest: a .jsonl file, or a folder of shards ``*-00000.jsonl``.

    Only ``id`` and ``audio`` are compulsory in a line; keys that we do not know are kept. Blank
    lines are passed over.

    Raises:
        BadManifest: with the first faulty lines and the number of all.
        OSError: the file cannot be read.
    """
    where: dict[str, tuple[Path, int]] = {}
    utterances: list[Utterance] = []
    faults: list[str] = []
    for file, number, line in manifest_lines(path):
        try:
            utterance = utterance_of(line)
            here = (file, number)
            if (first := where.setdefault(utterance.id, here)) is not here:
                taken = f"{first[0].name}:{first[1]}"
                raise ValueError(f"id {_shown(utterance.id)} must be new, is that of {taken}")
            utterances.append(utterance)
        except ValueError as error:
            faults.append(f"{file.name}:{number}: {error}")
    _refuse(path, faults)
    if not utterances:
        is_named = path.is_file() or shard_paths(path)
        looked = "" if is_named else " (a folder's shards are files called NAME-00000.jsonl)"
        raise BadManifest(f"{path} must hold at least one utterance, found none{looked}")
    root = path if path.is_dir() else path.parent
    return Manifest(path, root.absolute(), tuple(utterances))


def _refuse(path: Path, faults: Sequence[str]) -> None:
    """Raise BadManifest with the first faults, if there are any, and the number of all."""
    if faults:
        more = [f"... and {len(faults) - _N_FAULTS_SHOWN} more"] * (len(faults) > _N_FAULTS_SHOWN)
        head = f"{path} is no manifest that can be used, {len(faults)} faulty:"
        raise BadManifest("\n  ".join([head, *faults[:_N_FAULTS_SHOWN], *more]))


def in_language(manifest: Manifest, language: str | None) -> Manifest:
    """Return a manifest whose utterances are all in one language; None: as it is.

    The log lists the languages that are overruled. One that Whisper does not know is a ValueError.
    """
    if language is None:
        return manifest
    log_overruled(manifest, language)
    code = language_code(language)
    utterances = (replace(utterance, language=code) for utterance in manifest.utterances)
    return replace(manifest, utterances=tuple(utterances))


def log_overruled(manifest: Manifest, language: str) -> None:
    """Log how many utterances name another language than the settings, if any do."""
    code = language_code(language)
    languages = Counter(u.language for u in manifest.utterances if u.language is not None)
    others = {name: n for name, n in languages.items() if code_or_name(name) != code}
    if others:
        say(
            f"{manifest.path}: {sum(others.values())} of {len(manifest.utterances)} utterances "
            f"name another language ({', '.join(others)}) and are taken for {code}, the "
            "language of the settings"
        )


def manifest_row(utterance: Utterance) -> dict[str, Any]:
    """Return an utterance as a line of a manifest holds it; a ValueError says what is wrong."""
    return _checked(_row(utterance))


def manifest_lines(path: Path) -> Iterator[tuple[Path, int, bytes]]:
    """Yield the lines of a manifest that are not blank, each with its file and number."""
    for file in shard_paths(path) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line and not line.isspace():
                    yield file, number, line


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write utterances as a manifest file, which appears whole; audio is relative to its folder.

    Raises:
        BadManifest: :func:`read_manifest` would refuse it, as where two have one id.
        StoreError: the disk is full, or the path cannot be written.
    """
    utterances = tuple(utterances)
    faults: list[str] = []
    seen: set[str] = set()
    for utterance in utterances:
        try:
            row = manifest_row(utterance)
            if row["id"] in seen:
                raise ValueError("the id must differ from all others")
            seen.add(row["id"])
        except ValueError as error:
            faults.append(f"utterance {_shown(utterance.id)}: {error}")
    _refuse(path, faults)
    write_jsonl(path, map(_row, utterances))


def audio_in(folder: Path, audio: str) -> str:
    """Return the path of a sound that is named relative to a folder; a URL as it is."""
    # A Path would edit the names of members.
    return audio if "://" in audio else os.path.join(folder, audio)  # noqa: PTH118


def audio_from(folder: Path, audio: str | Path) -> str:
    """Return an absolute audio path as one that is relative to a manifest's folder; a URL as it is.

    The folder need not be there yet. The path may be ``shard.tar#member``, such as
    :meth:`Manifest.audio_source` gives.
    """
    if "://" in str(audio):
        return str(audio)
    path, sign, member = str(audio).partition("#")
    place, name = os.path.split(path)
    # Symbolic links count: ".." leads out of the folder that a link points to.
    start = os.path.relpath(os.path.realpath(place), folder.resolve())
    return (name if start == "." else f"{start}/{name}") + sign + member


def merge_manifests(manifests: Mapping[str, Manifest], path: Path) -> None:
    """Write the utterances of several manifests as one manifest, which appears whole.

    The names of the manifests become the sources of those of their utterances that have none.
    Audio stays where it is.

    Raises:
        BadManifest: an id is in two of them.
        StoreError: the disk is full, or the path cannot be written.
    """
    where: dict[str, Path] = {}
    twice = [
        f"{utterance.id!r} in {first} and in {manifest.path}"
        for manifest in manifests.values()
        for utterance in manifest.utterances
        if (first := where.setdefault(utterance.id, manifest.path)) != manifest.path
    ]
    if twice:
        raise BadManifest(
            f"ids must differ over all manifests that are merged, found {len(twice)} in two: "
            f"{'; '.join(twice[:3])}{' ...' if len(twice) > 3 else ''}: give those of one other ids"
        )
    merged = [
        utterance if utterance.source is not None else replace(utterance, source=name)
        for name, manifest in manifests.items()
        for utterance in moved_to(path.parent, manifest)
    ]
    write_manifest(path, merged)


def moved_to(folder: Path, manifest: Manifest) -> list[Utterance]:
    """Return a manifest's utterances as one in another folder has them; audio stays where it is."""
    return [
        replace(utterance, audio=audio_from(folder, manifest.audio_source(utterance)))
        for utterance in manifest.utterances
    ]


def with_labels_as_texts(manifest: Manifest, labels: Mapping[str, Label]) -> Manifest:
    """Return a manifest in which an utterance without a text has its label's, if it has one."""
    with_texts = (
        replace(utterance, text=labels[utterance.id].text)
        if utterance.text is None and labels[utterance.id].error is None
        else utterance
        for utterance in manifest.utterances
    )
    return replace(manifest, utterances=tuple(with_texts))


def read_labels(folder: Path) -> dict[str, Label]:
    """Return all labels of a folder by id, in the order of its shards; see :func:`each_record`."""
    return {label.id: label for label in each_record(folder, Label)}


def read_verdicts(folder: Path) -> dict[str, Verdict]:
    """Return all verdicts of a folder by id, as :func:`read_labels` does."""
    return {verdict.id: verdict for verdict in each_record(folder, Verdict)}


def utterance_of(line: bytes) -> Utterance:
    """Return the utterance of one line of a manifest.

    A ValueError says all that is wrong, but not where, which :func:`read_manifest` adds.
    """
    try:
        row = parse_json(line)
        if b"\\u" in line:  # the only way to write half of a character, which nothing can hold
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        cut = "" if line.endswith(b"\n") else "it has no line end and looks cut off: "
        raise ValueError(f"must be one JSON object in UTF-8, {cut}{error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"must be one JSON object, found {_shown(row)}")
    _checked(row)
    values: dict[str, Any] = {name: row.get(name) for name in UTTERANCE_FIELDS}
    values |= {name: _shared(values[name]) for name in _SHARED_STRINGS}
    values["start_s"] = float(values["start_s"] or 0.0)
    if values["duration_s"] is not None:
        values["duration_s"] = float(values["duration_s"])
    extra = {sys.intern(name): _shared(row[name]) for name in row if name not in UTTERANCE_FIELDS}
    return Utterance(**values, extra=extra or None)


def _is_from_0(value: Any) -> bool:
    is_number = isinstance(value, (float, int)) and not isinstance(value, bool)
    return is_number and 0 <= value <= _LARGEST


_NAME = ("a string that is not empty", lambda v: isinstance(v, str) and v != "")
_WORDS = ("a string or null", lambda v: isinstance(v, str))
# What the fields of a line must be, and whether a value is; all but the first two may be null.
_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "id": _NAME,
    "audio": _NAME,
    **dict.fromkeys(("text", *_SHARED_STRINGS), _WORDS),
    "channel": ("a whole number from 0 on, or null", lambda v: type(v) is int and v >= 0),
    "start_s": ("a finite number from 0 on", _is_from_0),
    "duration_s": ("a finite number above 0, or null", lambda v: v != 0 and _is_from_0(v)),
}


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row; a ValueError says all that is wrong with it."""
    faults = []
    for name, (must, holds) in _RULES.items():  # of millions of rows: nothing slow in here
        value = row.get(name)
        is_right = name not in ("id", "audio") if value is None else holds(value)
        if not is_right:
            faults.append(f"{name} must be {must}, found {_shown(value)}")
    if faults:
        raise ValueError("; ".join(faults))
    return row


def _row(utterance: Utterance) -> dict[str, Any]:
    row = {name: getattr(utterance, name) for name in UTTERANCE_FIELDS}
    for name in _RARE_FIELDS:
        if row[name] is None:
            del row[name]
    more = utterance.extra or {}
    return row | {name: value for name, value in more.items() if name not in UTTERANCE_FIELDS}


def _shared(value: Any) -> Any:
    """Return one object for equal strings, which repeat from line to line."""
    return sys.intern(value) if type(value) is str else value


Record = TypeVar("Record", Label, Verdict)


def each_record(folder: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the labels or verdicts of a folder one by one, so that not all need be in memory.

    Raises:
        DuplicateId: two records have one id.
        TornShard: a line is no such record.
        FileNotFoundError: there is no shard.
    """
    paths = shard_paths(folder)
    if not paths:
        raise FileNotFoundError(
            f"{folder} must hold shards called shard-00000.jsonl, found none: run the stage that "
            "writes them first"
        )
    places: dict[str, str] = {}
    for path in paths:
        for number, row in enumerate(read_jsonl(path), start=1):
            here = f"{path}:{number}"
            try:
                record = kind.from_dict(row)
            except ValueError as error:
                raise TornShard(f"{here} is not a record of this folder: {error}") from error
            if (first := places.setdefault(record.id, here)) != here:
                raise DuplicateId(
                    f"{here} must be of another utterance than every other line, found "
                    f"{record.id!r}, as in {first}: delete one of the two and run its stage again"
                )
            yield record


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
