"""The measures of a corpus on disk, in groups that any process can make.

    FOLDER/KEY/group-00000.npz  the rows of some label shards, in their order, one per label;
                                utterances without a label come last, in a group of their own;
                                each group becomes one shard of verdicts
    FOLDER/KEY/measures.json    how many groups there are; written last

The folder is a cache, by default ``LABELS/.measures``: it may be deleted at any time, and goes
where its labels go. The key is a digest of all that the measures depend on, so that labels or a
manifest that have changed by a single byte are measured anew, and limits, on which nothing here
depends, change nothing. A group appears whole, by rename: a run that was killed goes on with the
groups that are missing, and the bytes are the same whatever number of processes made them.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from distilwhisper.corpus.records import (
    BadManifest,
    Label,
    Utterance,
    label_shards,
    labels_of,
    manifest_lines,
    read_manifest,
    utterance_of,
)
from distilwhisper.corpus.store import TornShard, parse_json, shard_paths, write_atomic
from distilwhisper.filtering.measures import (
    NAMED_COLUMNS,
    ROW,
    Measures,
    MeasureTable,
    Rows,
)

GROUP_ROWS = 8192  # a group takes label shards until it has as many rows
_VERSION = 4  # of what the numbers mean; part of the key


@dataclass(frozen=True)
class Sources:
    """What measures are made from.

    Attributes:
        manifest: what was labelled, or a part of it.
        labels: folder of the labels.
        second: folder of other labels of the same utterances, for comparison.
        language: of all utterances; None: what the manifest names, else what the labels do.
        key: digest of all of these and of their contents; see :func:`measures_key`.
    """

    manifest: Path
    labels: Path
    second: Path | None
    language: str | None
    key: str


@dataclass(frozen=True)
class Group:
    """A part of the work, which any process can do.

    Attributes:
        path: the file to be written.
        shards: label shards.
        lines: the manifest's line of each label in them, None for strays; without shards, the
            lines of utterances that have no label.
        second: the line of each utterance in the second folder, None where it has none.
        language: as in :class:`Sources`.
    """

    path: Path
    shards: tuple[Path, ...]
    lines: list[bytes | None]
    second: list[bytes | None]
    language: str | None


def measures_key(inputs: Mapping[str, str], language: str | None) -> str:
    """Return the name of the folder of measures.

    Args:
        inputs: fingerprints of the manifest, of the labels and of the second ones, if any.
        language: of all utterances; None: what the manifest names, else what the labels do.
    """
    parts = json.dumps({"inputs": dict(inputs), "language": language, "version": _VERSION})
    return f"{inputs['labels'][:16]}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


class Plan:
    """Parts a corpus into groups, reading no more than ids; iterate it once, to the end.

    Args:
        sources: what to measure.
        folder: of the groups.

    Yields:
        The groups whose files are missing.

    Raises:
        BadManifest, TornShard, DuplicateId, FileNotFoundError: as the records' readers.
    """

    def __init__(self, sources: Sources, folder: Path) -> None:
        self.sources = sources
        self.folder = folder
        self.n_groups = 0  # so far
        self.n_stray = 0

    def __iter__(self) -> Iterator[Group]:
        other = self.sources.second
        shards_of_other = [] if other is None else shard_paths(other) or _refuse(other)
        second = {_id_of(line) or "": line for shard in shards_of_other for line in _lines(shard)}
        for shards, ids, lines in _parts(self.sources):
            path = group_path(self.folder, self.n_groups)
            self.n_groups += 1
            self.n_stray += lines.count(None)
            if not path.exists():
                others = [second.get(id_) for id_ in ids]
                yield Group(path, tuple(shards), lines, others, self.sources.language)


def group_path(folder: Path, number: int) -> Path:
    """Return the file of one group, numbered from 0."""
    return folder / f"group-{number:05d}.npz"


def measure_group(group: Group) -> None:
    """Measure the labels of a group and write its file."""
    table = MeasureTable()
    for utterance, label, second in _joined(group):
        table.add(utterance, label, group.language, second)
    measures = table.measures()
    file = io.BytesIO()
    np.savez(
        file,
        rows=measures.rows,
        ids=_as_bytes("\n".join(measures.ids)),
        names=_as_bytes(json.dumps(dict(measures.names))),
    )
    write_atomic(group.path, file.getvalue())


def read_groups(folder: Path, n_groups: int, *, n_stray: int) -> Measures:
    """Read all measures of a folder.

    Raises:
        TornShard: a file is missing or none that :func:`measure_group` wrote.
    """
    rows: list[Rows] = []
    ids: list[str] = []
    sizes: list[int] = []
    codes: dict[str, dict[str, int]] = {column: {} for column in NAMED_COLUMNS}
    for number in range(n_groups):
        part = _read_group(group_path(folder, number))
        for column in NAMED_COLUMNS:
            known = codes[column]
            new = [known.setdefault(name, len(known)) for name in part.names[column]]
            # Place -1 of this list, the last one, is for what is unknown.
            part.rows[column] = np.array([*new, -1], dtype=np.int32)[part.rows[column]]
        rows.append(part.rows)
        ids += part.ids
        sizes.append(len(part.rows))
    names = {column: list(known) for column, known in codes.items()}
    return Measures(np.concatenate(rows), ids, sizes, names, n_stray)


def discard_stale(folder: Path, key: str) -> None:
    """Delete measures of labels that are no longer in their folder.

    Args:
        folder: of all measures.
        key: of the present ones; those of the same labels stay.
    """
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.name.split("-")[0] != key.split("-")[0] and path.is_dir():
            shutil.rmtree(path)


def _read_group(path: Path) -> Measures:
    try:
        with np.load(path, allow_pickle=False) as file:
            rows = file["rows"]
            text, names = (file[name].tobytes().decode("utf-8") for name in ("ids", "names"))
        ids = text.split("\n") if text else []
        if rows.dtype != ROW or len(rows) != len(ids):
            raise ValueError("its columns do not fit")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise TornShard(
            f"{path} must hold measures of labels, found: {error}; delete the folder "
            f"{path.parent} and run the filter again"
        ) from error
    return Measures(rows, ids, [len(rows)], json.loads(names))


def _parts(sources: Sources) -> Iterator[tuple[list[Path], list[str], list[bytes | None]]]:
    """Yield some label shards at a time, the ids in them, and the manifest's line of each.

    The last are no shards and the lines that are left.
    """
    left = _manifest_by_id(sources.manifest)
    seen: set[str] = set()
    shards: list[Path] = []
    ids: list[str] = []
    for shard in shard_paths(sources.labels) or _refuse(sources.labels):
        found = [_id_of(line) or "" for line in _lines(shard)]
        n_seen = len(seen)
        seen.update(found)
        if len(seen) < n_seen + len(found) or "" in seen:
            _refuse(sources.labels)
        shards.append(shard)
        ids += found
        if len(ids) >= GROUP_ROWS:
            yield shards, ids, [left.pop(id_, None) for id_ in ids]
            shards, ids = [], []
    if shards:
        yield shards, ids, [left.pop(id_, None) for id_ in ids]
    if left:
        yield [], [], list(left.values())


def _joined(group: Group) -> Iterator[tuple[Utterance, Label | None, Label | None]]:
    """Yield each utterance with its labels."""
    if not group.shards:
        yield from ((_utterance(line), None, None) for line in group.lines if line is not None)
        return
    pairs = zip(group.lines, group.second, strict=True)
    for shard in group.shards:
        for label in labels_of(shard):
            line, other = next(pairs, (b"", None))
            if line is None:
                continue
            utterance = _utterance(line) if line else None
            if utterance is None or utterance.id != label.id:
                raise TornShard(
                    f"{shard} must stay as it is while it is measured, and a line of it name one "
                    f"utterance, found {label.id!r} where it was not: run the filter again"
                )
            yield utterance, label, None if other is None else _second_label(other)


def _second_label(line: bytes) -> Label:
    try:
        return Label.from_dict(parse_json(line))
    except ValueError as error:
        raise TornShard(f"a second label is none: {error}, found {line[:60]!r}") from error


def _utterance(line: bytes) -> Utterance:
    try:
        return utterance_of(line)
    except ValueError as error:
        raise BadManifest(str(error)) from error  # without its place: read_manifest finds it


def _manifest_by_id(path: Path) -> dict[str, bytes]:
    """Return a manifest's lines by id; they are read and checked elsewhere, in many processes."""
    lines: dict[str, bytes] = {}
    n_lines = 0
    for _, _, line in manifest_lines(path):
        lines[_id_of(line) or ""] = line
        n_lines += 1
    if len(lines) < n_lines or "" in lines or not lines:
        read_manifest(path)  # which names the lines that are wrong
    return lines


def _refuse(folder: Path) -> list[Path]:
    """Read labels by the book, whose error says what is wrong with them, and where."""
    for _ in label_shards(folder):
        pass
    return []


def _lines(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return file.readlines()


def _id_of(line: bytes) -> str | None:
    """Return the id that a line of JSON holds, mostly without reading all of the line."""
    if line.startswith(b'{"id": "'):
        start = line[8 : line.find(b'"', 8)]
        if b"\\" not in start:
            return start.decode("utf-8", "replace")
    try:
        row = parse_json(line)
    except ValueError:
        return None
    id_ = row.get("id") if isinstance(row, dict) else None
    return id_ if isinstance(id_, str) else None


def _as_bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
