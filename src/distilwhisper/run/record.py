"""Where, when and by what command a run was started."""

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from distilwhisper import __version__
from distilwhisper.run.files import BadRunFolder, read_json, write_json


def write_run_record(folder: Path, *, seed: int, command: Sequence[str]) -> None:
    """Add this start of a run to its run.json: command, versions, machine, time.

    The file holds ``{"invocations": [...]}``, oldest first: all that had a hand in a resumed run.

    Raises:
        BadRunFolder: the folder's run.json cannot be read.
    """
    path = folder / "run.json"
    record = read_json(path, remedy="move it away") if path.exists() else {"invocations": []}
    if not isinstance(record.get("invocations"), list):
        raise BadRunFolder(f"{path} must hold a list of invocations: move it away")
    start = {
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
    write_json(path, {"invocations": [*record["invocations"], start]})


def _git(package: Path) -> dict[str, Any] | None:
    """Return the revision of the repository that tracks the package, if one does.

    A package that is only installed below somebody's repository is not tracked by it.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def _package_versions() -> dict[str, str]:
    """Return the versions of what we depend on, as far as it is installed."""
    versions = dict[str, str]()
    with suppress(PackageNotFoundError):
        needed = {re.split(r"[^\w.-]", one)[0] for one in requires("distilwhisper") or ()}
        for name in sorted(needed):
            with suppress(PackageNotFoundError):
                versions[name] = version(name)
    return versions


def cpu_model() -> str:
    """Return the name of the processor, as far as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def n_cores() -> int:
    """Return the cores that this process may use, which a container can make fewer."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
