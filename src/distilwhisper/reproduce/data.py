"""What a student learns from: which labels are kept (table 10), and how many hours (table 11)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distilwhisper.reproduce import paper
from distilwhisper.reproduce.context import Context
from distilwhisper.reproduce.experiment import Outcome
from distilwhisper.reproduce.figures import Line, draw_lines, wer_line
from distilwhisper.reproduce.power_law import NoFit, PowerLaw, fit_power_law
from distilwhisper.reproduce.quality import INTERVALS
from distilwhisper.reproduce.scores import ArmSummary
from distilwhisper.reproduce.students import (
    NOTE,
    Corpus,
    Plan,
    judge_students,
    kept_ids,
    label_corpus,
    nested,
    plan,
    train_students,
)
from distilwhisper.reproduce.tables import Column, Table, Value

BUDGETS = EQUAL_STEPS, EQUAL_PASSES = "equal steps", "equal passes"


@dataclass(frozen=True)
class Kept:
    """What a limit keeps, and what chance keeps in its place: as many hours."""

    filtered: list[str]
    random: list[str]


def run_table10(context: Context) -> Outcome:
    """Error rate by the filter's limit, against chance, at equal steps and at equal passes."""
    settings = context.settings
    corpus = label_corpus(context)
    limits = sorted(set(settings.max_wers), reverse=True)
    filtered = {
        limit: kept_ids(context, corpus, replace(settings.filter, max_wer=limit))
        for limit in limits
    }
    pool = filtered[limits[0]]
    kept = {
        limit: Kept(ids, nested(corpus, pool, corpus.hours(ids), seed=settings.seed))
        for limit, ids in filtered.items()
        if ids
    }
    plans = [
        plan(context, _name(limit, way, budget), ids, training=_training(context, share, budget))
        for limit, found in kept.items()
        for way, ids in (("filtered", found.filtered), ("random", found.random))
        for share in [_share_of_windows(context, corpus, ids, pool)]
        for budget in BUDGETS
    ]
    students = train_students(context, corpus, plans)
    rows = judge_students(context, students)
    found = context.summarise(
        rows,
        against={
            _name(limit, "filtered", budget): _name(limit, "random", budget)
            for limit in kept
            for budget in BUDGETS
        },
        more={name: student.facts for name, student in students.items()},
    )
    all_hours = corpus.hours(corpus.labels)
    removed = {limit: 1 - corpus.hours(ids) / all_hours for limit, ids in filtered.items()}
    table = Table(
        "Table 10: the filter's limit, with controls",
        of="lambda, %",
        columns=(
            Column("removed, % of hours", percent=True),
            *(
                column
                for budget in BUDGETS
                for column in (
                    Column(f"{budget}: WER, %", percent=True),
                    Column(f"{budget}, as many hours by chance: WER, %", percent=True),
                    Column(f"{budget}: filter less chance, points", 2, percent=True),
                )
            ),
        ),
        rows={
            _percent(limit): (
                removed[limit],
                *(value for budget in BUDGETS for value in _cells(found, limit, budget)),
            )
            for limit in limits
        },
        paper={
            _percent(limit): (gone, wer, *[None] * 5)
            for limit, (gone, wer) in paper.TABLE_10.items()
        },
        notes=(
            INTERVALS,
            NOTE,
            f"Equal steps: {settings.training.steps} updates for every student. Equal passes: as "
            "often over what it keeps as at the loosest limit, so fewer updates.",
            f"By chance: drawn from what {_percent(limits[0])} % keeps. The paper has no such "
            "control; its students all took 10,000 steps.",
        ),
    )
    figure = draw_lines(
        {
            budget: [
                *(
                    _over_removed(name, way, budget, removed, found)
                    for way, name in (("filtered", "by the filter"), ("random", "by chance"))
                ),
                *_papers(budget == EQUAL_STEPS),
            ]
            for budget in BUDGETS
        },
        x="removed, % of hours",
        y="WER, %",
    )
    return Outcome(table, found, rows, figure, problems=corpus.problems)


def _name(limit: float, way: str, budget: str) -> str:
    return f"{_percent(limit)} %, {way}, {budget}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g}"


def _share_of_windows(
    context: Context, corpus: Corpus, ids: Sequence[str], pool: Sequence[str]
) -> float:
    """Return what share of the pool's windows some utterances fill; packed, hours are windows."""
    if context.settings.training.pack_s:
        return corpus.hours(ids) / corpus.hours(pool)
    return len(ids) / len(pool)


