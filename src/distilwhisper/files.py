"""Files and folders that appear whole or not at all."""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST_NAME_BYTES = 255  # of a file, in the file systems that are in use


class StoreError(OSError):
    """A file could not be written; what was there before it is as it was."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file that appears whole, by rename, in the place of what was there.

    The file and its folder are flushed to the disk before this returns. A process that is killed
    leaves at most a hidden temporary, which the next write of the same name takes over. Missing
    folders on the way are made; text is written as UTF-8. What cannot be written is a StoreError.
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
    """Open a file, made if it is not there, and lock it; as by ``fcntl.flock``.

    Whoever held the lock before may have renamed or deleted the file: what comes back is the one
    that others find under the name.
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
        # Some network file systems cannot flush a folder, and answer so.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def store_error(path: Path, error: OSError) -> StoreError:
    """Return an error that names the file, the cause, and what to do."""
    return StoreError(
        f"{path} could not be written: {error.strerror or error}. Files finished before are kept; "
        "free space, or make the place writable, and run the same command again"
    )


def require_new(folder: Path) -> None:
    """Refuse a file, or a folder that holds something already, with a FileExistsError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder}: must be new or empty, and holds something already: name another DEST"
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``folder`` if all goes well, and else is removed.

    So the folder appears whole, by rename, and two processes may write the same one: the second is
    refused. Its parents are made.

    Raises:
        FileExistsError: the folder holds something already.
        StoreError: the disk is full.
    """
    require_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes it private
        for path in [*temporary.rglob("*"), temporary]:
            if not path.is_symlink():
                sync(path)
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(f"{folder}: written by another process") from error
            raise
        sync(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise store_error(folder, error) from error
        raise
