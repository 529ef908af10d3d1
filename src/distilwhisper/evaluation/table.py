"""A comparison in plain text, for people to read in a terminal."""

from collections.abc import Iterator

from distilwhisper.evaluation.bootstrap import FEW_RECORDINGS
from distilwhisper.evaluation.comparison import SIGNIFICANT, Comparison, rtfx_of
from distilwhisper.evaluation.scoring import OVER
from distilwhisper.tables import bounds, percent, table_lines


def comparison_table(comparison: Comparison) -> str:
    """Return the models' figures set by set, then their means over the sets.

    Args:
        comparison: the figures.
    """
    parts = (*comparison.sets, *[None] * (len(comparison.sets) > 1))  # None: their mean
    sections = {
        _title(comparison, set_, noise): [
            _head(comparison, set_),
            *(_row(comparison, model, set_, noise) for model in comparison.models),
        ]
        for noise in comparison.noises
        for set_ in parts
    }
    lines = iter(table_lines(*sections.values(), indent="  "))
    tables = ([title, *(next(lines) for _ in rows), ""] for title, rows in sections.items())
    return "\n".join([*(line for table in tables for line in table), *_notes(comparison)])


def _title(comparison: Comparison, set_: str | None, noise: str | None) -> str:
    name = ", ".join(filter(None, (set_ or "mean over the sets", noise)))
    if set_ is None:
        return name
    first = next(cell for cell in comparison.cells if (cell.set, cell.noise) == (set_, noise))
    return (
        f"{name}: {first.n_utterances} utterances, {first.drawn_over}, {first.errors['words']} "
        f"{first.unit}s"
    )


def _head(comparison: Comparison, set_: str | None) -> list[str]:
    units = {cell.unit for cell in comparison.cells if set_ in (None, cell.set)}
    rate = "errors" if len(units) > 1 else "WER" if "word" in units else "CER"
    differences = [] if comparison.baseline is None else [f"against {comparison.baseline}", "p"]
    return ["", f"{rate} %", "S", "D", "I", "CER %", "RTFx", "M param.", *differences]


def _row(comparison: Comparison, model: str, set_: str | None, noise: str | None) -> list[str]:
    cells = [c for c in comparison.cells_of(model, noise) if set_ in (None, c.set)]
    if set_ is None:
        mean = comparison.average(model, noise)
        errors = [_rate(mean.wer, mean.low, mean.high), *[""] * 4]
    else:
        (cell,) = cells
        kinds = (str(cell.errors[kind]) for kind in ("substitutions", "deletions", "insertions"))
        cer = percent(cell.cer, unit="", none="-")
        errors = [_rate(cell.wer, cell.wer_low, cell.wer_high), *kinds, cer]
    speed_and_size = [f"{rtfx_of(cells):.1f}", f"{cells[0].n_parameters / 1e6:.1f}"]
    return [model, *errors, *speed_and_size, *_difference(comparison, model, set_, noise)]


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
