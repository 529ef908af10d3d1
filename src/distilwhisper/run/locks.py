"""One process at a time in a folder, or in a part of it."""

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distilwhisper.files import open_locked

LOCK_FILE = ".lock"
_locked_here: set[Path] = set()


class FolderInUse(OSError):
    """Another process works in the folder."""


@dataclass(frozen=True)
class Part:
    """Every n-th shard of a folder, for one of n processes that work on it side by side."""

    index: int  # from 0
    n_parts: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.n_parts:
            raise ValueError(f"part I/N must be one of N, counted from 0, found {self}")

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read "I/N", of a part that there is, or raise a ValueError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match:
            raise ValueError(f'a part must be written as I/N, such as 0/8, found "{text}"')
        return cls(int(match[1]), int(match[2]))

    def holds(self, shard: int) -> bool:
        """Return whether a shard is of this part."""
        return shard % self.n_parts == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.n_parts}"


@contextmanager
def lock_folder(folder: Path, part: Part | None = None) -> Iterator[None]:
    """Keep every other process out of a folder, which is made if it is not there.

    The operating system drops the lock when the process ends, however it ends. A process may lock
    a folder that it has locked already; the outer lock holds. With a part others are kept out of it
    alone; they may be at work on other parts meanwhile.

    Raises:
        FolderInUse: another process has it, all of it or the part; the message names its id.
    """
    place = folder.resolve()
    if place in _locked_here:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        whole_or_shared = fcntl.LOCK_EX if part is None else fcntl.LOCK_SH
        locks.enter_context(_locked(place / LOCK_FILE, folder, whole_or_shared | fcntl.LOCK_NB))
        if part is not None:
            own = place / f"{LOCK_FILE}-{part.index}-of-{part.n_parts}"
            what = f"part {part} of {folder}"
            locks.enter_context(_locked(own, what, fcntl.LOCK_EX | fcntl.LOCK_NB))
        _locked_here.add(place)
        locks.callback(_locked_here.discard, place)
        yield


def taking_turns(folder: Path) -> AbstractContextManager[None]:
    """Wait until no other process takes its turn in the folder, and take it."""
    return _locked(folder / f"{LOCK_FILE}-open", folder, fcntl.LOCK_EX)


@contextmanager
def _locked(path: Path, what: Path | str, operation: int) -> Iterator[None]:
    """Hold a lock file, which is deleted afterwards unless others may share it."""
    try:
        file = open_locked(path, operation)
    except BlockingIOError as error:
        holder = path.read_text(errors="replace") if path.exists() else ""
        raise FolderInUse(
            f"{what} must be used by one process at a time, found it locked by "
            f"{holder or 'another process'}: wait for that process to end, or name another folder"
        ) from error
    try:
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        yield
    finally:
        if not operation & fcntl.LOCK_SH:
            path.unlink(missing_ok=True)
        file.close()
