"""Figures of experiments: the same bytes from the same numbers."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from distilwhisper.plotting import (
    SMALL,
    Line,
    Point,
    axes_of,
    draw_points,
    looks,
    name_below,
    top_of,
)
from experiments.results import Result


def wer_line(name: str, results: Mapping[Any, Result]) -> Line:
    """Return the curve of error rates, in per cent, over the number that the arms differ by."""
    known = [result.interval for result in results.values()]
    return Line(
        name,
        xs=list(results),
        ys=[100 * result.mean() for result in results.values()],
        lows=[None if wer is None else 100 * wer.low for wer in known],
        highs=[None if wer is None else 100 * wer.high for wer in known],
    )


def speed_figure(
    title: str,
    results: Mapping[str, Result],
    speed: Callable[[Result], float],
    paper: Mapping[str, Sequence[float]],
    *,
    sets: Sequence[str] | None = None,
) -> Figure:
    """Draw error rates against relative speed.

    Args:
        title: of the figure.
        results: by name.
        speed: of each.
        paper: speed and error rate that the paper printed, in per cent.
        sets: that the error rates are means over; all when left out.
    """
    points = [
        Point(name, speed(result), 100 * result.mean("wer", sets))
        for name, result in results.items()
    ]
    points += [Point(f"paper: {name}", x, y, is_paper=True) for name, (x, y) in paper.items()]
    return draw_points({title: points}, x="speed relative to the teacher", y="WER, %")


def draw_bars(bars: Mapping[str, Mapping[str, float]], *, x: str, title: str) -> Figure:
    """Draw horizontal bars in groups, each with its number.

    Args:
        bars: names of groups to names of bars to lengths; the bars' names are the same in all.
        x: what the lengths are of, with the unit.
        title: of the figure.
    """
    look = looks(name for group in bars.values() for name in group)
    lengths = [(length, None) for group in bars.values() for length in group.values()]
    top = top_of(lengths, most=math.inf)
    figure, (axes,) = axes_of([title], x=x, y="")
    figure.set_size_inches(6, 1 + 0.2 * len(bars) * (len(look) + 0.8))
    thickness = 0.8 / len(look)
    for number, (name, its) in enumerate(look.items()):
        places = [row + (number - (len(look) - 1) / 2) * thickness for row in range(len(bars))]
        ours = [group[name] for group in bars.values()]
        shown = [min(length, top) for length in ours]
        label = name if len(look) > 1 else ""
        axes.barh(places, shown, height=0.9 * thickness, color=its.colour, label=label)
        for place, end, length in zip(places, shown, ours, strict=True):
            told = f"{length:.1f}" if length <= top else f"→ {length:.1f}"
            axes.annotate(
                told, (end, place), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=SMALL,
            )  # fmt: skip
    axes.set_yticks(range(len(bars)), [textwrap.fill(name, 26) for name in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * top)
    axes.grid(visible=False, axis="y")
    is_cut = any(length > top for length, _ in lengths)
    name_below(figure, "→: too long to be shown; how long stands beside it." if is_cut else "")
    return figure
