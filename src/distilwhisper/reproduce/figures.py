"""Figures that are read at a glance: the same bytes from the same numbers."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from distilwhisper.corpus.store import write_atomic
from distilwhisper.reproduce.scores import ArmSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2563a8", "#c2571a", "#2e7d4f", "#7a4fa3", "#8a6d1f", "#56616d")
PAPER_COLOUR = "#8d98a3"
PNG_DPI = 150


@dataclass(frozen=True)
class Line:
    """One curve; where there are intervals, with a band."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] | None = None
    highs: Sequence[float] | None = None
    is_paper: bool = False  # drawn pale and dashed, grey where it is beside none of ours
    beside: str | None = None  # the line whose colour it shares
    is_smooth: bool = False  # a fitted curve: no marks, as it was measured nowhere


def draw_lines(
    panels: Mapping[str, Sequence[Line]],
    *,
    x: str,
    y: str,
    x_reversed: bool = False,
    x_log: bool = False,
    y_most: float | None = None,
) -> Figure:
    """Draw curves, in panels side by side that share their y axis.

    Args:
        panels: titles to curves; a name has one colour in all of them.
        x: what the x axis is of, with its unit.
        y: of the y axis.
        x_reversed: the largest x is on the left.
        x_log: equal ratios of x are equally far apart.
        y_most: where the y axis ends; left out: where the curves do.
    """
    names = [line.name for lines in panels.values() for line in lines if not line.is_paper]
    colours = dict(zip(dict.fromkeys(names), COLOURS * (1 + len(names)), strict=False))
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(2.4 + 3.6 * len(panels), 3.6), layout="constrained")
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
            for line in lines:
                _draw_line(axes, line, colours.get(line.beside or line.name, PAPER_COLOUR))
            axes.set_title(title)
            axes.set_xlabel(x)
            _tidy(axes)
            if x_reversed:
                axes.invert_xaxis()
            if x_log:
                axes.set_xscale("log")
        all_axes[0].set_ylabel(y)
        all_axes[0].set_ylim(0, y_most)
        shown = {
            name: handle
            for axes in all_axes
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(shown.values(), shown, loc="outside right upper", frameon=False)
    return figure


def _draw_line(axes: "Axes", line: Line, colour: str) -> None:
    style, alpha = ("--", 0.5) if line.is_paper else (":" if line.is_smooth else "-", 1.0)
    axes.plot(
        line.xs,
        line.ys,
        style,
        marker="" if line.is_smooth else "o",
        markersize=3.5,
        color=colour,
        alpha=alpha,
        label=line.name,
    )
    if line.lows is not None and line.highs is not None:
        axes.fill_between(line.xs, line.lows, line.highs, color=colour, alpha=0.15, linewidth=0)


def wer_line(name: str, arms: Mapping[Any, ArmSummary]) -> Line:
    """Return the curve of error rates, in per cent, over the number that the arms differ by."""
    known = [arm.mean_wer for arm in arms.values() if arm.mean_wer is not None]
    has_band = len(known) == len(arms)
    return Line(
        name,
        xs=list(arms),
        ys=[100 * arm.mean() for arm in arms.values()],
        lows=[100 * wer.low for wer in known] if has_band else None,
        highs=[100 * wer.high for wer in known] if has_band else None,
    )


def draw_bars(bars: Mapping[str, Mapping[str, float]], *, x: str, title: str) -> Figure:
    """Draw horizontal bars, in groups.

    Args:
        bars: names of groups to names of bars to lengths; the bars' names are the same in all.
        x: what the lengths are of, with the unit.
        title: of the figure.
    """
    names = list(next(iter(bars.values())))
    thickness = 0.8 / len(names)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(
            figsize=(8, 1.2 + 0.16 * len(bars) * (len(names) + 1)), layout="constrained"
        )
        axes = figure.subplots()
        for number, name in enumerate(names):
            places = [row + (number - (len(names) - 1) / 2) * thickness for row in range(len(bars))]
            lengths = [group[name] for group in bars.values()]
            axes.barh(
                places, lengths, height=thickness, color=COLOURS[number % len(COLOURS)], label=name
            )
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.set_xlabel(x)
        axes.set_title(title)
        _tidy(axes)
        if len(names) > 1:
            figure.legend(loc="outside right upper", frameon=False)
    return figure


def draw_points(
    points: Mapping[str, tuple[float, float]],
    *,
    x: str,
    y: str,
    title: str,
    paper: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Draw named points, the paper's in grey.

    Args:
        points: by name.
        x: what the x axis is of, with its unit.
        y: of the y axis.
        title: of the figure.
        paper: the paper's points, by name.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axes = figure.subplots()
        for colour, group in ((PAPER_COLOUR, paper or {}), (COLOURS[0], points)):
            for name, place in group.items():
                axes.plot(*place, "o", color=colour)
                axes.annotate(
                    name, place, xytext=(5, 4), textcoords="offset points", color=colour, fontsize=8
                )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(title)
        axes.margins(0.15)
        _tidy(axes)
    return figure


def _tidy(axes: "Axes") -> None:
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def write_figure(figure: Figure, folder: Path) -> None:
    """Write figure.svg and figure.png, without what changes from run to run."""
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        file = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "distilwhisper"}):
            figure.savefig(file, format=kind, metadata=metadata, dpi=PNG_DPI)
        write_atomic(folder / f"figure.{kind}", file.getvalue())
