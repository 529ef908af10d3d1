"""What a folder was made of: the settings and the inputs of the stage that fills it."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distilwhisper import __version__
from distilwhisper.errors import DistilwhisperError
from distilwhisper.run.files import BadRunFolder, read_json, write_json
from distilwhisper.run.locks import LOCK_FILE, lock_folder, taking_turns
from distilwhisper.run.settings import shown

_STAGE_FILE = "stage.json"
_TEMPORARY = f".{_STAGE_FILE}.tmp"
_FINGERPRINT = re.compile(r'"([0-9a-f]{12})[0-9a-f]{52}"')


class StageChanged(DistilwhisperError):
    """A folder was made with other settings or inputs than it is opened with."""


def open_stage(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    force: bool,
    check: Callable[[], object] | None = None,
) -> None:
    """Record what a folder is made of, or check that it was made of the same.

    The folder is made if it is not there. One that holds files must hold our stage.json, which is
    why no ``force`` can ever empty one that is somebody else's. ``settings`` are all that shapes
    what the stage writes, as JSON can hold it, or paths; ``inputs`` hold the :func:`fingerprint` of
    what it reads, by name. Where they have changed, ``force`` deletes what the folder holds, and
    goes on. ``check`` is called before a change is refused or anything deleted: it names a damaged
    input as such.

    Raises:
        StageChanged: they have changed; the message has a line for every difference.
        BadRunFolder: the folder holds files but no stage.json, or one that cannot be read.
        FolderInUse: another process holds the folder's lock.
    """
    made_of = {"settings": settings, "inputs": inputs}
    now = json.loads(json.dumps(made_of, default=str, allow_nan=False))
    # Processes that work on parts of the folder open it at the same time.
    with lock_folder(folder), taking_turns(folder):
        before = _read_stage(folder)
        changes = [] if before is None else [*_changes(before, now)]
        if before is not None and not changes:
            return
        if changes and check is not None:
            check()
        if changes and not force:
            lines = "\n  ".join(changes)
            raise StageChanged(
                f"{folder} was made with other settings or inputs:\n  {lines}\n"
                "take them back, name another folder, or add --force, which deletes what the "
                "folder holds and redoes the stage"
            )
        _empty(folder)
        write_json(folder / _STAGE_FILE, {"made_by": f"distilwhisper {__version__}", **now})


def _read_stage(folder: Path) -> dict[str, Any] | None:
    path = folder / _STAGE_FILE
    if not path.exists():
        names = {path.name for path in folder.iterdir()} - {_TEMPORARY}  # of a killed process
        strangers = sorted(name for name in names if not name.startswith(LOCK_FILE))
        if strangers:
            raise BadRunFolder(
                f"{folder} must be new, empty or of an earlier run, found no {_STAGE_FILE} but "
                f"{', '.join(strangers[:3])}{' ...' if strangers[3:] else ''}: name another folder"
            )
        return None
    record = read_json(path, remedy="look at the folder, and delete it if it may be redone")
    ours = str(record.get("made_by")).startswith("distilwhisper ")
    if not ours or not all(isinstance(record.get(k), dict) for k in ("settings", "inputs")):
        raise BadRunFolder(
            f"{path} must record what a stage of distilwhisper was made of, found other keys "
            f"({', '.join(record) or 'none'}): name another folder"
        )
    return record


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for every setting and input that is another."""
    for part, label in (("settings", ""), ("inputs", "input ")):
        old, new = dict(_flat(before[part], label)), dict(_flat(now[part], label))
        for key in {**old, **new}:
            if (key in old, old.get(key)) != (key in new, new.get(key)):
                was, is_now = (shown(of[key]) if key in of else "absent" for of in (old, new))
                yield _FINGERPRINT.sub(r"\1...", f"{key}: was {was}, now {is_now}")


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _empty(folder: Path) -> None:
    """Delete all but stage.json and locks; a process that is killed here leaves our stage.json."""
    for path in folder.iterdir():
        if path.name == _STAGE_FILE or path.name.startswith(LOCK_FILE):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def fingerprint(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's names and contents, in hexadecimal.

    In a folder, files whose name or folder begins with a dot do not count, which are locks,
    temporaries and caches, nor does README.md: a model is the same whatever its card.
    """
    if not path.is_dir():
        return _sha256(path)
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        hidden = any(part.startswith(".") for part in name.parts)
        if file.is_file() and not hidden and name.as_posix() != "README.md":
            total.update(f"{name.as_posix()}\0{_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
