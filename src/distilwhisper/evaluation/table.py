"""A comparison in plain text, for people to read in a terminal."""

from collections.abc import Iterator, Sequence

from distilwhisper.evaluation.bootstrap import FEW_RECORDINGS
from distilwhisper.evaluation.comparison import SIGNIFICANT, Cell, Comparison, rtfx_of
from distilwhisper.evaluation.scoring import OVER
from distilwhisper.tables import bounds, percent, table_lines


def comparison_table(comparison: Comparison) -> str:
    """Return the models' figures set by set, then their means over the sets.

    Args:
        comparison: the figures.
    """
    sections = {}
    for noise in comparison.noises:
        for set_ in comparison.sets:
            cells = [cell for cell in comparison.cells if (cell.set, cell.noise) == (set_, noise)]
            sections[_title(cells[0])] = _set_section(comparison, cells)
        if len(comparison.sets) > 1:
            title = ", ".join(filter(None, ("mean over the sets", noise)))
            sections[title] = _mean_section(comparison, noise)
    lines = iter(table_lines(*sections.values(), indent="  "))
    tables = ([title, *(next(lines) for _ in rows), ""] for title, rows in sections.items())
    return "\n".join([*(line for table in tables for line in table), *_notes(comparison)])


def _title(first: Cell) -> str:
    return (
        f"{', '.join(filter(None, (first.set, first.noise)))}: {first.n_utterances} utterances, "
        f"{first.drawn_over}, {first.errors['words']} {first.unit}s"
    )


def _set_section(comparison: Comparison, cells: Sequence[Cell]) -> list[list[str]]:
    rows = [
        [
            cell.model,
            _rate(cell.wer, cell.wer_low, cell.wer_high),
            *(str(cell.errors[kind]) for kind in ("substitutions", "deletions", "insertions")),
            percent(cell.cer, unit="", none="-"),
            *_speed_and_size([cell]),
            *_difference(comparison, cell.model, cell.set, cell.noise),
        ]
        for cell in cells
    ]
    return [_head(comparison, {cells[0].unit}), *rows]


def _mean_section(comparison: Comparison, noise: str | None) -> list[list[str]]:
    rows = [
        [
            average.model,
            _rate(average.wer, average.low, average.high),
            *[""] * 4,
            *_speed_and_size(comparison.cells_of(average.model, noise)),
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
    return [f"{rtfx_of(cells):.1f}", f"{cells[0].n_parameters / 1e6:.1f}"]


def _difference(
    comparison: Comparison, model: str, set_: str | None, noise: str | None
) -> list[str]:
    if comparison.baseline is None:
        return []
    row = comparison.difference(model, set_, noise)
    if row is None:  # the baseline itself
        return ["", ""]
    sure = row.p is not None and row.p < SIGNIFICANT and not comparison.are_few(set_)
    p = "" if row.p is None else f"{row.p:.4f} {'*' if sure else ' '}"
    return [_rate(row.difference, row.low, row.high, sign="+"), p]


def _rate(rate: float | None, low: float | None, high: float | None, *, sign: str = "") -> str:
    return f"{percent(rate, sign=sign, unit='', none='-')} {bounds(low, high, sign=sign)}".rstrip()


def _notes(comparison: Comparison) -> Iterator[str]:
    how = comparison.resampling
    yield f"[low, high]: {100 * how.level:g} % interval, by drawing {how.n} times {OVER}."
    if comparison.baseline is not None:
        yield (
            f"against {comparison.baseline}: difference in points, on the same draws; *: p below "
            f"{SIGNIFICANT:g}, for this one comparison."
        )
    if comparison.are_few():
        yield (
            f"Fewer than {FEW_RECORDINGS} recordings make intervals too narrow and p too small, so "
            "nothing is marked there; a single utterance makes none."
        )
