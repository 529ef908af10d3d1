"""Records of JSON in the folders of runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilwhisper.files import write_atomic


class BadRunFolder(ValueError):
    """A folder is not one of ours, or a record in it is broken."""


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
        content = json.dumps(record, ensure_ascii=False)[:60]
        raise BadRunFolder(f"{path} must be a JSON object, found {content}; {remedy}")
    return record


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record for people to read, as :func:`write_atomic` does."""
    write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
