"""How figures look and how they become files: one palette, one kind of axes, one place for legends.

Figures are for a page, for print in black and white, and for a phone 400 pixels wide: at most two
panels side by side, a mark and a dash beside every colour, names below the data and never on it.
Values that differ by more than a factor of ten have a logarithmic axis.
"""

import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distilwhisper.extras import needed_by
from distilwhisper.files import write_atomic

with needed_by("drawing figures", extra="report"):
    import matplotlib as mpl
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

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
_CLIP = re.compile(rb'(id="|url\(#)(p[0-9a-f]{10})(?=["\)])')


@dataclass(frozen=True)
class Look:
    """What tells one name from another."""

    colour: str = GREY
    marker: str = "o"
    dash: str = "-"


@dataclass(frozen=True)
class Line:
    """A curve."""

    name: str  # in the legend; "" is not shown there
    xs: Sequence[float]
    ys: Sequence[float | None]  # None where it is not known
    lows: Sequence[float | None] | None = None  # bounds of ys, to be shaded up to highs
    highs: Sequence[float | None] | None = None
    level: float | None = None  # to compare with, dotted all across
    beside: str | None = None  # the name whose look it shares; grey if there is none of it
    style: Mapping[str, Any] = field(default_factory=dict)  # of plot, in the look's place


