"""Files of JSON in the folders of runs: records, and rows by step."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distilwhisper.files import write_atomic


class BadRunFolder(ValueError):
    """A folder is not one of ours, or a record in it is broken."""


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read a JSON object; of any other file a BadRunFolder is raised, which names the remedy."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRunFolder(f"{path} must be JSON, found: {error}; {remedy}") from error
    if not isinstance(record, dict):
        content = json.dumps(record, ensure_ascii=False)[:60]
        raise BadRunFolder(f"{path} must be a JSON object, found {content}; {remedy}")
    return record


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record for people to read, as :func:`write_atomic` does."""
    write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


class MetricsLog:
    """Rows of a run by step, in a file of one JSON object per line, made if it is not there.

    It survives a kill at any byte: a row goes to the file whole when it is added, and a last line
    that was cut off is dropped when the log is opened.

    Raises:
        BadRunFolder: a line before the last one is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, sum(n_bytes for _, n_bytes in _whole_rows(path)))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, whose ``step`` is a whole number not below that of the row before.

        Numbers that are not finite become null, for which JSON has a word.
        """
        if type(row.get("step")) is not int:
            raise ValueError(f"a row of {self.path} must have a whole number as its step: {row}")
        odd = {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
        line = json.dumps({**row, **odd}, ensure_ascii=False, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def truncate_after(self, step: int, *, without: str | None = None) -> None:
        """Drop the rows of later steps: a run that resumes from this one writes them again.

        Rows of this step that have the key ``without`` are dropped too.
        """
        n_kept = 0
        for row, n_bytes in _whole_rows(self.path):
            if row["step"] > step or (row["step"] == step and without in row):
                break
            n_kept += n_bytes
        os.truncate(self.path, n_kept)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole rows of a :class:`MetricsLog`, to which a run may be adding one."""
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
