"""What a student learns from: which labels are kept (table 10), and how many hours (table 11)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from distilwhisper.checks import NOT_EMPTY, Rule, ruled
from distilwhisper.plotting import Line, draw_panels
from experiments.context import Context
from experiments.experiment import TRAINS, Outcome, experiment
from experiments.figures import FITTED, printed_line, wer_line
from experiments.power_law import NoFit, PowerLaw, fit_power_law
from experiments.results import interval_notes
from experiments.settings import StudentsSettings
from experiments.students import (
    NOTE,
    Corpus,
    Plan,
    judge_students,
    kept_ids,
    label_corpus,
    nested,
    plan,
)
from experiments.tables import PAPER, WER, Column, Table, less

FILTERED, CHANCE = "filtered", "by chance"
BUDGETS = EQUAL_STEPS, EQUAL_PASSES = "equal steps", "equal passes"
SHARES: Rule = (
    "name at least one, each above 0 and at most 1",
    lambda values: bool(values) and all(0 < value <= 1 for value in values),
)


@dataclass(frozen=True)
class LimitSettings(StudentsSettings):
    """Of table 10."""

    max_wers: tuple[float, ...] = ruled((1.0, 0.8, 0.4, 0.2, 0.15, 0.1, 0.05), NOT_EMPTY)
    """Limits on the label's error rate, lambda. The loosest is what the others are compared
    with."""


@dataclass(frozen=True)
class Kept:
    """What a limit keeps, and what chance keeps in its place."""

    ids: Mapping[str, list[str]]  # by way: FILTERED, and CHANCE of as many hours
    removed: float  # share of all hours that the filter removes


class Lesson(NamedTuple):
    """What tells the students of table 10 apart."""

    limit: float
    way: str
    budget: str

    def __str__(self) -> str:
        return f"{_percent(self.limit)} %, {self.way}, {self.budget}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g}"


@experiment("table10", needs=TRAINS, settings=LimitSettings)
def table10(context: Context[LimitSettings]) -> Outcome:
    """The filter's limit against chance, at equal steps and at equal passes: error rate."""
    corpus = label_corpus(context)
    sweep = _sweep(context, corpus)
    _, results = judge_students(
        context,
        corpus,
        _plans(context, corpus, sweep),
        against=lambda lesson: lesson._replace(way=CHANCE),
    )
    columns = [Column("removed, % of hours", lambda row: row["removed"], percent=True, paper=0)]
    for budget in BUDGETS:
        ours, chance = (FILTERED, budget), (CHANCE, budget)
        paper = 1 if budget == EQUAL_STEPS else None
        columns += [
            WER.at(ours, f"{budget}: WER, %", paper=paper),
            WER.at(chance, f"{budget}, as many hours by chance: WER, %"),
            less("chance's").at(ours, f"{budget}: filter less chance, points"),
        ]
    rows: dict[float, dict[Any, Any]] = {
        limit: {"removed": k.removed} for limit, k in sweep.items()
    }
    for (limit, way, budget), result in results.items():
        rows[limit][way, budget] = result
    table = Table(
        "Table 10: the filter's limit, with controls",
        of="lambda, %",
        columns=columns,
        rows={_percent(limit): row for limit, row in rows.items()},
        paper=PAPER["table10"],
        notes=(
            *interval_notes(results.values()),
            NOTE,
            f"Equal steps: {context.settings.training.steps} updates for every student. Equal "
            "passes: as often over what it keeps as at the loosest limit, so fewer updates.",
            f"By chance: drawn from what {_percent(max(sweep))} % keeps. The paper has no such "
            "control; its students all took 10,000 steps.",
        ),
    )
    panels = {
        budget: [
            wer_line(
                way,
                {
                    100 * kept.removed: results[Lesson(limit, way, budget)]
                    for limit, kept in sweep.items()
                    if kept.ids[way]
                },
            )
            for way in (FILTERED, CHANCE)
        ]
        for budget in BUDGETS
    }
    gone, wers = zip(*PAPER["table10"].values(), strict=True)
    panels[EQUAL_STEPS].append(printed_line("paper", gone, wers))
    figure = draw_panels(panels, x="removed, % of hours", y="WER, %")
    return Outcome(table, results, figure, problems=corpus.problems)


def _sweep(context: Context[LimitSettings], corpus: Corpus) -> dict[float, Kept]:
    """Return what every limit keeps, the loosest first; chance draws from what that one keeps.

    Raises:
        ValueError: the loosest limit keeps nothing.
    """
    settings = context.settings
    limits = sorted(set(settings.max_wers), reverse=True)
    filtered = {
        limit: kept_ids(context, corpus, replace(settings.filter, max_wer=limit))
        for limit in limits
    }
    pool, all_hours = filtered[limits[0]], corpus.hours(corpus.labels)
    if not pool:
        raise ValueError(
            f"the loosest of max_wers must keep labels to compare with, found that {limits[0]:g} "
            f"keeps none of {len(corpus.labels)}: see why in {context.folder / 'verdicts'}"
        )
    return {
        limit: Kept(
            {
                FILTERED: ids,
                CHANCE: nested(corpus, pool, corpus.hours(ids), seed=settings.seed) if ids else [],
            },
            removed=1 - corpus.hours(ids) / all_hours,
        )
        for limit, ids in filtered.items()
    }


