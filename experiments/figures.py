"""Figures of experiments: the same bytes from the same numbers."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from distilwhisper.plotting import SMALL, Line, Point, axes_of, draw_panels, looks, name_below
from experiments.results import Result

FITTED = {"linestyle": ":", "linewidth": 1, "marker": ""}  # the style of curves that are fitted


def printed_line(name: str, xs: Sequence[float], ys: Sequence[float], *, beside: str = "") -> Line:
    """Return a curve of the paper's: pale, with hollow marks, and grey where it is beside none."""
    style = {"alpha": 0.6, "linewidth": 1, "markerfacecolor": "white"}
    return Line(name, xs, ys, beside=beside, style=style)


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
    for name, look in looks(paper).items():  # of the paper all are grey, with marks of their own
        style = {"marker": look.marker, "markerfacecolor": "white"}
        x, y = paper[name]
        points.append(Point(f"paper: {name}", x, y, beside="", style=style))
    return draw_panels({title: points}, x="speed relative to the teacher", y="WER, %", x_log=True)


def draw_bars(bars: Mapping[str, Mapping[str, float]], *, x: str, title: str) -> Figure:
    """Draw horizontal bars in groups, each with its number.

    Args:
        bars: names of groups to names of bars to lengths; the bars' names are the same in all.
        x: what the lengths are of, with the unit.
        title: of the figure.
    """
    look = looks(name for group in bars.values() for name in group)
    longest = max(length for group in bars.values() for length in group.values()) or 1.0
    figure, (axes,) = axes_of([title], x=x, y="")
    figure.set_size_inches(6, 1 + 0.2 * len(bars) * (len(look) + 0.8))
    thickness = 0.8 / len(look)
    for number, (name, its) in enumerate(look.items()):
        places = [row + (number - (len(look) - 1) / 2) * thickness for row in range(len(bars))]
        lengths = [group[name] for group in bars.values()]
        label = name if len(look) > 1 else ""
        shown = axes.barh(places, lengths, height=0.9 * thickness, color=its.colour, label=label)
        axes.bar_label(shown, fmt="%.1f", padding=3, fontsize=SMALL)
    axes.set_yticks(range(len(bars)), [textwrap.fill(name, 26) for name in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * longest)
    axes.grid(visible=False, axis="y")
    name_below(figure)
    return figure
