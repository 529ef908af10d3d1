"""All that a run's folder tells, read once for whatever is written about it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilwhisper.corpus.store import read_jsonl
from distilwhisper.run import read_toml
from distilwhisper.text.wer import ErrorCounts

SETS = {"test": "held-out test", "long": "long recording"}
MODELS = ("teacher", "student")
PAPER_HOURS, PAPER_STEPS = 21_770, 80_000  # arXiv:2311.00430, table 11 and table 15


@dataclass(frozen=True)
class Result:
    """A model's scores on one set, read back from its evaluation folder."""

    model: str
    set: str
    summary: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Any]]  # by utterance id

    @property
    def counts(self) -> ErrorCounts:
        """Errors summed over the set."""
        return ErrorCounts(**self.summary["errors"])


@dataclass(frozen=True)
class RunFacts:
    """All that is written about a run, read from its folder."""

    name: str
    teacher: str
    record: Mapping[str, Any]
    recipe: Mapping[str, Any]
    recipe_text: str
    filtered: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    results: Sequence[Result]
    long_transcripts: Mapping[str, str]

    def result(self, model: str, set_: str) -> Result:
        """Return one model's scores on one set."""
        return next(r for r in self.results if (r.model, r.set) == (model, set_))

    @property
    def n_steps(self) -> int:
        """Updates of the student's weights."""
        return int(self.metrics[-1]["step"])

    @property
    def wer_gap(self) -> float:
        """Word errors of the student beyond its teacher's on the held-out set, a fraction."""
        return self.result("student", "test").counts.wer - self.result("teacher", "test").counts.wer

    @property
    def caution(self) -> str | None:
        """How small the run was, where its figures would mislead; None where they would not."""
        kept = self.filtered["kept"]
        if kept["hours"] > 100 and self.wer_gap < 0.02:
            return None
        return (
            f"This student was trained for {self.n_steps:,} steps on {kept['hours']:.2f} hours of "
            f"speech ({kept['count']} utterances). The paper trains {PAPER_STEPS:,} steps on "
            f"{PAPER_HOURS:,} hours to come within 1 % of its teacher: a student of minutes is "
            "worse than its teacher, and these figures say by how much."
        )


def read_facts(run: Path, *, name: str, teacher: str) -> RunFacts:
    """Read what is written about a run from its folder.

    Args:
        run: holds verdicts, metrics and evaluations.
        name: of the run.
        teacher: as the recipe names it.
    """
    return RunFacts(
        name=name,
        teacher=teacher,
        record=json.loads((run / "run.json").read_text()),
        recipe=read_toml(run / "recipe.toml"),
        recipe_text=(run / "recipe.toml").read_text(),
        filtered=json.loads((run / "verdicts" / "summary.json").read_text()),
        metrics=list(read_jsonl(run / "train" / "metrics.jsonl")),
        results=[_result(run, model, set_) for set_ in SETS for model in MODELS],
        long_transcripts={
            model: (run / "transcripts" / f"{model}.txt").read_text() for model in MODELS
        },
    )


def percent(fraction: float) -> str:
    """Return a fraction as people read it."""
    return f"{100 * fraction:.1f} %"


def _result(run: Path, model: str, set_: str) -> Result:
    folder = run / "eval" / f"{model}-{set_}"
    return Result(
        model=model,
        set=set_,
        summary=json.loads((folder / "summary.json").read_text()),
        scores={row["id"]: row for row in read_jsonl(folder / "scores.jsonl")},
    )
