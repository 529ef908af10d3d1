"""Evaluations that experiments share: one folder for each model, set, decoding and noise."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distilwhisper.corpus.records import read_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.evaluate import EvaluateSettings, evaluate_model
from distilwhisper.model.hardware import Hardware
from distilwhisper.reproduce.scores import Row, file_of
from distilwhisper.text.wer import ErrorCounts


@dataclass(frozen=True)
class EvalSet:
    """Utterances that models are judged by."""

    name: str
    manifest: Path


@dataclass(frozen=True)
class Arm:
    """One way to hear a set."""

    name: str  # in tables
    model: str  # folder or hub id
    decoding: DecodingSettings
    hardware: Hardware
    draft: str | None = None  # model that drafts
    noise: str | None = None  # what is done to the sound first, such as white:10

    def of_set(self, on: EvalSet) -> dict[str, Any]:
        """Return all that shapes what this arm hears of a set, as JSON can hold it."""
        return {**asdict(replace(self, name="")), "manifest": str(on.manifest.resolve())}


@dataclass(frozen=True)
class Cell:
    """What an arm heard of a set."""

    summary: dict[str, Any]  # of evaluate
    rows: list[Row]


def evaluate_cell(arm: Arm, on: EvalSet, folder: Path, *, force: bool) -> Cell:
    """Evaluate an arm on a set, or read what an experiment before this one has found.

    Args:
        arm: who hears, and how.
        on: the set.
        folder: of all cells; each has a folder below it, named after model, set and a digest of
            the rest.
        force: begin anew where a model or a manifest has changed behind its name.

    Raises:
        StageChanged: a model or a manifest has changed behind its name.
    """
    name = f"{Path(arm.model).name}-{Path(on.name).name}-{digest(arm.of_set(on))}"
    evaluate_model(
        arm.model,
        on.manifest,
        folder / name,
        EvaluateSettings(decoding=arm.decoding, noise=arm.noise),
        hardware=arm.hardware,
        draft=arm.draft,
        force=force,
    )
    summary = json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))
    files = {u.id: file_of(u) for u in read_manifest(on.manifest).utterances}
    rows = [
        Row(
            arm=arm.name,
            set=on.name,
            id=row["id"],
            file=files[row["id"]],
            reference=row["reference"],
            hypothesis=row["hypothesis"],
            errors=ErrorCounts(**row["errors"]),
            problem=summary["failed"].get(row["id"]),
        )
        for row in read_jsonl(folder / name / "scores.jsonl")
    ]
    return Cell(summary, rows)


def digest(key: Any) -> str:
    """Return twelve characters that stand for what JSON can hold, paths as text."""
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
