"""What a student learns from: which labels are kept (table 10), and how many hours (table 11)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from distilwhisper.plotting import Line, draw_lines
from experiments import paper
from experiments.context import Context
from experiments.experiment import Outcome
from experiments.figures import wer_line
from experiments.power_law import NoFit, PowerLaw, fit_power_law
from experiments.scores import ArmSummary, interval_notes
from experiments.students import (
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
from experiments.tables import Column, Table, Value

FILTERED, CHANCE = "filtered", "by chance"
BUDGETS = EQUAL_STEPS, EQUAL_PASSES = "equal steps", "equal passes"


@dataclass(frozen=True)
class Kept:
    """What a limit keeps, and what chance keeps in its place."""

    ids: Mapping[str, list[str]]  # by way: FILTERED, and CHANCE of as many hours
    removed: float  # share of all hours that the filter removes


def run_table10(context: Context) -> Outcome:
    """Error rate by the filter's limit, against chance, at equal steps and at equal passes."""
    corpus = label_corpus(context)
    sweep = _sweep(context, corpus)
    students = train_students(context, corpus, _plans(context, corpus, sweep))
    rows = judge_students(context, students)
    found = context.summarise(
        rows,
        against={name: name.replace(FILTERED, CHANCE) for name in rows if FILTERED in name},
        more={name: student.facts for name, student in students.items()},
    )
    return Outcome(
        _table10(context, sweep, found),
        found,
        rows,
        _figure10(sweep, found),
        problems=corpus.problems,
    )


def _sweep(context: Context, corpus: Corpus) -> dict[float, Kept]:
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


def _plans(context: Context, corpus: Corpus, sweep: Mapping[float, Kept]) -> list[Plan]:
    """Return a student for each limit, way and budget; a limit that keeps nothing has none."""
    loosest, *_ = sweep.values()
    pool = loosest.ids[FILTERED]
    return [
        plan(context, _name(limit, way, budget), ids, training=_schedule(context, share, budget))
        for limit, kept in sweep.items()
        for way, ids in kept.ids.items()
        if ids
        for share in [_share_of_windows(context, corpus, ids, pool)]
        for budget in BUDGETS
    ]


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


def _schedule(context: Context, share: float, budget: str) -> dict[str, Any]:
    """Return the schedule of a budget: the whole one, or as much of it as there are windows."""
    if budget == EQUAL_STEPS:
        return {}
    training = context.settings.training
    steps = max(1, round(training.steps * share))
    return {
        "steps": steps,
        "warmup_steps": min(round(training.warmup_steps * share), steps - 1),
        "checkpoint_every": max(1, round(training.checkpoint_every * share)),
    }


def _table10(
    context: Context, sweep: Mapping[float, Kept], found: Mapping[str, ArmSummary]
) -> Table:
    columns = [Column("removed, % of hours", percent=True)]
    for budget in BUDGETS:
        columns += [
            Column(f"{budget}: WER, %", percent=True),
            Column(f"{budget}, as many hours by chance: WER, %", percent=True),
            Column(f"{budget}: filter less chance, points", 2, percent=True),
        ]
    return Table(
        "Table 10: the filter's limit, with controls",
        of="lambda, %",
        columns=columns,
        rows={
            _percent(limit): (
                kept.removed,
                *(value for budget in BUDGETS for value in _compared(found, limit, budget)),
            )
            for limit, kept in sweep.items()
        },
        paper={
            _percent(limit): (gone, wer, *[None] * 5)
            for limit, (gone, wer) in paper.TABLE_10.items()
        },
        notes=(
            *interval_notes(found),
            NOTE,
            f"Equal steps: {context.settings.training.steps} updates for every student. Equal "
            "passes: as often over what it keeps as at the loosest limit, so fewer updates.",
            f"By chance: drawn from what {_percent(max(sweep))} % keeps. The paper has no such "
            "control; its students all took 10,000 steps.",
        ),
    )


def _compared(found: Mapping[str, ArmSummary], limit: float, budget: str) -> list[Value]:
    ours = found.get(_name(limit, FILTERED, budget))
    if ours is None:  # nothing is kept
        return [None] * 3
    return [ours.shown_wer, found[_name(limit, CHANCE, budget)].shown_wer, ours.difference]


def _figure10(sweep: Mapping[float, Kept], found: Mapping[str, ArmSummary]) -> Figure:
    gone, wers = zip(*paper.TABLE_10.values(), strict=True)
    theirs = Line("paper", gone, wers, kind="paper")
    panels = {
        budget: [_over_removed(way, budget, sweep, found) for way in (FILTERED, CHANCE)]
        for budget in BUDGETS
    }
    panels[EQUAL_STEPS].append(theirs)
    return draw_lines(panels, x="removed, % of hours", y="WER, %")


def _over_removed(
    way: str, budget: str, sweep: Mapping[float, Kept], found: Mapping[str, ArmSummary]
) -> Line:
    arms = {
        100 * kept.removed: found[_name(limit, way, budget)]
        for limit, kept in sweep.items()
        if kept.ids[way]
    }
    return wer_line(way, arms)


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
            *interval_notes(found),
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
                Line("paper", list(paper.TABLE_11), list(paper.TABLE_11.values()), kind="paper"),
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
    return [Line(name, xs, [law.at(x) for x in xs], kind="fitted", beside="students")]
