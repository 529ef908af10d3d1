"""The content of a finished folder, read once for whatever is written about it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distilwhisper.corpus.records import read_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.evaluation.comparison import Cell, Comparison, Difference, Evaluation, compare
from distilwhisper.filtering.retention import Retention
from distilwhisper.languages import language_code
from distilwhisper.run.files import BadRunFolder, read_json
from distilwhisper.run.settings import build_settings, read_toml
from distilwhisper.tables import percent
from distilwhisper.text.wer import ErrorCounts

SETS = {"test": "held-out test", "long": "long recording"}
MODELS = ("teacher", "student")
PAPER_HOURS, PAPER_STEPS = 21_770, 80_000  # arXiv:2311.00430, table 11 and table 15

COMPARISON = "comparison.json"
_OF_A_RUN = (
    "run.json",
    "recipe.toml",
    "verdicts/summary.json",
    "train/metrics.jsonl",
    *(f"eval/{model}-{set_}/summary.json" for set_ in SETS for model in MODELS),
)
_LICENCE = ("licence", "license")  # keys of a manifest's lines
_N_NAMED = 8  # of what is in a folder that is neither


@dataclass(frozen=True)
class ComparisonFacts:
    """Several models on several sets, and the folder that they are compared in."""

    folder: Path
    comparison: Comparison


@dataclass(frozen=True)
class RunFacts:
    """All that is written about a run."""

    folder: Path
    record: Mapping[str, Any]  # run.json
    recipe: Mapping[str, Any]  # recipe.toml
    language: str | None  # code of the one that was asked for
    judged_by_teacher: bool  # whether the references are the teacher's own labels
    sets: Sequence[str]  # what the recipe trains on, by name
    # Of what was trained on, utterances of each source and licence, of those that name none under
    # None; empty where the manifests are gone
    sources: Mapping[str | None, int]
    licences: Mapping[str | None, int]
    filtered: Mapping[str, Any]  # the verdicts' summary.json
    retention: Retention | None  # what the filter kept, seen from all sides; None: not recorded
    losses: Sequence[Mapping[str, Any]]  # the rows of metrics.jsonl about updates
    validations: Sequence[Mapping[str, Any]]  # and about checkpoints
    n_steps: int  # updates of the student's weights
    evaluations: Mapping[tuple[str, str], Evaluation]  # by model and set
    comparison: Comparison  # of the student with its teacher on all sets, which SETS names

    def cell(self, model: str, set_: str) -> Cell:
        """Return what one model did on one set."""
        here = (model, SETS[set_])
        return next(cell for cell in self.comparison.cells if (cell.model, cell.set) == here)

    def scores(self, model: str, set_: str) -> Mapping[str, Mapping[str, Any]]:
        """Return one model's rows of scores.jsonl by id."""
        return {row["id"]: row for row in self.evaluations[model, set_].scores}

    def worst(self, n: int) -> list[str]:
        """Return the utterances of the test in which the student makes the most errors, by id."""
        rows = self.scores("student", "test")
        return sorted(rows, key=lambda id_: -ErrorCounts(**rows[id_]["errors"]).errors)[:n]

    def gap(self, set_: str) -> Difference:
        """Return how much higher the student's error rate is than its teacher's."""
        return next(row for row in self.comparison.differences if row.set == SETS[set_])

    @cached_property
    def ratio(self) -> Mapping[str, float | None]:
        """The student's parameters and its speed on each set, over its teacher's."""
        cells = {set_: (self.cell("student", set_), self.cell("teacher", set_)) for set_ in SETS}
        student, teacher = cells["test"]
        speeds = {set_: over(one.rtfx, other.rtfx) for set_, (one, other) in cells.items()}
        return {"parameters": over(student.n_parameters, teacher.n_parameters), **speeds}

    @property
    def caution(self) -> str | None:
        """How small the run was, where its figures would mislead; None where they would not."""
        data, gap = self.filtered["kept"], self.gap("test").difference
        if data["hours"] > 100 and gap is not None and gap < 0.02:
            return None
        return (
            f"This student was trained for {self.n_steps:,} steps on {data['hours']:.2f} hours of "
            f"speech ({data['count']} utterances). The paper trains {PAPER_STEPS:,} steps on "
            f"{PAPER_HOURS:,} hours to come within 1 % of its teacher: a student of minutes is "
            "worse than its teacher, and these figures show by how much."
        )


