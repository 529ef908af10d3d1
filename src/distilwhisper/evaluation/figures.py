"""A comparison drawn: what a model's errors buy in speed."""

import io
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from distilwhisper.corpus.store import write_atomic
from distilwhisper.evaluation.comparison import Comparison

# Okabe and Ito's, which people of all kinds of colour vision tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^vP*X"
_GREY = "#7a858f"
_N_COLUMNS = 3


def draw_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw error rates against speed, a panel for each noise.

    A large dot is a model's mean over the sets, with its interval; small ones are the sets.

    Args:
        comparison: the figures.
        folder: of the files.

    Returns:
        wer-rtfx.svg and wer-rtfx.png; none where no set has references.
    """
    if all(average.wer is None for average in comparison.averages):
        return []
    figure = _figure(comparison)
    kinds: tuple[Literal["svg", "png"], ...] = ("svg", "png")
    paths = [folder / f"wer-rtfx.{kind}" for kind in kinds]
    for path, kind in zip(paths, kinds, strict=True):
        write_atomic(path, _bytes(figure, kind))
    return paths


def _figure(comparison: Comparison) -> Figure:
    n_panels = len(comparison.noises)
    n_columns = min(n_panels, _N_COLUMNS)
    n_rows = -(-n_panels // n_columns)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(2.4 + 4 * n_columns, 3.6 * n_rows), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        for axes, noise in zip(panels.flat, comparison.noises, strict=False):
            _panel(axes, comparison, noise)
        for axes in panels.flat[n_panels:]:
            axes.set_axis_off()
        figure.supxlabel("RTFx: seconds of audio per second of computing")
        figure.supylabel("WER, %")
        figure.legend(handles=_legend(comparison), loc="outside right upper", frameon=False)
    return figure


def _panel(axes: "mpl.axes.Axes", comparison: Comparison, noise: str | None) -> None:
    for average in comparison.averages:
        cells = [c for c in comparison.cells if (c.model, c.noise) == (average.model, noise)]
        compute_s = sum(cell.compute_s for cell in cells)
        if average.noise != noise or average.wer is None or not compute_s:
            continue
        colour = _colour(comparison, average.model)
        for cell in cells:
            if cell.wer is not None and cell.rtfx:
                marker = _marker(comparison, cell.set)
                axes.plot(cell.rtfx, 100 * cell.wer, marker, color=colour, markersize=4, alpha=0.45)
        rtfx, wer = sum(cell.audio_s for cell in cells) / compute_s, 100 * average.wer
        axes.plot(rtfx, wer, "o", color=colour, markersize=9)
        if average.low is not None and average.high is not None:
            axes.plot([rtfx] * 2, [100 * average.low, 100 * average.high], color=colour)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("no noise added" if noise is None else noise)


def _legend(comparison: Comparison) -> list[Line2D]:
    models = [
        Line2D([], [], marker="o", linestyle="", markersize=9, label=model,
               color=_colour(comparison, model))
        for model in comparison.models
    ]  # fmt: skip
    sets = [
        Line2D([], [], marker=_marker(comparison, set_), linestyle="", markersize=4, label=set_,
               color=_GREY)
        for set_ in comparison.sets
    ]  # fmt: skip
    return [*models, *sets]


def _colour(comparison: Comparison, model: str) -> str:
    return _COLOURS[comparison.models.index(model) % len(_COLOURS)]


def _marker(comparison: Comparison, set_: str) -> str:
    return _MARKERS[comparison.sets.index(set_) % len(_MARKERS)]


def _bytes(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """Return a figure as a file: the same bytes for the same data, an SVG's text kept as text."""
    file = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distilwhisper"}):
        figure.savefig(file, format=kind, metadata=metadata, dpi=150)
    return file.getvalue()
