"""Figures of a page: lines and points that are labelled where they are, in SVG.

Colours are Okabe and Ito's, which people of all kinds of colour vision tell apart, and every line
has a marker of its own beside. Figures are narrow enough for a phone to show them at full size.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^vP*X"
_DASHES = ("-", "--", "-.", ":")
_TEXT = "#1c2733"
_SIZE = (4.6, 3.1)  # inches
_LINE_HEIGHT = 0.075  # of a label, over the height of a figure
_MAX_LABEL = 22  # characters


@dataclass(frozen=True)
class Line:
    """A line with a name.

    Attributes:
        label: written at its end.
        x: where the points are.
        y: what is there.
        low: the lower bounds of y, to be shaded up to ``high``.
        high: the upper bounds.
        level: a value to compare with, drawn all across.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    level: float | None = None


@dataclass(frozen=True)
class Spot:
    """A point with a name.

    Attributes:
        label: written beside it.
        x: place of the large point.
        y: place of the large point.
        low: the lower bound of y.
        high: the upper bound.
        parts: what the large point is the mean of, as small ones.
    """

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    parts: Sequence[tuple[float, float]] = ()


def draw_lines(
    lines: Sequence[Line],
    *,
    title: str,
    x: str,
    y: str,
    markers: bool = False,
    falling: bool = False,
) -> str:
    """Return lines as SVG: the same text for the same data.

    Args:
        lines: one at least.
        title: what they show.
        x: what stands below.
        y: what stands at the side.
        markers: mark every point.
        falling: the largest x is on the left.
    """
    figure, axes = _axes(title, x, y)
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(
            line.x,
            line.y,
            color=colour,
            linewidth=1.8,
            linestyle=_DASHES[number % len(_DASHES)],
            marker=_MARKERS[number % len(_MARKERS)] if markers else None,
            markersize=5,
        )
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        if line.level is not None:
            axes.axhline(line.level, color=colour, linewidth=1, linestyle=(0, (1, 2)))
    if falling:
        axes.invert_xaxis()
    _from_zero(axes)
    if len(lines) > 1:
        _name(axes, [line.label for line in lines], [(line.x[-1], line.y[-1]) for line in lines])
    return _svg(figure)


def draw_spots(spots: Sequence[Spot], *, title: str, x: str, y: str) -> str:
    """Return points as SVG, over an axis that shows ratios of x as distances.

    Args:
        spots: one at least; their x are above zero.
        title: what they show.
        x: what stands below.
        y: what stands at the side.
    """
    figure, axes = _axes(title, x, y)
    axes.set_xscale("log")
    for number, spot in enumerate(spots):
        colour = _COLOURS[number % len(_COLOURS)]
        marker = _MARKERS[number % len(_MARKERS)]
        for part in spot.parts:
            axes.plot(*part, marker, color=colour, markersize=4, alpha=0.45)
        axes.plot(spot.x, spot.y, marker, color=colour, markersize=10)
        if spot.low is not None and spot.high is not None:
            axes.plot([spot.x, spot.x], [spot.low, spot.high], color=colour)
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.1, high * 1.1)
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.2, 0.6)))
    axes.tick_params(axis="x", which="both", labelsize=9)
    _from_zero(axes)
    _name(axes, [spot.label for spot in spots], [(spot.x, spot.y) for spot in spots])
    return _svg(figure)


def _axes(title: str, x: str, y: str) -> tuple[Figure, "mpl.axes.Axes"]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, color=_TEXT)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color="#e4e8ec")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _from_zero(axes: "mpl.axes.Axes") -> None:
    high = axes.get_ylim()[1]
    axes.set_ylim(0, high if high > 0 else 1)


def _name(
    axes: "mpl.axes.Axes", labels: Sequence[str], places: Sequence[tuple[float, float]]
) -> None:
    """Write each label to the right of its place; those that would meet are moved up or down."""
    top = axes.get_ylim()[1]
    heights = _apart([y / top for _, y in places])
    for number, (label, (x, y), height) in enumerate(zip(labels, places, heights, strict=True)):
        axes.annotate(
            label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 1]}…",
            (x, y),
            xytext=(9, (height - y / top) * _SIZE[1] * 72 * 0.7),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_TEXT,
            annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.7},
        )
        axes.plot(x, y, _MARKERS[number % len(_MARKERS)], color=_COLOURS[number % len(_COLOURS)])


def _apart(heights: Sequence[float]) -> list[float]:
    """Return heights of labels, as fractions, moved until none stands on another."""
    apart = list(heights)
    for below, above in pairwise(sorted(range(len(apart)), key=apart.__getitem__)):
        apart[above] = max(apart[above], apart[below] + _LINE_HEIGHT)
    too_high = max(0.0, max(apart) - 1)
    return [height - too_high for height in apart]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distilwhisper"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
