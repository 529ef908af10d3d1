"""One run: its settings, what made each of its folders, where it ran, and its log.

    recipe.toml    the settings, resolved      settings_to_toml, read_recipe
    run.json       every start of the run      write_run_record
    */stage.json   what a folder was made of   open_stage
    metrics.jsonl  rows by step                MetricsLog

Whatever else lies in a run's folder, the stages write.
"""

import contextlib
import dataclasses
import difflib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, Union

from distilwhisper import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = TypeVar("Settings")

_STAGE_FILE = "stage.json"
_LOCK_FILE = ".lock"
_TEMPORARY = f".{_STAGE_FILE}.tmp"
_FAULT = object()  # stands where a value was refused; the fault is in the list
_locked_here: set[Path] = set()


class SettingsError(ValueError):
    """Settings do not fit; the message names every fault."""


class StageChanged(Exception):
    """A folder was made with other settings or inputs than it is opened with."""


class BadRunFolder(ValueError):
    """A folder is not one of ours, or a record in it is broken."""


class StoreError(OSError):
    """A file could not be written; what was there before it is as it was."""


class FolderInUse(OSError):
    """Another process works in the folder."""


# Settings


def build_settings(
    cls: type[Settings], mapping: Mapping[str, Any], *, where: str | Path
) -> Settings:
    """Build a frozen dataclass from a mapping such as a TOML file gives.

    Fields may be dataclasses, ``bool``, ``int``, ``float``, ``str``, ``Path``, ``Literal``,
    tuples, lists, and unions of these. A whole number is taken for a float; a bool, nan or
    infinity is taken for no number. A section that is given in part keeps the field's default for
    the rest.

    Args:
        cls: the dataclass; a ``ValueError`` from its ``__post_init__`` counts as a fault.
        mapping: names of fields to values; fields with a default may be left out.
        where: the origin, for messages.

    Raises:
        SettingsError: with all faults, each by its dotted key.
    """
    faults: list[str] = []
    settings = _section(cls, mapping, "", None, faults)
    if faults:
        noun = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise SettingsError("\n  ".join([f"{where}: {noun} in the settings", *faults]))
    return typing.cast(Settings, settings)


def read_recipe(path: Path, cls: type[Settings], overrides: Sequence[str] = ()) -> Settings:
    """Read settings from a TOML file.

    Args:
        path: the recipe.
        cls: the dataclass that it fills.
        overrides: ``section.key=value`` each, put in place of what the recipe says. The value is
            written as in TOML; what is no TOML value is a string, so bare words need no quotes.

    Raises:
        SettingsError: the file cannot be read, or its settings do not fit.
    """
    mapping = read_toml(path)
    for override in overrides:
        put_override(mapping, override)
    return build_settings(cls, mapping, where=path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe as the plain tables and values that it holds.

    Raises:
        SettingsError: the file cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} must be a recipe in TOML, found: {error}") from error