@dataclass(frozen=True)
class Point:
    """A named point."""

    name: str  # in the legend
    x: float  # above zero
    y: float
    low: float | None = None  # bounds of y
    high: float | None = None
    parts: Sequence[tuple[float, float]] = ()  # what it is the mean of, drawn small
    beside: str | None = None  # as of a curve
    style: Mapping[str, Any] = field(default_factory=dict)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Give each name a look, by its place: the same names look the same in every figure."""
    each = zip(cycle(COLOURS), cycle(MARKERS), cycle(DASHES), strict=False)
    return {name: Look(*look) for name, look in zip(dict.fromkeys(names), each, strict=False)}


def draw_panels(
    panels: Mapping[str, Sequence[Line | Point]],
    *,
    x: str,
    y: str,
    names: Iterable[str] = (),
    x_reversed: bool = False,
    x_log: bool = False,
    note: str = "",
) -> Figure:
    """Draw curves or points in panels, by their titles, that share their y axis.

    A name has one look in all of them; ``names`` have the first looks, drawn here or not. ``x`` and
    ``y`` say what the axes are of, with the unit. The largest x may be on the left, or equal ratios
    of x equally far apart. A note below says what to see in it.
    """
    every = [one for drawn in panels.values() for one in drawn]
    look = looks([*names, *(one.name for one in every if one.beside is None)])
    figure, all_axes = axes_of(list(panels), x=x, y=y)
    for axes, drawn in zip(all_axes, panels.values(), strict=True):
        for one in drawn:
            its = look.get(one.name if one.beside is None else one.beside, Look())
            if isinstance(one, Line):
                _draw_line(axes, one, its)
            else:
                _draw_point(axes, one, its)
    low, high = _extent(all_axes, "y")
    high = high or 1.0
    for axes in all_axes:
        left, right = _extent(all_axes if x_log else [axes], "x")
        if x_log:
            _log_axis(axes, "x", left, right)
        elif left == right:
            axes.set_xticks([left])
        if x_reversed:
            axes.invert_xaxis()
        if 0 < WIDE_RANGE * low < high:
            _log_axis(axes, "y", low, high)
        else:
            axes.set_ylim(-0.02 * high, 1.06 * high)
        if not axes.lines:
            axes.set_xticks([])
            axes.text(0.5, 0.5, "no figures", transform=axes.transAxes, ha="center", color=GREY)
    name_below(figure, note)
    return figure


def in_percent(fraction: float | None) -> float | None:
    """Return a fraction in per cent; None, which is not drawn, where it is not known."""
    return None if fraction is None else 100 * fraction


def axes_of(titles: Sequence[str], *, x: str, y: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each title, one at least, which share their y axis."""
    n_columns = min(len(titles), 2)
    n_rows = -(-len(titles) // n_columns)
    size = (_WIDE if n_columns == 2 else _WIDTH, _HEIGHT * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    panels, blank = np.split(grid.ravel(), [len(titles)])
    for axes in blank:
        axes.set_axis_off()
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(textwrap.fill(title, 54 // n_columns), fontsize=11)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes.grid(color="#e4e8ec")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-n_columns:]:
        axes.set_xlabel(textwrap.fill(x, 54 // n_columns))
    for axes in grid[:, 0]:
        axes.set_ylabel(y)
    return figure, list(panels)


def name_below(figure: Figure, note: str = "") -> None:
    """Put a note and one legend of all that has a label below the panels, and make room there."""
    handles = {
        textwrap.fill(name, 60): handle
        for axes in figure.axes
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if not handles and not note:
        return
    width, height = figure.get_size_inches()
    longest = max((len(line) for name in handles for line in name.split("\n")), default=0)
    n_columns = max(1, int(width / (0.75 + _LETTER * longest)))
    note = textwrap.fill(note, int(width / _LETTER))
    n_lines = -(-sum(name.count("\n") + 1 for name in handles) // n_columns)
    figure.set_figheight(height + _ROW * (n_lines + len(note.splitlines())))
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


def write_figure(
    figure: Figure, folder: Path, name: str, formats: Sequence[Literal["svg", "png"]] = FORMATS
) -> list[Path]:
    """Write a figure as ``name`` and the ending of each format; return the files."""
    paths = {folder / f"{name}.{kind}": kind for kind in formats}
    for path, kind in paths.items():
        write_atomic(path, file_of(figure, kind))
    return list(paths)


def file_of(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """Return a figure as a file: the same bytes for the same data, an SVG's text kept as text."""
    file = io.BytesIO()
    metadata = {"svg": {"Date": None}, "png": {"Software": None}}[kind]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distilwhisper"}):
        figure.savefig(file, format=kind, metadata=metadata, dpi=150)
    if kind == "png":
        return file.getvalue()
    # What is clipped is named by a digest of floats, whose last bits the layout leaves to chance.
    ids: dict[bytes, bytes] = {}
    return _CLIP.sub(lambda m: m[1] + ids.setdefault(m[2], b"clip%d" % len(ids)), file.getvalue())


def _draw_line(axes: Axes, line: Line, look: Look) -> None:
    has_marks = len(line.xs) <= _MOST_MARKED
    marks = {"marker": look.marker if has_marks else "", "markersize": 5.5}
    style = {"color": look.colour, "linewidth": 1.8, "linestyle": look.dash, **marks, **line.style}
    axes.plot(line.xs, np.array(line.ys, dtype=float), label=line.name, **style)
    if line.lows is not None and line.highs is not None:
        lows, highs = np.array([line.lows, line.highs], dtype=float).tolist()
        axes.fill_between(line.xs, lows, highs, color=look.colour, alpha=0.12, linewidth=0)
        if has_marks:
            _draw_intervals(axes, line.xs, lows, highs, look.colour)
    if line.level is not None:
        axes.axhline(line.level, color=look.colour, linewidth=1, linestyle=(0, (1, 2)))


def _draw_point(axes: Axes, point: Point, look: Look) -> None:
    for x, y in point.parts:
        axes.plot(x, y, look.marker, color=look.colour, markersize=4, alpha=0.45)
    if point.low is not None and point.high is not None:
        _draw_intervals(axes, [point.x], [point.low], [point.high], look.colour)
    style = {"marker": look.marker, "color": look.colour, "markersize": 7, **point.style}
    axes.plot(point.x, point.y, linestyle="", label=point.name, **style)


def _draw_intervals(
    axes: Axes, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: str
) -> None:
    axes.vlines(xs, lows, highs, color=colour, alpha=0.6, linewidth=1)
    axes.plot([*xs, *xs], [*lows, *highs], "_", color=colour, alpha=0.6, markersize=7)


def _extent(all_axes: Sequence[Axes], name: Literal["x", "y"]) -> tuple[float, float]:
    """Return the lowest and the highest of what is drawn along an axis; twice 1 of nothing."""
    extents = [getattr(axes.dataLim, f"interval{name}") for axes in all_axes]
    values = [float(value) for extent in extents for value in extent if math.isfinite(value)]
    return min(values, default=1.0), max(values, default=1.0)


def _log_axis(axes: Axes, name: Literal["x", "y"], low: float, high: float) -> None:
    """Space an axis by ratios, with plain numbers at two ticks or more."""
    beyond = max(1.15, (6 * low / high) ** 0.5)
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low / beyond, high * beyond)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())