def _training(context: Context, share: float, budget: str) -> dict[str, Any]:
    """Return the schedule of a budget: the whole one, or as much of it as there are windows."""
    if budget == EQUAL_STEPS:
        return {}
    training = context.settings.training
    return {
        "steps": max(1, round(training.steps * share)),
        "warmup_steps": round(training.warmup_steps * share),
        "checkpoint_every": max(1, round(training.checkpoint_every * share)),
    }


def _cells(found: Mapping[str, ArmSummary], limit: float, budget: str) -> list[Value]:
    ours = found.get(_name(limit, "filtered", budget))
    if ours is None:  # nothing is kept
        return [None] * 3
    return [ours.shown_wer, found[_name(limit, "random", budget)].shown_wer, ours.difference]


def _over_removed(
    name: str,
    way: str,
    budget: str,
    removed: Mapping[float, float],
    found: Mapping[str, ArmSummary],
) -> Line:
    arms = {
        limit: found[_name(limit, way, budget)]
        for limit in removed
        if _name(limit, way, budget) in found
    }
    return replace(wer_line(name, arms), xs=[100 * removed[limit] for limit in arms])


def _papers(is_there: bool) -> list[Line]:
    gone, wers = zip(*paper.TABLE_10.values(), strict=True)
    return [Line("paper", gone, wers, is_paper=True)] if is_there else []


# Table 11


def run_table11(context: Context) -> Outcome:
    """Error rate by hours of labels, with a curve fitted, all students taking equal steps."""
    settings = context.settings
    corpus = label_corpus(context)
    ids = kept_ids(context, corpus, settings.filter)
    total = corpus.hours(ids)
    subsets = [
        nested(corpus, ids, share * total, seed=settings.seed)
        for share in sorted(set(settings.data_shares))
    ]
    plans: list[Plan] = [
        plan(context, f"{corpus.hours(subset):.4g} h", subset) for subset in subsets
    ]
    students = train_students(context, corpus, plans)
    rows = judge_students(context, students)
    found = context.summarise(
        rows,
        against=dict.fromkeys(rows, plans[-1].name),
        more={name: student.facts for name, student in students.items()},
    )
    by_hours = {students[name].hours: arm for name, arm in found.items()}
    ours = _fit(list(by_hours), [100 * arm.mean() for arm in by_hours.values()])
    theirs = _fit(list(paper.TABLE_11), list(paper.TABLE_11.values()))
    table = Table(
        "Table 11: hours of labels",
        of="hours",
        columns=(
            Column("WER, %", percent=True),
            Column("of the curve, %"),
            Column(f"less {plans[-1].name}'s, points", 2, percent=True),
            Column("passes", 2),
        ),
        rows={
            f"{hours:,.4g}": (
                arm.shown_wer,
                ours.at(hours) if isinstance(ours, PowerLaw) else None,
                arm.difference,
                students[name].passes,
            )
            for (name, arm), hours in zip(found.items(), by_hours, strict=True)
        },
        paper={
            f"{hours:,.5g}": (
                wer,
                theirs.at(hours) if isinstance(theirs, PowerLaw) else None,
                None,
                None,
            )
            for hours, wer in paper.TABLE_11.items()
        },
        notes=(
            INTERVALS,
            NOTE,
            f"All students take {settings.training.steps} updates; every set of utterances holds "
            "the smaller ones.",
            f"Curve of our points: {ours}.",
            f"Curve of the paper's points, fitted here: {theirs}.",
        ),
    )
    figure = draw_lines(
        {
            "error rate against hours": [
                wer_line("students", by_hours),
                *_curve("curve", ours, list(by_hours)),
                Line("paper", list(paper.TABLE_11), list(paper.TABLE_11.values()), is_paper=True),
            ]
        },
        x="hours of labels",
        y="WER, %",
        x_log=True,
    )
    return Outcome(table, found, rows, figure, {"curve": str(ours)}, problems=corpus.problems)


def _fit(hours: Sequence[float], wers: Sequence[float]) -> PowerLaw | str:
    """Return a law, or why there is none."""
    try:
        return fit_power_law(hours, wers)
    except NoFit as reason:
        return f"none can be fitted, {reason}"


def _curve(name: str, law: PowerLaw | str, hours: Sequence[float]) -> list[Line]:
    """Draw a law over the hours that it was fitted to and as far again on a logarithmic axis."""
    if isinstance(law, str):
        return []
    xs = np.geomspace(min(hours), max(hours) * 4, 50).tolist()
    return [Line(name, xs, [law.at(x) for x in xs], is_smooth=True)]
