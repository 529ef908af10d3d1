"""Files that appear whole or not at all, and records of JSON."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_LONGEST_NAME_BYTES = 255  # of a file, in the file systems that are in use


class BadRunFolder(ValueError):
    """A folder is not one of ours, or a record in it is broken."""


class StoreError(OSError):
    """A file could not be written; what was there before it is as it was."""


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read a record.

    Args:
        path: of a file with one JSON object.
        remedy: what to do where it is none, for the message.

    Raises:
        BadRunFolder: it is none.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRunFolder(f"{path} must be JSON, found: {error}; {remedy}") from error
    if not isinstance(record, dict):
        found = json.dumps(record, ensure_ascii=False)[:60]
        raise BadRunFolder(f"{path} must be a JSON object, found {found}; {remedy}")
    return record


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record for people to read, as :func:`write_atomic` does."""
    write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file that appears whole, by rename, in the place of what was there.

    The file and its folder are flushed to the disk before this returns. A process that is killed
    leaves at most a hidden temporary, which the next write of the same name takes over.

    Args:
        path: missing folders on the way to it are made.
        data: text is written as UTF-8.

    Raises:
        StoreError: the disk is full, or the path cannot be written.
    """
    with replacing(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary that takes the path's place if all goes well, and else is removed."""
    temporary = path.with_name(f".{path.name}.tmp")
    if len(os.fsencode(temporary.name)) > _LONGEST_NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
        temporary = path.with_name(f".{digest}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its name is fixed, so that what a killed writer left is written over; the lock makes two
        # living writers take turns.
        with open_locked(temporary, fcntl.LOCK_EX) as file:
            file.truncate()
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync(path.parent)
    except OSError as error:
        raise store_error(path, error) from error


def open_locked(path: Path, operation: int) -> BinaryIO:
    """Open a file, made if it is not there, and lock it.

    Whoever held the lock before may have renamed or deleted the file: what comes back is the one
    that others find under the name.

    Raises:
        BlockingIOError: the operation is not to wait, and somebody else has the lock.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            fcntl.flock(file, operation)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder, and say so like this.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def store_error(path: Path, error: OSError) -> StoreError:
    """Say which file could not be written, why, and what to do."""
    return StoreError(
        f"{path} could not be written: {error.strerror or error}. Files finished before are kept; "
        "free space, or make the place writable, and run the same command again"
    )
