"""Where bytes of sound come from: a path, a URL, a member of a tar, or a file that is open."""

import hashlib
import io
import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from distilwhisper.errors import DistilwhisperError
from distilwhisper.extras import MissingExtra, needed_by

OpenFile: TypeAlias = BinaryIO | io.BufferedIOBase  # io.BytesIO lacks some names of BinaryIO
Source: TypeAlias = str | Path | OpenFile


class CorruptAudio(DistilwhisperError):
    """A sound that cannot be read whole: the message names the file and the fault."""


class NamedBytes(io.BytesIO):
    """Bytes with a name: libav knows a format without a header (g722) by its extension alone."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@contextmanager
def opened(source: Source) -> Iterator[tuple[OpenFile, str]]:
    """Open a source as a file that can seek, beside its name for messages."""
    if not isinstance(source, (str, Path)):
        name = str(getattr(source, "name", "the open file"))
        yield _seekable(source, name), name
        return
    name = str(source)
    if not name:  # which pathlib takes for the current folder
        raise FileNotFoundError("audio must have a name, found an empty one")
    member = re.fullmatch(r"(.+?\.(?:tar(?:\.\w+)?|tgz))#(.+)", name)
    if member and not Path(name).exists():
        yield NamedBytes(_read_member(member[1], member[2]), member[2]), name
    else:
        with _open_path(name) as file:
            yield _seekable(file, name), name


def _seekable(file: OpenFile, name: str) -> OpenFile:
    """Return a file at its beginning; one that can be read only once, read into memory."""
    if not file.seekable():
        return NamedBytes(file.read(), name)
    file.seek(0)
    return file


def digest_of(file: OpenFile) -> bytes:
    """Return a digest of a file's size and three parts of it, and go back to its beginning."""
    n_bytes = file.seek(0, os.SEEK_END)
    digest = hashlib.blake2b(n_bytes.to_bytes(8, "big"), digest_size=16)
    part = 1 << 16
    for position in (0, max(n_bytes - part, 0) // 2, max(n_bytes - part, 0)):
        file.seek(position)
        digest.update(file.read(part))
    file.seek(0)
    return digest.digest()


def fingerprint(source: str) -> str:
    """Return a text that changes when a sound is replaced or mended.

    Of a member it is a digest of all its bytes. Of a file it is :func:`digest_of` in hexadecimal,
    and where it lies on a disk "-" and the time of its last change in nanoseconds: an edit may lie
    between the parts that the digest reads. What cannot be read raises as for ``load_samples``.
    """
    with opened(source) as (file, _):
        if isinstance(file, NamedBytes):
            return hashlib.blake2b(file.getvalue(), digest_size=16).hexdigest()
        digest = digest_of(file).hex()
        return digest if "://" in source else f"{digest}-{os.fstat(file.fileno()).st_mtime_ns}"


def _open_path(path: str) -> OpenFile:
    """Open a file on a disk, or what a URL stands for, read in pieces as they are asked for."""
    if "://" not in path:
        if Path(path).is_dir():
            raise IsADirectoryError(f"{path}: must be a file, found a folder: name the files in it")
        return Path(path).open("rb")
    storage, place = _storage(path)
    with _asking_storage(path):
        file = storage.open(place, "rb")
    if not isinstance(getattr(file, "name", None), str):
        file.name = path  # libav asks for it, as of NamedBytes
    return file


@contextmanager
def _asking_storage(url: str) -> Iterator[None]:
    """Make whatever a storage library raises an OSError: the file fails, and not the run."""
    try:
        yield
    except (OSError, CorruptAudio):
        raise
    except ImportError as error:  # of s3fs, gcsfs, adlfs ...
        raise MissingExtra(f"{url}: {error}") from error
    except Exception as error:
        raise OSError(
            f"{url} could not be read from its storage: {type(error).__name__}: {error}"
        ) from error


def _storage(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and its path there."""
    with needed_by(f"reading {url}", extra="storage"):
        from fsspec.core import url_to_fs
    with _asking_storage(url):
        storage, place = url_to_fs(url)
    return storage, place


@dataclass(frozen=True)
class _Tar:
    name: str
    state: tuple[int, ...] | str  # inode, size and time of change of a file; or a URL's
    open: Callable[[], AbstractContextManager[OpenFile]] = field(compare=False)


def _read_member(shard: str, member: str) -> bytes:
    if "://" in shard:
        storage, place = _storage(shard)
        with _asking_storage(shard):
            tar = _Tar(shard, storage.ukey(place), partial(storage.open, place, "rb"))
            offset, size = _find_member(tar, member)
            data: bytes = storage.cat_file(place, start=offset, end=offset + size)
    else:
        with Path(shard).open("rb") as file:
            status = os.fstat(file.fileno())
            state = status.st_ino, status.st_size, status.st_mtime_ns
            offset, size = _find_member(_Tar(shard, state, lambda: nullcontext(file)), member)
            file.seek(offset)
            data = file.read(size)
    if len(data) < size:
        raise CorruptAudio(
            f"{shard}#{member}: the tar header states {size} bytes, found {len(data)}; "
            "the shard was cut short: fetch it again"
        )
    return data


def _find_member(tar: _Tar, member: str) -> tuple[int, int]:
    """Return where a member begins, and its size."""
    with _scanning:
        index = _members(tar)
    place = index.get(member.removeprefix("./"))
    if place is None:
        near = get_close_matches(member, islice(index, 2000)) or list(islice(index, 3))
        raise CorruptAudio(
            f"{tar.name}: no member {member!r} among {len(index)}; "
            f"near it: {', '.join(map(repr, near)) or 'none'}"
        )
    return place


_scanning = threading.Lock()  # two readers of a tar would scan it twice


@lru_cache(maxsize=256)  # of about 0.2 MB for a thousand members
def _members(tar: _Tar) -> dict[str, tuple[int, int]]:
    with tar.open() as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as members:
                files = (info for info in members if info.isreg())
                return {f.name.removeprefix("./"): (f.offset_data, f.size) for f in files}
        except tarfile.TarError as error:
            file.seek(0)
            head, fault = file.read(6), f"not a tar archive that can be read ({error})"
            if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
                fault = (
                    "members are read in place, which needs a plain tar, found a compressed one; "
                    "unpack it once (gunzip, xz -d) and name the plain tar instead"
                )
            raise CorruptAudio(f"{tar.name}: {fault}") from error
