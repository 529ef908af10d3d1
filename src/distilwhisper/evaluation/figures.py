"""A comparison drawn: what a model's errors buy in speed."""

from pathlib import Path

from distilwhisper.evaluation.comparison import Comparison, rtfx_of
from distilwhisper.files import write_atomic
from distilwhisper.plotting import FORMATS, Figure, Point, draw_points, file_of, in_percent

SPEED_NOTE = (
    "Right and low is good. Large: all sets, with the interval of their mean; small: a set. RTFx: "
    "seconds of audio per second of computing."
)


def draw_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write :func:`errors_against_speed` as SVG and PNG; no file where no set has references."""
    if all(average.wer is None for average in comparison.averages):
        return []
    return write_figure(errors_against_speed(comparison), folder, "wer-rtfx")


def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure in all formats, as ``name`` and the format's ending; return the files."""
    paths = {folder / f"{name}.{kind}": kind for kind in FORMATS}
    for path, kind in paths.items():
        write_atomic(path, file_of(figure, kind))
    return list(paths)


def errors_against_speed(comparison: Comparison) -> Figure:
    """Draw error rates against speed, a panel for each noise."""
    panels = {
        "no noise added" if noise is None else noise: speed_points(comparison, noise)
        for noise in comparison.noises
    }
    return draw_points(
        panels, x="RTFx", y=f"{comparison.rate_name}, %", names=comparison.models, note=SPEED_NOTE
    )


def speed_points(comparison: Comparison, noise: str | None) -> list[Point]:
    """Return the error rate, in per cent, and the speed of every model that was timed.

    They are means over the sets, with the sets as their parts where there are several.
    """
    points = []
    for average in comparison.averages:
        cells = comparison.cells_of(average.model, noise)
        rtfx = rtfx_of(cells)
        if average.noise != noise or average.wer is None or not rtfx:
            continue
        parts = [(c.rtfx, 100 * c.wer) for c in cells if c.wer is not None and c.rtfx]
        points.append(
            Point(
                average.model,
                x=rtfx,
                y=100 * average.wer,
                low=in_percent(average.low),
                high=in_percent(average.high),
                parts=parts if len(parts) > 1 else [],
            )
        )
    return points
