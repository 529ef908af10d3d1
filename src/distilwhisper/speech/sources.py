"""Where bytes of sound come from: a path, a URL, a member of a tar, or a file that is open."""

import hashlib
import io
import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from difflib import get_close_matches
from functools import partial
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
    if isinstance(source, (str, Path)):
        member = re.fullmatch(r"(.+?\.(?:tar(?:\.\w+)?|tgz))#(.+)", str(source))
        if member and not Path(str(source)).exists():
            yield NamedBytes(_read_member(member[1], member[2]), member[2]), str(source)
        else:
            with _open_path(str(source)) as file:
                yield _seekable(file, str(source)), str(source)
        return
    name = str(getattr(source, "name", "the open file"))
    yield _seekable(source, name), name


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
    between the parts that the digest reads.

    Args:
        source: a path, ``shard.tar#member``, or the URL of either.

    Raises:
        OSError, CorruptAudio: it is not there, or cannot be read.
        MissingExtra: a package must be installed to read this URL.
    """
    with opened(source) as (file, _):
        if isinstance(file, NamedBytes):
            return hashlib.blake2b(file.getvalue(), digest_size=16).hexdigest()
        digest = digest_of(file).hex()
        return digest if "://" in source else f"{digest}-{os.fstat(file.fileno()).st_mtime_ns}"


def _open_path(path: str) -> OpenFile:
    """Open a file on a disk, or what a URL stands for, read in pieces as they are asked for."""
    if "://" not in path:
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


_TarKey: TypeAlias = tuple[int, int, int] | str  # inode, size, time of change; or a URL's state
_TarIndex: TypeAlias = dict[str, tuple[int, int]]  # member -> offset, size

# Most recently used last. An index costs about 0.2 MB for a thousand members.
_MAX_TAR_INDEXES = 256
_tar_indexes: dict[str, tuple[_TarKey, _TarIndex]] = {}
_tar_lock = threading.Lock()


def _read_member(shard: str, member: str) -> bytes:
    if "://" in shard:
        storage, place = _storage(shard)
        with _asking_storage(shard):
            index = _tar_index(shard, storage.ukey(place), partial(storage.open, place, "rb"))
            offset, size = _find_member(index, shard, member)
            data: bytes = storage.cat_file(place, start=offset, end=offset + size)
    else:
        with Path(shard).open("rb") as file:
            status = os.fstat(file.fileno())
            key = status.st_ino, status.st_size, status.st_mtime_ns
            index = _tar_index(shard, key, lambda: nullcontext(file))
            offset, size = _find_member(index, shard, member)
            file.seek(offset)
            data = file.read(size)
    if len(data) < size:
        raise CorruptAudio(
            f"{shard}#{member}: the tar header states {size} bytes, found {len(data)}; "
            "the shard was cut short: fetch it again"
        )
    return data


def _find_member(index: _TarIndex, shard: str, member: str) -> tuple[int, int]:
    place = index.get(member.removeprefix("./"))
    if place is None:
        near = get_close_matches(member, islice(index, 2000)) or list(islice(index, 3))
        raise CorruptAudio(
            f"{shard}: no member {member!r} among {len(index)}; "
            f"near it: {', '.join(map(repr, near)) or 'none'}"
        )
    return place


def _tar_index(
    shard: str, key: _TarKey, open_: Callable[[], AbstractContextManager[OpenFile]]
) -> _TarIndex:
    """Return where the members of a tar lie, scanning it once as long as its key is the same."""
    with _tar_lock:
        entry = _tar_indexes.pop(shard, None)
        if entry is None or entry[0] != key:
            with open_() as file:
                entry = key, _scan_tar(file, shard)
        _tar_indexes[shard] = entry
        if len(_tar_indexes) > _MAX_TAR_INDEXES:
            del _tar_indexes[next(iter(_tar_indexes))]
        return entry[1]


def _scan_tar(file: OpenFile, shard: str) -> _TarIndex:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            files = (info for info in tar if info.isreg())
            return {f.name.removeprefix("./"): (f.offset_data, f.size) for f in files}
    except tarfile.TarError as error:
        file.seek(0)
        head = file.read(6)
        if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise CorruptAudio(
                f"{shard}: members are read in place, which needs a plain tar, found a compressed "
                "one; unpack it once (gunzip, xz -d) and name the plain tar instead"
            ) from error
        raise CorruptAudio(f"{shard}: not a tar archive that can be read ({error})") from error
