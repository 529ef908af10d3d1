"""A comparison in plain text, for people to read in a terminal."""

from collections.abc import Sequence

from distilwhisper.evaluation.bootstrap import FEW_RECORDINGS
from distilwhisper.evaluation.comparison import Cell, Comparison
from distilwhisper.evaluation.scoring import OVER

SIGNIFICANT = 0.05  # a p-value below this is marked


def comparison_table(comparison: Comparison) -> str:
    """Return the models' figures set by set, then their means over the sets.

    Args:
        comparison: the figures.
    """
    sections = {}
    for noise in comparison.noises:
        for set_ in comparison.sets:
            title, rows = _set_section(comparison, set_, noise)
            sections[title] = rows
        if len(comparison.sets) > 1:
            sections[f"mean over the sets{_with(noise)}"] = _mean_section(comparison, noise)
    every_row = [row for rows in sections.values() for row in rows]
    widths = [max(map(len, column)) for column in zip(*every_row, strict=True)]
    lines = []
    for title, rows in sections.items():
        lines += [title, *(_aligned(row, widths) for row in rows), ""]
    return "\n".join([*lines, *_notes(comparison)])


def are_few(comparison: Comparison, set_: str | None = None) -> bool:
    """Tell whether a set, or any, has too few recordings for its differences to be trusted."""
    cells = (cell for cell in comparison.cells if set_ in (None, cell.set))
    return any(0 < cell.n_groups < FEW_RECORDINGS for cell in cells)


def rate_name(comparison: Comparison) -> str:
    """Return what error rates are called."""
    units = {cell.unit for cell in comparison.cells}
    return "error rate" if len(units) > 1 else "WER" if "word" in units else "CER"


def _set_section(
    comparison: Comparison, set_: str, noise: str | None
) -> tuple[str, list[list[str]]]:
    cells = [cell for cell in comparison.cells if (cell.set, cell.noise) == (set_, noise)]
    first = cells[0]
    title = (
        f"{set_}{_with(noise)}: {first.n_utterances} utterances, "
        f"{first.drawn_over}, {first.errors['words']} {first.unit}s"
    )
    rows = [
        [
            cell.model,
            _rate(cell.wer, cell.wer_low, cell.wer_high),
            *(str(cell.errors[kind]) for kind in ("substitutions", "deletions", "insertions")),
            _percent(cell.cer),
            *_speed_and_size([cell]),
            *_difference(comparison, cell.model, set_, noise),
        ]
        for cell in cells
    ]
    return title, [_head(comparison, {first.unit}), *rows]


def _mean_section(comparison: Comparison, noise: str | None) -> list[list[str]]:
    rows = [
        [
            average.model,
            _rate(average.wer, average.low, average.high),
            *[""] * 4,
            *_speed_and_size(
                [c for c in comparison.cells if (c.model, c.noise) == (average.model, noise)]
            ),
            *_difference(comparison, average.model, None, noise),
        ]
        for average in comparison.averages
        if average.noise == noise
    ]
    return [_head(comparison, {cell.unit for cell in comparison.cells}), *rows]


def _head(comparison: Comparison, units: set[str]) -> list[str]:
    rate = "errors" if len(units) > 1 else "WER" if "word" in units else "CER"
    differences = [] if comparison.baseline is None else [f"against {comparison.baseline}", "p"]
    return ["", f"{rate} %", "S", "D", "I", "CER %", "RTFx", "M param.", *differences]


def _speed_and_size(cells: Sequence[Cell]) -> list[str]:
    compute_s = sum(cell.compute_s for cell in cells)
    rtfx = sum(cell.audio_s for cell in cells) / compute_s if compute_s else 0.0
    return [f"{rtfx:.1f}", f"{cells[0].n_parameters / 1e6:.1f}"]


def _difference(
    comparison: Comparison, model: str, set_: str | None, noise: str | None
) -> list[str]:
    if comparison.baseline is None:
        return []
    for row in comparison.differences:
        if (row.model, row.set, row.noise) == (model, set_, noise):
            sure = row.p is not None and row.p < SIGNIFICANT and not are_few(comparison, set_)
            p = "" if row.p is None else f"{row.p:.4f} {'*' if sure else ' '}"
            return [_rate(row.difference, row.low, row.high, sign="+"), p]
    return ["", ""]  # the baseline itself


def _rate(rate: float | None, low: float | None, high: float | None, *, sign: str = "") -> str:
    if rate is None:
        return "-"
    if low is None or high is None:
        return f"{100 * rate:{sign}.1f}"
    return f"{100 * rate:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _with(noise: str | None) -> str:
    return "" if noise is None else f", {noise}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if at else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(["", first, *others]).rstrip()


def _notes(comparison: Comparison) -> list[str]:
    how = comparison.resampling
    notes = [f"[low, high]: {100 * how.level:g} % interval, by drawing {how.n} times {OVER}."]
    if comparison.baseline is not None:
        notes.append(
            f"against {comparison.baseline}: difference in points, on the same draws; *: p below "
            f"{SIGNIFICANT:g}, for this one comparison."
        )
    if are_few(comparison):
        notes.append(
            f"Fewer than {FEW_RECORDINGS} recordings make intervals too narrow and p too small, so "
            "nothing is marked there; a single utterance makes none."
        )
    return notes