def _plans(
    context: Context[LimitSettings], corpus: Corpus, sweep: Mapping[float, Kept]
) -> dict[Lesson, Plan]:
    """Return a student for each limit, way and budget; a limit that keeps nothing has none."""
    loosest, *_ = sweep.values()
    pool = loosest.ids[FILTERED]
    plans = {}
    for limit, kept in sweep.items():
        for way, ids in kept.ids.items():
            share = _share_of_windows(context, corpus, ids, pool)
            for budget in BUDGETS if ids else ():
                lesson = Lesson(limit, way, budget)
                training = _schedule(context, share) if budget == EQUAL_PASSES else {}
                plans[lesson] = plan(context, str(lesson), ids, training=training)
    return plans


def _share_of_windows(
    context: Context[LimitSettings], corpus: Corpus, ids: Sequence[str], pool: Sequence[str]
) -> float:
    """Return what share of the pool's windows some utterances fill; packed, hours are windows."""
    if context.settings.training.pack_s:
        return corpus.hours(ids) / corpus.hours(pool)
    return len(ids) / len(pool)


def _schedule(context: Context[LimitSettings], share: float) -> dict[str, Any]:
    """Return as much of the schedule as there are windows."""
    training = context.settings.training
    steps = max(1, round(training.steps * share))
    return {
        "steps": steps,
        "warmup_steps": min(round(training.warmup_steps * share), steps - 1),
        "checkpoint_every": max(1, round(training.checkpoint_every * share)),
    }


@dataclass(frozen=True)
class HoursSettings(StudentsSettings):
    """Of table 11."""

    data_shares: tuple[float, ...] = ruled((0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0), SHARES)
    """Shares of the hours that are kept; each holds the smaller ones."""


@experiment("table11", needs=TRAINS, settings=HoursSettings)
def table11(context: Context[HoursSettings]) -> Outcome:
    """Error rate by hours of labels, with a curve fitted."""
    settings = context.settings
    corpus = label_corpus(context)
    ids = kept_ids(context, corpus, settings.filter)
    total = corpus.hours(ids)
    plans: dict[float, Plan] = {}
    for share in sorted(set(settings.data_shares)):
        subset = nested(corpus, ids, share * total, seed=settings.seed)
        hours = corpus.hours(subset)
        plans[hours] = plan(context, f"{hours:.4g} h", subset)
    most = max(plans)
    students, results = judge_students(context, corpus, plans, against=lambda hours: most)
    ours = _fit(results, [100 * result.mean() for result in results.values()])
    printed = {float(hours): wer for hours, (wer,) in PAPER["table11"].items()}
    theirs = _fit(printed, list(printed.values()))
    table = Table(
        "Table 11: hours of labels",
        of="hours",
        columns=(
            WER.at("result", WER.name, paper=0),
            Column("of the curve, %", lambda row: _at(ours, row["hours"]), paper=1),
            less(f"{plans[most].name}'s").at("result", f"less {plans[most].name}'s, points"),
            Column("passes", lambda row: students[row["hours"]].passes, 2),
        ),
        rows={
            f"{hours:,.4g}": {"hours": hours, "result": result} for hours, result in results.items()
        },
        paper={f"{hours:,.5g}": (wer, _at(theirs, hours)) for hours, wer in printed.items()},
        notes=(
            *interval_notes(results.values()),
            NOTE,
            f"All students take {settings.training.steps} updates; every set of utterances holds "
            "the smaller ones.",
            f"Curve of our points: {ours}.",
            f"Curve of the paper's points, fitted here: {theirs}.",
        ),
    )
    lines = [
        wer_line("students", results),
        *_curve("curve", ours, list(results)),
        printed_line("paper", list(printed), list(printed.values())),
    ]
    figure = draw_panels(
        {"error rate against hours": lines}, x="hours of labels", y="WER, %", x_log=True
    )
    return Outcome(table, results, figure, {"curve": str(ours)}, problems=corpus.problems)


def _fit(hours: Iterable[float], wers: Sequence[float]) -> PowerLaw | str:
    """Return a law, or why there is none."""
    try:
        return fit_power_law(list(hours), wers)
    except NoFit as reason:
        return f"none can be fitted, {reason}"


def _at(law: PowerLaw | str, hours: float) -> float | None:
    return law.at(hours) if isinstance(law, PowerLaw) else None


def _curve(name: str, law: PowerLaw | str, hours: Sequence[float]) -> list[Line]:
    """Draw a law over the hours that it was fitted to and as far again on a logarithmic axis."""
    if isinstance(law, str):
        return []
    xs = np.geomspace(min(hours), max(hours) * 4, 50).tolist()
    return [Line(name, xs, [law.at(x) for x in xs], beside="students", style=FITTED)]
