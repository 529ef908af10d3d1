"""How figures look and how they become files: one palette, one kind of axes, one place for legends.

Figures are for a page, for print in black and white, and for a phone 400 pixels wide: at most two
panels side by side, a mark and a dash beside every colour, names below the data and never on it.
Values that differ by more than a factor of ten have a logarithmic axis.
"""

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from typing import TYPE_CHECKING, Literal

import numpy as np

from distilwhisper.extras import needed_by

with needed_by("drawing figures", extra="report"):
    import matplotlib as mpl
    from matplotlib.figure import Figure as Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's, which people of all kinds of colour vision tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#7a858f"
MARKERS = "osD^vP*X"
DASHES = ("-", "--", "-.", ":")
SMALL = 9.0  # points, of letters beside marks
FORMATS: tuple[Literal["svg", "png"], ...] = ("svg", "png")

WIDE_RANGE = 10  # times the lowest value that the highest is, from where on an axis is logarithmic
_MOST_MARKED = 20  # points of a line that is marked at each
_WIDTH, _WIDE, _HEIGHT = 5.0, 5.5, 2.8  # inches: one panel, two side by side, each
_ROW, _LETTER = 0.2, 0.08  # inches, of a legend


@dataclass(frozen=True)
class Look:
    """What tells one name from another."""

    colour: str = GREY
    marker: str = "o"
    dash: str = "-"


@dataclass(frozen=True)
class Line:
    """A curve.

    One that is fitted is thin and without marks; the paper's is pale, with hollow marks, and grey
    where it is beside none.
    """

    name: str  # in the legend; "" is not shown there
    xs: Sequence[float]
    ys: Sequence[float | None]  # None where it is not known
    lows: Sequence[float | None] | None = None  # bounds of ys, to be shaded up to highs
    highs: Sequence[float | None] | None = None
    level: float | None = None  # to compare with, dotted all across
    kind: Literal["measured", "fitted", "paper"] = "measured"
    beside: str | None = None  # the curve whose look it shares


@dataclass(frozen=True)
class Point:
    """A named point; the paper's is drawn grey and hollow."""

    name: str  # in the legend
    x: float  # above zero
    y: float
    low: float | None = None  # bounds of y
    high: float | None = None
    parts: Sequence[tuple[float, float]] = ()  # what it is the mean of, drawn small
    is_paper: bool = False


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Give each name a look, by its place: the same names look the same in every figure."""
    each = zip(cycle(COLOURS), cycle(MARKERS), cycle(DASHES), strict=False)
    return {name: Look(*look) for name, look in zip(dict.fromkeys(names), each, strict=False)}


def draw_lines(
    panels: Mapping[str, Sequence[Line]],
    *,
    x: str,
    y: str,
    names: Iterable[str] = (),
    x_reversed: bool = False,
    x_log: bool = False,
) -> Figure:
    """Draw curves in panels, by their titles, that share their y axis.

    A name has one look in all of them; ``names`` have the first looks, drawn here or not. ``x`` and
    ``y`` say what the axes are of, with the unit. The largest x may be on the left, or equal ratios
    of x equally far apart.
    """
    every = [line for lines in panels.values() for line in lines]
    own = [line.name for line in every if line.beside is None and line.kind != "paper"]
    look = looks([*names, *own])
    figure, all_axes = axes_of(list(panels), x=x, y=y)
    for axes, lines in zip(all_axes, panels.values(), strict=True):
        for line in lines:
            _draw_line(axes, line, look.get(line.beside or line.name, Look()))
        xs = {place for line in lines for place in line.xs}
        if x_log:
            _log_axis(axes, "x", xs)
        elif len(xs) == 1:
            axes.set_xticks(list(xs))
        if x_reversed:
            axes.invert_xaxis()
    values = (v for line in every for v in (*line.ys, *(line.lows or ()), *(line.highs or ())))
    _finish(figure, all_axes, [*values, *(line.level for line in every)])
    return figure


def draw_points(
    panels: Mapping[str, Sequence[Point]],
    *,
    x: str,
    y: str,
    names: Iterable[str] = (),
    note: str = "",
) -> Figure:
    """Draw named points in panels that share their axes; equal ratios of x are equally far apart.

    All else is as in :func:`draw_lines`; a note below says what to see in it.
    """
    every = [point for points in panels.values() for point in points]
    look = looks([*names, *(point.name for point in every if not point.is_paper)])
    printed = looks(point.name for point in every if point.is_paper)
    look |= {name: Look(GREY, its.marker) for name, its in printed.items()}
    figure, all_axes = axes_of(list(panels), x=x, y=y)
    parts = [(point.x, point.y) for point in every]
    parts += chain.from_iterable(point.parts for point in every)
    for axes, points in zip(all_axes, panels.values(), strict=True):
        for point in points:
            _draw_point(axes, point, look[point.name])
        _log_axis(axes, "x", [x for x, _ in parts])
    bounds = chain.from_iterable((point.low, point.high) for point in every)
    _finish(figure, all_axes, [*bounds, *(y for _, y in parts)], note)
    return figure


def in_percent(fraction: float | None) -> float | None:
    """Return a fraction in per cent; None, which is not drawn, where it is not known."""
    return None if fraction is None else 100 * fraction


def axes_of(titles: Sequence[str], *, x: str, y: str) -> tuple[Figure, "list[Axes]"]:
    """Return a figure with a panel for each title, one at least, which share their y axis."""
    n_columns = min(len(titles), 2)
    n_rows = -(-len(titles) // n_columns)
    figure = Figure(
        figsize=(_WIDE if n_columns == 2 else _WIDTH, _HEIGHT * n_rows), layout="constrained"
    )
    grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(titles) :]:
        axes.set_axis_off()
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(textwrap.fill(title, 54 // n_columns), fontsize=11)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes.grid(color="#e4e8ec")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[max(0, len(titles) - n_columns) : len(titles)]:
        axes.set_xlabel(textwrap.fill(x, 54 // n_columns))
    for axes in grid[:, 0]:
        axes.set_ylabel(y)
    return figure, list(grid.flat[: len(titles)])


def name_below(figure: Figure, note: str = "") -> None:
    """Put a note and one legend of all that has a label below the panels, and make room there."""
    handles = {
        textwrap.fill(name, 60): handle
        for axes in figure.axes
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if not handles and not note:
        return
    width = figure.get_figwidth()
    longest = max((len(line) for name in handles for line in name.split("\n")), default=0)
    n_columns = max(1, int(width / (0.75 + _LETTER * longest)))
    note = "\n".join(textwrap.wrap(note, int(width / _LETTER)))
    n_lines = -(-sum(name.count("\n") + 1 for name in handles) // n_columns)
    n_lines += len(note.splitlines())
    figure.set_figheight(figure.get_figheight() + _ROW * n_lines)
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower left",
        ncols=n_columns,
        title=note or None,
        title_fontsize=SMALL,
        alignment="left",
        fontsize=9,
        handlelength=2.8,
        frameon=False,
    )


def file_of(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """Return a figure as a file: the same bytes for the same data, an SVG's text kept as text."""
    file = io.BytesIO()
    metadata = {"svg": {"Date": None}, "png": {"Software": None}}[kind]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distilwhisper"}):
        figure.savefig(file, format=kind, metadata=metadata, dpi=150)
    return file.getvalue()


