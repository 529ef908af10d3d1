"""Figures of what a filter keeps: the same bytes from the same numbers."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from distilwhisper.filtering.retention import Kept, Retention
from distilwhisper.plotting import SMALL, Axes, Figure, axes_of, looks, name_below, write_figure

_WER, _CER = looks(("wer", "cer")).values()
_BLUE, _ORANGE, _PALE = _WER.colour, _CER.colour, "#cdd5dd"
N_BARS = 8  # of one kind


def draw_retention(retention: Retention, folder: Path, *, max_wer: float) -> list[Path]:
    """Draw a retention report as SVG files, and mark the limit that was set.

    Returns the files in the order in which they appear: errors.svg and limits.svg where there are
    references, and then kept.svg.
    """
    figures = {}
    if retention.n_judged:
        figures = {"errors": _errors(retention, max_wer), "limits": _limits(retention, max_wer)}
    figures["kept"] = _kept(retention)
    return [p for name, it in figures.items() for p in write_figure(it, folder, name, ["svg"])]


def _errors(retention: Retention, max_wer: float) -> Figure:
    """Draw the share of labels with at most so many errors."""
    title = f"{retention.n_judged} labels against their references"
    x, y = "errors of the label, % of the reference", "share of labels, %"
    figure, (axes,) = axes_of([title], x=x, y=y)
    shares = [100 * share for share in retention.error_curve]
    axes.step(range(len(shares)), shares, where="post", color=_BLUE)
    if max_wer <= 1:
        name = f"limit {100 * max_wer:g} %"
        axes.axvline(100 * max_wer, color=_ORANGE, linestyle="--", linewidth=1, label=name)
        name_below(figure)
    axes.set(xlim=(0, 100), ylim=(0, 101))
    return figure


def _limits(retention: Retention, max_wer: float) -> Figure:
    """Draw what is kept under each limit against the errors that are left in it."""
    title, x = "each limit on errors, and what it leaves", "errors left in what is kept, %"
    figure, (axes,) = axes_of([title], x=x, y="utterances kept, %")
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL}
    for unit, look in (("wer", _WER), ("cer", _CER)):
        points = {
            limit: (100 * rate, 100 * kept.n_kept / kept.n)
            for limit, kept in retention.by_limit.items()
            if (rate := getattr(kept, f"{unit}_kept")) is not None
        }
        if not points:
            continue
        xs, ys = zip(*points.values(), strict=True)
        axes.plot(xs, ys, look.dash, marker=look.marker, color=look.colour, label=unit.upper())
        for number, (limit, point) in enumerate(points.items()):
            place, side = ((-5, 5), "right") if number % 2 else ((5, -11), "left")
            weight = "bold" if limit == max_wer else "normal"
            name = f"{100 * limit:g} %"
            axes.annotate(name, point, xytext=place, ha=side, fontweight=weight, **style)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 110)
    name_below(figure)
    return figure


def _kept(retention: Retention) -> Figure:
    """Draw the share of utterances kept, by kind of group."""
    kinds = {
        kind: dict(islice(of.largest.items(), N_BARS)) for kind, of in retention.groups.items()
    }
    heights = [max(len(groups), 1) + 1 for groups in kinds.values()]
    figure = Figure(figsize=(6, 0.3 * sum(heights) + 0.8), layout="constrained")
    grid = figure.subplots(len(kinds), sharex=True, squeeze=False, height_ratios=heights)
    for axes, (kind, groups) in zip(grid[:, 0], kinds.items(), strict=True):
        _bars(axes, kind, groups)
    grid[-1, 0].set_xlabel("utterances kept, %")
    return figure


def _bars(axes: Axes, kind: str, groups: Mapping[str, Kept]) -> None:
    names = [name if len(name) <= 28 else f"{name[:27]}…" for name in groups]
    places = range(len(groups))
    shares = [100 * group.n_kept / group.n for group in groups.values()]
    axes.barh(places, [100] * len(groups), color=_PALE, height=0.7)
    axes.barh(places, shares, color=_BLUE, height=0.7)
    for place, (share, group) in enumerate(zip(shares, groups.values(), strict=True)):
        axes.annotate(
            f"{share:.0f} % of {group.n}", (101, place), va="center", annotation_clip=False
        )
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_title(f"by {kind}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
