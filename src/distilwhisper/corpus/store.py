"""Shards of JSONL, which are there whole or not at all.

A shard that a stage has written is not to be edited: what was made of it would no longer be of it.
Beside the shards lies ``.digests/``, with an empty file for each, named after the shard and the
sha256 of what it holds. It is made before the shard gets its name, so that a process may be killed
at any moment and two may write the same shard; reading a shard checks it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distilwhisper.errors import DistilwhisperError
from distilwhisper.extras import needed_by
from distilwhisper.files import replacing, write_atomic

with needed_by("reading manifests and labels", extra="train"):
    import orjson

DIGESTS = ".digests"
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_SHARD_NAME = re.compile(r"(.*)-(\d{5,})\.jsonl")


class TornShard(DistilwhisperError, ValueError):
    """A line of one of our files is not a JSON object of the kind that the file holds."""


class ChangedShard(TornShard):
    """A shard does not hold what a stage wrote there."""


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON, one a line, in a file that appears whole.

    They may come from an iterator, so that not all of them need be in memory.

    Raises:
        StoreError: the disk is full, or the path cannot be written.
        ValueError: a row holds what JSON or UTF-8 has no form for, such as nan.
    """
    with replacing(path) as file:
        file.writelines(map(_line, rows))


def write_shard(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as :func:`write_jsonl` does, in a file that nobody else is to change."""
    data = b"".join(map(_line, rows))
    digest = _digest_path(path, data)
    if not digest.exists():
        write_atomic(digest, b"")
    write_atomic(path, data)


def check_shard(path: Path) -> None:
    """Refuse a shard that is not as :func:`write_shard` wrote it, where a folder has digests.

    It is a ChangedShard then.
    """
    if not _SHARD_NAME.fullmatch(path.name) or not (path.parent / DIGESTS).exists():
        return
    digest = _digest_path(path, path.read_bytes())
    if not digest.exists():
        raise ChangedShard(
            f"{path} must hold what its stage wrote, found something else (sha256 "
            f"{digest.suffix[1:13]}...): put the file back as it was, or delete it and run the "
            f"stage again; to work on edited shards, copy them to a folder without {DIGESTS}"
        )


def parse_json(data: bytes) -> Any:
    """Return what ``json.loads`` makes of UTF-8, or its ValueError, in a quarter of the time.

    What orjson refuses, the standard library has the last word on: it takes nan, for one.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data.decode("utf-8"))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that :func:`write_jsonl` or :func:`write_shard` wrote.

    Raises:
        ChangedShard: as for :func:`check_shard`.
        TornShard: a line is not a JSON object, or the last one has no end; with its number.
    """
    check_shard(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = parse_json(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise TornShard(
                    f"{path}:{number} must be a JSON object and a line end, found {line[:60]!r}: "
                    "delete the file and run its stage again, which makes only what is missing"
                )
            yield row


def shard_path(folder: Path, index: int) -> Path:
    """Return the path of one shard of a folder, numbered from 0."""
    return folder / f"shard-{index:05d}.jsonl"


def shard_paths(folder: Path) -> list[Path]:
    """Return a folder's shards, files called ``*-00000.jsonl``, by name and then number."""
    names = {path: _SHARD_NAME.fullmatch(path.name) for path in folder.iterdir()}
    numbered = [(name[1], int(name[2]), path) for path, name in names.items() if name]
    return [path for _, _, path in sorted(numbered)]


def _line(row: Mapping[str, Any]) -> bytes:
    return _encode(row).encode("utf-8") + b"\n"


def _digest_path(path: Path, data: bytes) -> Path:
    return path.parent / DIGESTS / f"{path.name}.{hashlib.sha256(data).hexdigest()}"