def _draw_line(axes: "Axes", line: Line, look: Look) -> None:
    is_paper, is_fitted = line.kind == "paper", line.kind == "fitted"
    has_marks = len(line.xs) <= _MOST_MARKED and not is_fitted
    axes.plot(
        line.xs,
        np.array(line.ys, dtype=float),
        label=line.name,
        color=look.colour,
        alpha=0.6 if is_paper else 1,
        linewidth=1 if is_paper or is_fitted else 1.8,
        linestyle=":" if is_fitted else look.dash,
        marker=look.marker if has_marks else "",
        markersize=5.5,
        markerfacecolor="white" if is_paper else look.colour,
    )
    if line.lows is not None and line.highs is not None:
        lows, highs = np.array([line.lows, line.highs], dtype=float).tolist()
        axes.fill_between(line.xs, lows, highs, color=look.colour, alpha=0.12, linewidth=0)
        if has_marks:
            _draw_intervals(axes, line.xs, lows, highs, look.colour)
    if line.level is not None:
        axes.axhline(line.level, color=look.colour, linewidth=1, linestyle=(0, (1, 2)))


def _draw_point(axes: "Axes", point: Point, look: Look) -> None:
    for x, y in point.parts:
        axes.plot(x, y, look.marker, color=look.colour, markersize=4, alpha=0.45)
    if point.low is not None and point.high is not None:
        _draw_intervals(axes, [point.x], [point.low], [point.high], look.colour)
    axes.plot(
        point.x,
        point.y,
        look.marker,
        label=point.name,
        color=look.colour,
        markersize=7,
        markerfacecolor="white" if point.is_paper else look.colour,
    )


def _draw_intervals(
    axes: "Axes", xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: str
) -> None:
    axes.vlines(xs, lows, highs, color=colour, alpha=0.6, linewidth=1)
    axes.plot([*xs, *xs], [*lows, *highs], "_", color=colour, alpha=0.6, markersize=7)


def _log_axis(axes: "Axes", name: Literal["x", "y"], values: Iterable[float]) -> None:
    """Space an axis by ratios, with plain numbers at two ticks or more."""
    values = list(values)
    low, high = min(values, default=1), max(values, default=1)
    beyond = max(1.15, (6 * low / high) ** 0.5)
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low / beyond, high * beyond)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def _finish(
    figure: Figure, all_axes: "Sequence[Axes]", values: Iterable[float | None], note: str = ""
) -> None:
    """Choose the range of the y axes, which begin at zero unless they are logarithmic."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0) or 1.0
    for axes in all_axes:
        if 0 < WIDE_RANGE * low < high:
            _log_axis(axes, "y", (low, high))
        else:
            axes.set_ylim(-0.02 * high, 1.06 * high)
        if not axes.lines:
            axes.set_xticks([])
            axes.text(0.5, 0.5, "no figures", transform=axes.transAxes, ha="center", color=GREY)
    name_below(figure, note)