def read_facts(folder: Path) -> RunFacts | ComparisonFacts:
    """Read a finished run, or the results of evaluate: a comparison or a single evaluation.

    Raises:
        BadRunFolder: it is none of them, the run is not finished, or another version has written
            other figures.
    """
    path = folder / COMPARISON
    if path.is_file():
        try:
            row = json.loads(path.read_text("utf-8"))
            return ComparisonFacts(folder, build_settings(Comparison, row, where=path))
        except ValueError as error:
            raise BadRunFolder(
                f"{path} must hold what evaluate writes today, found otherwise ({error}): run "
                "evaluate on that folder again, which only counts anew"
            ) from error
    if (folder / "scores.jsonl").is_file():  # of a single model, called as its folder is
        stage = read_json(folder / "stage.json", remedy="run evaluate on that folder again")
        noise = stage["settings"]["noise"]
        one = Evaluation(folder.absolute().name, "the set", noise, folder)
        return ComparisonFacts(folder, compare([one], folder=folder))
    missing = [name for name in _OF_A_RUN if not (folder / name).is_file()]
    if missing:
        raise BadRunFolder(_not_finished(folder, missing))
    return read_run(folder)


def read_run(folder: Path) -> RunFacts:
    """Read what is written about a run whose student has been evaluated."""
    recipe = read_toml(folder / "recipe.toml")
    data = recipe.get("data", {})
    language, named = data.get("language"), data.get("train", [])
    named = [named] if isinstance(named, str) else named
    manifests = [Path(path) for path in named] or [folder / "data" / "train.jsonl"]
    are_there = all(path.exists() for path in manifests)
    trained_on = [u for path in manifests if are_there for u in read_manifest(path).utterances]
    extras = [utterance.extra or {} for utterance in trained_on]
    filtered = json.loads((folder / "verdicts" / "summary.json").read_text("utf-8"))
    kept = filtered.get("retention")
    metrics = list(read_jsonl(folder / "train" / "metrics.jsonl"))
    noise = recipe.get("evaluate", {}).get("noise")
    evaluations = {
        (model, set_): Evaluation(model, name, noise, folder / "eval" / f"{model}-{set_}")
        for set_, name in SETS.items()
        for model in MODELS
    }
    return RunFacts(
        folder=folder,
        record=json.loads((folder / "run.json").read_text("utf-8")),
        recipe=recipe,
        language=None if language is None else language_code(language),
        judged_by_teacher=data.get("references") == "teacher",
        sets=[Path(path).stem for path in named or [data.get("source", folder.name)]],
        sources=Counter(utterance.source for utterance in trained_on),
        licences=Counter(next((str(e[k]) for k in _LICENCE if e.get(k)), None) for e in extras),
        filtered=filtered,
        retention=kept and build_settings(Retention, kept, where="what a filter kept"),
        losses=[row for row in metrics if "loss" in row],
        validations=[row for row in metrics if "validation_wer" in row],
        n_steps=int(metrics[-1]["step"]),
        evaluations=evaluations,
        comparison=compare(list(evaluations.values()), folder=folder, baseline="teacher"),
    )


def error_rate(wer: float | None) -> str:
    """Return an error rate as people read it; one above 100 % with what it means."""
    if wer is None or wer <= 1:
        return percent(wer)
    return f"over 100 % ({wer:.1f} errors for every word: it loops, or makes words up)"


def over(one: float, other: float) -> float | None:
    """Return a ratio; None where there is nothing to divide by."""
    return one / other if other else None


def _not_finished(folder: Path, missing: Sequence[str]) -> str:
    if not folder.is_dir():
        return f"{folder} must be the folder of a finished run or of a comparison, found none"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    content = ", ".join(names[:_N_NAMED]) + more if names else "nothing"
    if "recipe.toml" in missing:
        return (
            f"{folder} must be the folder of a finished run (with {', '.join(_OF_A_RUN[:3])} ...) "
            f"or of a comparison (with {COMPARISON}, which evaluate writes for several models, "
            f"sets or noises), found {content}"
        )
    return (
        f"the run in {folder} must be finished, found no {', '.join(missing)} but {content}: "
        f"distilwhisper run {folder / 'recipe.toml'} --out {folder} goes on where it stopped"
    )
