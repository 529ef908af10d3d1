"""What a page says of several runs side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distilwhisper.plotting import Line
from distilwhisper.report.facts import SETS, RunFacts, percent
from distilwhisper.report.html import NOTHING, Html, folded, join, note, table, tag
from distilwhisper.report.results import in_words, points
from distilwhisper.report.run_page import (
    capped,
    losses,
    plot_by_step,
    ratio_text,
    run_sections,
    validations,
)


def runs_sections(runs: Mapping[str, RunFacts], folder: Path) -> list[Html]:
    """Return what a page says of several runs: side by side, then each by itself.

    Args:
        runs: by name.
        folder: that the page is in.
    """
    return [
        tag("h1", f"{len(runs)} runs"),
        tag("p", _headline(runs), class_="headline"),
        tag("h2", "Side by side"),
        _runs_table(runs),
        note(_same_sets(runs)),
        *_curves(runs),
        *(
            folded(name, *run_sections(facts, folder), prints=False, class_="part")
            for name, facts in runs.items()
        ),
    ]


def _headline(runs: Mapping[str, RunFacts]) -> str:
    gaps = {name: facts.gap("test").difference for name, facts in runs.items()}
    known = {name: gap for name, gap in gaps.items() if gap is not None}
    if not known:
        return "No run has references for its held-out test."
    best = min(known, key=known.__getitem__)
    facts = runs[best]
    return (
        f"Of {len(runs)} students {best} is nearest to its teacher on the held-out test: "
        f"{percent(facts.cell('student', 'test').wer)} {facts.cell('student', 'test').unit} "
        f"errors, the teacher {percent(facts.cell('teacher', 'test').wer)}, "
        f"{points(facts.gap('test'))} ({in_words(facts.comparison, facts.gap('test'))})."
    )


def _runs_table(runs: Mapping[str, RunFacts]) -> Html:
    rows = [
        [
            _over(name, facts.teacher),
            *(_rate_and_gap(facts, set_) for set_ in SETS),
            *(ratio_text(facts.ratio[set_]) for set_ in SETS),
            _over(
                f"{facts.cell('student', 'test').n_parameters / 1e6:.1f}",
                ratio_text(facts.ratio["parameters"], percent=True),
            ),
            f"{facts.filtered['kept']['hours']:.2f}",
            f"{facts.n_steps:,}",
        ]
        for name, facts in runs.items()
    ]
    head = [
        "run, teacher", *SETS.values(), *(f"speed, {name}" for name in SETS.values()),
        "parameters / M", "hours", "steps",
    ]  # fmt: skip
    return table(head, rows)


def _rate_and_gap(facts: RunFacts, set_: str) -> Html:
    gap = facts.gap(set_).difference
    rate = tag("b", percent(facts.cell("student", set_).wer))
    return _over(rate, NOTHING if gap is None else f"{100 * gap:+.1f} points")


def _over(large: str, small: str) -> Html:
    return join([large, tag("small", small)])


def _same_sets(runs: Mapping[str, RunFacts]) -> str:
    """Say whether error rates may be compared from run to run."""
    together: dict[frozenset[tuple[str, str]], list[str]] = {}
    for name, facts in runs.items():
        rows = facts.scores("student", "test").values()
        judged_by = frozenset((row["id"], row["reference"]) for row in rows)
        together.setdefault(judged_by, []).append(name)
    judged = (
        f"All were judged on the same {len(next(iter(together)))} held-out utterances."
        if len(together) == 1
        else "Not all were judged on the same held-out utterances (the same had: "
        f"{'; '.join(', '.join(names) for names in together.values())}): compare the gaps, not "
        "the rates."
    )
    return (
        f"{judged} Below the student's error rate: how far it is from its teacher's. Speed: its "
        "RTFx over its teacher's, in the same run. Below its parameters: their share of the "
        "teacher's. Hours: kept for training."
    )


def _curves(runs: Mapping[str, RunFacts]) -> Iterator[Html]:
    lines = [_curve(name, losses(facts), "loss") for name, facts in runs.items()]
    plots = [plot_by_step(lines, title="Training loss", y="nats per token")]
    judged = {name: rows for name, facts in runs.items() if (rows := validations(facts))}
    if judged:
        lines = [_curve(name, rows, "validation_wer", capped) for name, rows in judged.items()]
        y = "WER, at most 100 %"
        plots.append(plot_by_step(lines, title="Validation WER", y=y, names=runs))
    yield tag("div", *plots, class_="plots")


def _curve(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    shown: Callable[[float], float] = float,
) -> Line:
    return Line(name, [row["step"] for row in rows], [shown(row[key]) for row in rows])