def settings_to_toml(settings: Any) -> str:
    """Write a settings dataclass as the TOML that :func:`read_recipe` reads back as its equal.

    None is left out, as TOML has no word for it.
    """
    lines: list[str] = []
    _write_table(settings, (), lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _section(cls: Any, mapping: Any, key: str, base: object | None, faults: list[str]) -> object:
    """Build one dataclass; ``base`` is the default that a partial section starts from."""
    if not isinstance(mapping, Mapping):
        faults.append(f"{key}: must be a table, found {_shown(mapping)}")
        return _FAULT
    n_before = len(faults)
    prefix = f"{key}." if key else ""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    kinds = typing.get_type_hints(cls)
    faults.extend(_unknown(name, fields, prefix) for name in mapping if name not in fields)
    values: dict[str, object] = {}
    for name, field in fields.items():
        default = _default(field) if base is None else getattr(base, name)
        if name in mapping:
            values[name] = _value(kinds[name], mapping[name], prefix + name, default, faults)
        elif default is dataclasses.MISSING:
            faults.append(f"{prefix}{name}: must be given ({_allowed(kinds[name])}), found nothing")
        else:
            values[name] = default
    if len(faults) > n_before:
        return _FAULT
    try:
        return typing.cast(object, cls(**values))
    except ValueError as error:
        faults.append(f"{key}: {error}" if key else str(error))
        return _FAULT


def _default(field: "dataclasses.Field[Any]") -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _unknown(name: str, known: Iterable[str], prefix: str) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    hint = f"; the nearest is {prefix}{nearest[0]}" if nearest else ""
    return f"{prefix}{name}: there is no such key{hint}"


def _value(kind: Any, value: Any, key: str, default: object, faults: list[str]) -> object:
    """Return a value as its field's type, or note why it cannot be."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        base = default if isinstance(default, typing.cast(type, kind)) else None
        return _section(kind, value, key, base, faults)
    if origin in (Union, types.UnionType):
        return _union(kind, value, key, default, faults)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        return _sequence(kind, value, key, faults)
    fitted = _FAULT if origin in (tuple, list) else _scalar(kind, value)
    if fitted is _FAULT:
        faults.append(f"{key}: must be {_allowed(kind)}, found {_shown(value)}")
    return fitted


def _union(kind: Any, value: Any, key: str, default: object, faults: list[str]) -> object:
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    if value is None and len(members) < len(typing.get_args(kind)):
        return None
    if len(members) == 1:
        return _value(members[0], value, key, default, faults)
    for member in members:
        fitted = _value(member, value, key, default, [])
        if fitted is not _FAULT:
            return fitted
    faults.append(f"{key}: must be {_allowed(kind)}, found {_shown(value)}")
    return _FAULT


def _sequence(kind: Any, values: Sequence[Any], key: str, faults: list[str]) -> object:
    members = typing.get_args(kind)
    if typing.get_origin(kind) is list or members[-1] is Ellipsis:
        members = (members[0],) * len(values)
    if len(members) != len(values):
        faults.append(f"{key}: must be {_allowed(kind)}, found {len(values)} values")
        return _FAULT
    n_before = len(faults)
    fitted = [
        _value(member, value, f"{key}[{i}]", None, faults)
        for i, (member, value) in enumerate(zip(members, values, strict=True))
    ]
    return _FAULT if len(faults) > n_before else typing.get_origin(kind)(fitted)


def _scalar(kind: Any, value: Any) -> object:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        fits = any(value == choice and type(value) is type(choice) for choice in choices)
        return value if fits else _FAULT
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    if kind is float and type(value) in (int, float):
        return float(value) if abs(value) <= sys.float_info.max else _FAULT
    if kind in (bool, int, str) and type(value) is kind:
        return typing.cast(object, value)
    if kind in (bool, int, float, str, Path):
        return _FAULT
    raise TypeError(f"a setting cannot be of type {kind}")


def _allowed(kind: Any) -> str:
    """Return what a type takes, in the words of a TOML file."""
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(member) for member in arguments if member is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(_shown, arguments))
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list, each of it {_allowed(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: " + ", ".join(map(_allowed, arguments))
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "a string",
        Path: "a path in quotes",
    }
    return names.get(kind, "a table")


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def put_override(mapping: dict[str, Any], override: str) -> None:
    """Put one ``section.key=value``, written as for :func:`read_recipe`, into plain tables.

    Raises:
        SettingsError: it is not written so, or a section of it is a value.
    """
    key, equals, text = override.partition("=")
    *sections, name = (part.strip() for part in key.split("."))
    if not equals or not name or not all(sections):
        raise SettingsError(f'an override must be section.key=value, found "{override}"')
    for section in sections:
        mapping = mapping.setdefault(section, {})
        if not isinstance(mapping, dict):
            raise SettingsError(
                f'"{override}" must name a key of a section, found that {section} is the value '
                f"{_shown(mapping)}"
            )
    mapping[name] = _toml_value(text.strip())


def _toml_value(text: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _write_table(table: Any, path: tuple[str, ...], lines: list[str]) -> None:
    values = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    sections = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    plain = {n: v for n, v in values.items() if v is not None and n not in sections}
    if path and (plain or not sections):
        lines.extend(["", f"[{'.'.join(path)}]"])
    lines.extend(f"{name} = {_toml(value)}" for name, value in plain.items())
    for name, value in sections.items():
        _write_table(value, (*path, name), lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        # JSON escapes all that TOML asks for but this one.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if dataclasses.is_dataclass(value):
        values = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        inner = (f"{name} = {_toml(v)}" for name, v in values.items() if v is not None)
        return f"{{{', '.join(inner)}}}"
    raise TypeError(f"a setting cannot be of type {type(value).__name__}, found {value!r}")


# What a folder was made of


def open_stage(
    folder: Path, *, settings: Mapping[str, Any], inputs: Mapping[str, str], force: bool
) -> None:
    """Make a folder a stage's own, or see that it is: the same settings, the same inputs.

    Args:
        folder: made if it is not there. One that holds files must hold our stage.json, which is
            why no ``force`` can ever empty a folder that is somebody else's.
        settings: all that shapes what the stage writes; as JSON can hold it, or paths.
        inputs: names of what the stage reads, to their :func:`fingerprint`.
        force: where settings or inputs have changed, delete what the folder holds, and go on.

    Raises:
        StageChanged: they have changed; the message has a line for every difference.
        BadRunFolder: the folder holds files but no stage.json, or one that cannot be read.
        FolderInUse: another process holds the folder's lock.
    """
    now = json.loads(
        json.dumps({"settings": settings, "inputs": inputs}, default=str, allow_nan=False)
    )
    # Processes that work on parts of the folder open it at the same time.
    with lock_folder(folder), _taking_turns(folder):
        before = _read_stage(folder)
        changes = [] if before is None else _changes(before, now)
        if before is not None and not changes:
            return
        if changes and not force:
            lines = "\n  ".join(changes)
            raise StageChanged(
                f"{folder} was made with other settings or inputs:\n  {lines}\n"
                "take them back, name another folder, or add --force, which deletes what the "
                "folder holds and redoes the stage"
            )
        _empty(folder)
        _write_json(folder / _STAGE_FILE, {"made_by": f"distilwhisper {__version__}", **now})


def _read_stage(folder: Path) -> dict[str, Any] | None:
    path = folder / _STAGE_FILE
    if not path.exists():
        strangers = sorted(p.name for p in folder.iterdir() if not _is_housekeeping(p.name))
        if strangers:
            raise BadRunFolder(
                f"{folder} must be new, empty or of an earlier run, found no {_STAGE_FILE} but "
                f"{', '.join(strangers[:3])}{' ...' if len(strangers) > 3 else ''}: name another "
                "folder"
            )
        return None
    record = _read_json(path, remedy="look at the folder, and delete it if it may be redone")
    ours = str(record.get("made_by")).startswith("distilwhisper ")
    if not ours or not all(isinstance(record.get(k), dict) for k in ("settings", "inputs")):
        raise BadRunFolder(
            f"{path} must tell what a stage of distilwhisper was made of, found other keys "
            f"({', '.join(record) or 'none'}): name another folder"
        )
    return record


def _is_housekeeping(name: str) -> bool:
    """Tell a file that a killed process may leave."""
    return name.startswith(_LOCK_FILE) or name == _TEMPORARY


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    changes = []
    for part, label in (("settings", ""), ("inputs", "input ")):
        old, new = _flat(before[part]), _flat(now[part])
        changes += [
            f"{label}{key}: was {_value_of(old, key)}, now {_value_of(new, key)}"
            for key in {**old, **new}
            if (key in old, old.get(key)) != (key in new, new.get(key))
        ]
    return changes


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _value_of(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    value = values[key]
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return f"{value[:12]}..."
    return _shown(value)


def _empty(folder: Path) -> None:
    """Delete all but stage.json and locks: a kill on the way leaves a folder still ours."""
    for path in folder.iterdir():
        if path.name == _STAGE_FILE or path.name.startswith(_LOCK_FILE):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def fingerprint(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's names and contents, in hexadecimal.

    In a folder, files whose name or folder begins with a dot do not count, which are locks,
    temporaries and caches, nor does README.md: a model is the same whatever its card says.
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


@dataclasses.dataclass(frozen=True)
class Part:
    """Every n-th shard of a folder, for one of n processes that work on it side by side."""

    index: int  # from 0
    n_parts: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.n_parts:
            raise ValueError(
                f"part I/N must be one of N, counted from 0, found {self.index}/{self.n_parts}"
            )

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read "I/N".

        Raises:
            ValueError: it is not written so, or there is no such part.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found:
            raise ValueError(f'a part must be written as I/N, such as 0/8, found "{text}"')
        return cls(int(found[1]), int(found[2]))

    def holds(self, shard: int) -> bool:
        """Tell whether a shard is of this part."""
        return shard % self.n_parts == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.n_parts}"


@contextmanager
def lock_folder(folder: Path, part: Part | None = None) -> Iterator[None]:
    """Keep every other process out of a folder, which is made if it is not there.

    The operating system drops the lock when the process ends, however it ends. A process may lock
    a folder that it has locked already; the outer lock holds.

    Args:
        folder: the folder.
        part: keep others out of this part alone; they may be at work on other parts meanwhile.

    Raises:
        FolderInUse: another process has it, all of it or the part; the message names its id.
    """
    place = folder.resolve()
    if place in _locked_here:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    whole = place / _LOCK_FILE
    with contextlib.ExitStack() as locks:
        if part is None:
            locks.enter_context(_locked(whole, folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
        else:
            locks.enter_context(_locked(whole, folder, fcntl.LOCK_SH | fcntl.LOCK_NB))
            own = place / f"{_LOCK_FILE}-{part.index}-of-{part.n_parts}"
            locks.enter_context(
                _locked(own, f"part {part} of {folder}", fcntl.LOCK_EX | fcntl.LOCK_NB)
            )
        _locked_here.add(place)
        locks.callback(_locked_here.discard, place)
        yield


@contextmanager
def _taking_turns(folder: Path) -> Iterator[None]:
    with _locked(folder / f"{_LOCK_FILE}-open", folder, fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(path: Path, what: Path | str, operation: int) -> Iterator[None]:
    """Hold a lock file, which goes afterwards; but one that others share stays for them."""
    descriptor = _lock(path, what, operation)
    try:
        yield
    finally:
        if not operation & fcntl.LOCK_SH:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path, what: Path | str, operation: int) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError as error:
            holder = os.read(descriptor, 256).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise FolderInUse(
                f"{what} must be used by one process at a time, found it locked by {holder}: "
                "wait for that process to end, or name another folder"
            ) from error
        # Whoever held the lock before has deleted the file on leaving: then this one is no
        # longer what others find under the name.
        if _is_at(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


# Where and when it ran


def write_run_record(folder: Path, *, seed: int, command: Sequence[str]) -> None:
    """Add this start of a run to its run.json: command, versions, machine, time.

    The file holds ``{"invocations": [...]}``, oldest first, so that a resumed run shows all that
    had a hand in it.

    Args:
        folder: of the run; made if it is not there.
        seed: of the run.
        command: what was typed, argument by argument.

    Raises:
        BadRunFolder: the folder's run.json cannot be read.
    """
    path = folder / "run.json"
    record = _read_json(path, remedy="move it away") if path.exists() else {"invocations": []}
    if not isinstance(record.get("invocations"), list):
        raise BadRunFolder(f"{path} must hold a list of invocations: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(path, {"invocations": [*record["invocations"], _invocation(seed, command)]})


def _invocation(seed: int, command: Sequence[str]) -> dict[str, Any]:
    return {
        "time_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": list(command),
        "seed": seed,
        "distilwhisper": __version__,
        "git": _git(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": cpu_model(),
        "n_cores": n_cores(),
    }


def _git(package: Path) -> dict[str, Any] | None:
    """Return the revision of the repository that the package is part of, if it is of one.

    A package that is only installed below somebody's repository is not tracked by it.
    """
    try:
        _git_output(package, "ls-files", "--error-unmatch", "__init__.py")
        revision = _git_output(package, "rev-parse", "HEAD")
        changed = _git_output(package, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision, "dirty": bool(changed)}


def _git_output(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def _package_versions() -> dict[str, str]:
    """Return the versions of what we depend on, as far as it is installed."""
    try:
        requirements = importlib.metadata.requires("distilwhisper") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = {re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements}
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model() -> str:
    """Return the name of the processor, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def n_cores() -> int:
    """Return the cores that this process may use, which a container can make fewer."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class MetricsLog:
    """Rows of a run by step, in a file of one JSON object per line.

    It survives a kill at any byte: a row goes to the file whole when it is added, and a last line
    that was cut off is dropped when the log is opened.

    Args:
        path: the file, ``metrics.jsonl``; made if it is not there.

    Raises:
        BadRunFolder: a line before the last one is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, sum(n_bytes for _, n_bytes in _whole_rows(path)))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row. Numbers that are not finite become null, for which JSON has a word.

        Args:
            row: has a whole number as its ``step``, which is not below that of the row before.
        """
        if type(row.get("step")) is not int:
            raise ValueError(f"a row of {self.path} must have a whole number as its step: {row}")
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        line = json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode("utf-8"))

    def truncate_after(self, step: int) -> None:
        """Drop the rows of later steps: a run that resumes from this one writes them again."""
        n_kept = 0
        for row, n_bytes in _whole_rows(self.path):
            if row["step"] > step:
                break
            n_kept += n_bytes
        os.truncate(self.path, n_kept)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl, to which a run may be adding one: only whole ones.

    Raises:
        BadRunFolder: a line before the last one is broken.
    """
    return [row for row, _ in _whole_rows(path)]


def _whole_rows(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the whole rows of a log, each with its length in the file."""
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if isinstance(row, dict) and type(row.get("step")) is int:
            yield row, len(line)
        elif number < len(lines):
            raise BadRunFolder(
                f"{path}:{number} must be a JSON object with a step, found {line[:60]!r}: "
                "delete the line, or move the file away"
            )


# Files


def _read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRunFolder(f"{path} must be JSON, found: {error}; {remedy}") from error
    if not isinstance(record, dict):
        raise BadRunFolder(f"{path} must be a JSON object, found {_shown(record)[:60]}; {remedy}")
    return record


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_alone(temporary) as file:
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


def _open_alone(path: Path) -> BinaryIO:
    """Open an empty file that no other writer of the same name has.

    Its name is fixed, so that what a killed writer left is written over; the lock makes two
    living writers take turns. A file that its writer has renamed meanwhile is not ours to touch.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate()
            return file
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
