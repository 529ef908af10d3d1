"""Several models on several sets, read from their evaluation folders and put side by side."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from distilwhisper.corpus.records import audio_from, audio_in
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.errors import DistilwhisperError
from distilwhisper.evaluation.bootstrap import (
    FEW_RECORDINGS,
    Counted,
    Interval,
    Resampling,
    by_recording,
    mean_difference,
    mean_interval,
)
from distilwhisper.evaluation.scoring import OVER, drawn_over
from distilwhisper.plotting import Figure, Point, draw_panels, in_percent, write_figure
from distilwhisper.tables import bounds, percent, titled_tables
from distilwhisper.text.wer import ErrorCounts

N_WORST = 10  # utterances of one model on one set
SIGNIFICANT = 0.05  # p-values below this are called so
SPEED_NOTE = (
    "Right and low is good. Large: all sets, with the interval of their mean; small: a set. RTFx: "
    "seconds of audio per second of computing."
)


class NotComparable(DistilwhisperError, ValueError):
    """Evaluations are of different utterances, or count in different units."""


@dataclass(frozen=True)
class Place:
    """One model on one set, with one kind of noise or none."""

    model: str
    set: str
    noise: str | None

    def __str__(self) -> str:
        return ", ".join(filter(None, self.place))

    @property
    def place(self) -> tuple[str, str, str | None]:
        """Model, set and noise, which tell it from all others."""
        return self.model, self.set, self.noise


@dataclass(frozen=True)
class Evaluation(Place):
    """The folder of a model's results on a set."""

    folder: Path

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """What summary.json holds."""
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    @cached_property
    def scores(self) -> Sequence[Mapping[str, Any]]:
        """The rows of scores.jsonl."""
        return list(read_jsonl(self.folder / "scores.jsonl"))

    @cached_property
    def counted(self) -> Counted:
        """Errors and words of every recording."""
        rows = self.scores
        return by_recording([(r["id"], r["group"], ErrorCounts(**r["errors"])) for r in rows])


@dataclass(frozen=True)
class Cell(Place):
    """What one model did on one set; rates are fractions, and None without references."""

    folder: str  # seen from the comparison's
    n_utterances: int
    n_groups: int  # recordings, or what stands for them: what an interval is made of
    drawn_over: str  # what an interval is drawn over, such as "35 files", "one speaker"
    failed: Mapping[str, str]
    audio_s: float
    compute_s: float
    rtfx: float
    n_parameters: int
    unit: str
    errors: Mapping[str, int]
    wer: float | None
    wer_low: float | None  # None where there are fewer than two recordings
    wer_high: float | None
    cer: float | None
    ser: float | None
    der: float | None
    ier: float | None
    repeated_5_grams: int
    acceptance: float | None  # of what a draft proposed


@dataclass(frozen=True)
class Average:
    """The mean of a model's rates over the sets that have references."""

    model: str
    noise: str | None
    wer: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """How much higher a model's error rate is than the baseline's."""

    model: str
    against: str
    set: str | None  # None: of the means over the sets
    noise: str | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None  # two-sided


@dataclass(frozen=True)
class WorstUtterance(Place):
    """An utterance in which a model made many errors."""

    id: str
    audio: str  # seen from the comparison's folder; or a URL
    start_s: float
    duration_s: float | None
    reference: str
    hypothesis: str
    errors: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """All models on all sets with all noises; what comparison.json holds."""

    models: tuple[str, ...]
    baseline: str | None  # the model that the others are compared with
    sets: tuple[str, ...]
    noises: tuple[str | None, ...]  # None: the sound as it is
    cells: tuple[Cell, ...]
    averages: tuple[Average, ...]
    differences: tuple[Difference, ...]
    worst: tuple[WorstUtterance, ...]
    resampling: Resampling

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the models' figures set by set, then their means over the sets, as a table."""
        parts = (*self.sets, *[None] * (len(self.sets) > 1))  # None: their mean
        tables = dict(_table(self, set_, noise) for noise, set_ in product(self.noises, parts))
        return "\n\n".join([*titled_tables(tables), "\n".join(_notes(self))])

    @property
    def failed(self) -> dict[str, str]:
        """Every utterance that could not be read, and why, by model, set, noise and id."""
        return {f"{c}, {id_}": why for c in self.cells for id_, why in c.failed.items()}

    @property
    def first_noise(self) -> str | None:
        """What the models are judged by first: the sound as it is, or else the first noise."""
        return None if None in self.noises else self.noises[0]

    @property
    def rate_name(self) -> str:
        """What error rates are called."""
        return _rate_name(self.cells, mixed="error rate")

    def unit(self, set_: str) -> str:
        """Return what is counted in a set."""
        return next(cell.unit for cell in self.cells if cell.set == set_)

    def cells_of(self, model: str, noise: str | None) -> list[Cell]:
        """Return what a model did on every set."""
        return [cell for cell in self.cells if (cell.model, cell.noise) == (model, noise)]

    def average(self, model: str, noise: str | None) -> Average:
        """Return a model's mean over the sets."""
        return next(a for a in self.averages if (a.model, a.noise) == (model, noise))

    def difference(self, model: str, set_: str | None, noise: str | None) -> Difference | None:
        """Return how a model differs from the baseline; None of the baseline itself."""
        here = (model, set_, noise)
        return next((d for d in self.differences if (d.model, d.set, d.noise) == here), None)

    def are_few(self, set_: str | None = None) -> bool:
        """Return whether a set, or any, has too few recordings to trust its differences."""
        cells = (cell for cell in self.cells if set_ in (None, cell.set))
        return any(0 < cell.n_groups < FEW_RECORDINGS for cell in cells)


def rtfx_of(cells: Sequence[Cell]) -> float:
    """Return seconds of audio per second of computing, over cells together; 0 if not timed."""
    compute_s = sum(cell.compute_s for cell in cells)
    return sum(cell.audio_s for cell in cells) / compute_s if compute_s else 0.0


def compare(
    evaluations: Sequence[Evaluation],
    *,
    folder: Path,
    baseline: str | None = None,
    resampling: Resampling | None = None,
) -> Comparison:
    """Put evaluations side by side: every model on every set with every noise, once.

    Names of files are relative to the folder. The baseline is the model that the others are
    compared with, pair by pair; None compares none.

    Raises:
        ValueError: an evaluation is missing or there twice, or no model is called as the baseline.
        NotComparable: the models have not been scored on the same utterances of a set, or not in
            the same unit.
    """
    resampling = resampling or Resampling()
    models = tuple(dict.fromkeys(e.model for e in evaluations))
    sets = tuple(dict.fromkeys(e.set for e in evaluations))
    noises = tuple(dict.fromkeys(e.noise for e in evaluations))
    n_wanted = len(models) * len(sets) * len(noises)
    n_different = len({e.place for e in evaluations})
    if not n_wanted == n_different == len(evaluations):
        raise ValueError(
            f"every model must be there once on every set with every noise, {n_wanted} "
            f"evaluations, found {len(evaluations)}, of which {n_different} differ"
        )
    firsts: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        _check_same(firsts.setdefault(evaluation.set, evaluation), evaluation)
    if baseline is not None and baseline not in models:
        raise ValueError(f'the baseline must be one of {", ".join(models)}, found "{baseline}"')

    counted = {e.place: e.counted for e in evaluations}
    averages, differences = [], []
    for noise, model in product(noises, models):
        mean = _mean([counted[model, set_, noise] for set_ in sets], resampling)
        averages.append(Average(model, noise, *mean))
    for noise, set_, model in product(noises, (*sets, None), models):
        if baseline is not None and model != baseline:
            parts = [part for part in sets if set_ in (None, part)]
            pairs = [(counted[model, p, noise], counted[baseline, p, noise]) for p in parts]
            difference = _difference(pairs, resampling)
            differences.append(Difference(model, baseline, set_, noise, *difference))
    return Comparison(
        models=models,
        baseline=baseline,
        sets=sets,
        noises=noises,
        cells=tuple(_cell(evaluation, folder, resampling) for evaluation in evaluations),
        averages=tuple(averages),
        differences=tuple(differences),
        worst=tuple(row for evaluation in evaluations for row in _worst(evaluation, folder)),
        resampling=resampling,
    )


def _check_same(one: Evaluation, other: Evaluation) -> None:
    ids = [{row["id"] for row in each.scores} for each in (one, other)]
    if ids[0] != ids[1]:
        raise NotComparable(
            f"{one.set} must be the same utterances for all, found {len(ids[0])} scored in "
            f"{one.folder} and {len(ids[1])} in {other.folder}, {len(ids[0] & ids[1])} of them in "
            "both: evaluate both on one manifest"
        )
    units = [each.summary["unit"] for each in (one, other)]
    if units[0] != units[1]:
        raise NotComparable(
            f"{one.set} must be counted in one unit for all, found {units[0]}s in {one.folder} and "
            f"{units[1]}s in {other.folder}: name the language of each utterance in the manifest, "
            "where each model would else detect its own"
        )


def _cell(evaluation: Evaluation, folder: Path, resampling: Resampling) -> Cell:
    summary, counted = evaluation.summary, evaluation.counted
    _, low, high = _mean([counted], resampling)
    return Cell(
        *evaluation.place,
        folder=os.path.relpath(evaluation.folder, folder),
        n_groups=len(counted),
        drawn_over=drawn_over([row["group"] for row in evaluation.scores]),
        wer_low=low,
        wer_high=high,
        **{f.name: summary[f.name] for f in fields(Cell) if f.name in summary},
    )


def _mean(sets: Sequence[Counted], resampling: Resampling) -> tuple[float | None, ...]:
    """Return the mean rate of sets, and its bounds; those without references have no rate."""
    known = [counted for counted in sets if _total(counted).words]
    return _mean_rate(known), *_ends(mean_interval(known, resampling))


def _difference(
    pairs: Sequence[tuple[Counted, Counted]], resampling: Resampling
) -> tuple[float | None, ...]:
    """Return the difference of two such means, its bounds and p."""
    known = [pair for pair in pairs if all(_total(counted).words for counted in pair)]
    rate, other = (_mean_rate([pair[i] for pair in known]) for i in (0, 1))
    interval, p = mean_difference(known, resampling) or (None, None)
    return None if rate is None or other is None else rate - other, *_ends(interval), p


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _mean_rate(sets: Sequence[Counted]) -> float | None:
    rates = [_total(counted).wer for counted in sets]
    return sum(rates) / len(rates) if rates else None


def _total(counted: Counted) -> ErrorCounts:
    return sum(counted.values(), ErrorCounts())


def _worst(evaluation: Evaluation, folder: Path) -> list[WorstUtterance]:
    """Return the utterances with the most errors; of as many, those with the fewest words."""
    errors = {row["id"]: ErrorCounts(**row["errors"]) for row in evaluation.scores}
    wrong = [row for row in evaluation.scores if errors[row["id"]].errors]
    wrong.sort(key=lambda row: (-errors[row["id"]].errors, row["errors"]["words"], row["id"]))
    names = ("id", "start_s", "duration_s", "reference", "hypothesis", "errors")
    here, worst = evaluation.folder.resolve(), []
    for row in wrong[:N_WORST]:
        audio = audio_from(folder, audio_in(here, row["audio"]))
        worst.append(WorstUtterance(*evaluation.place, audio=audio, **{n: row[n] for n in names}))
    return worst


# In plain text


def _table(
    comparison: Comparison, set_: str | None, noise: str | None
) -> tuple[str, list[list[str]]]:
    """Return the title and the rows of a set; None: of the means over the sets."""
    cells = [cell for cell in comparison.cells if set_ in (None, cell.set)]
    title = ", ".join(filter(None, (set_ or "mean over the sets", noise)))
    if set_ is not None:
        cell = next(cell for cell in cells if cell.noise == noise)
        n_words = f"{cell.errors['words']} {cell.unit}s"
        title += f": {cell.n_utterances} utterances, {cell.drawn_over}, {n_words}"
    rate, baseline = _rate_name(cells, mixed="errors"), comparison.baseline
    differences = [] if baseline is None else [f"against {baseline}", "p"]
    head = ["", f"{rate} %", "S", "D", "I", "CER %", "RTFx", "M param.", *differences]
    return title, [head, *(_row(comparison, model, set_, noise) for model in comparison.models)]


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
    row = [model, *errors, f"{rtfx_of(cells):.1f}", f"{cells[0].n_parameters / 1e6:.1f}"]
    found = comparison.difference(model, set_, noise)
    if found is None:  # the baseline itself, or there is none
        return row if comparison.baseline is None else [*row, "", ""]
    sure = found.p is not None and found.p < SIGNIFICANT and not comparison.are_few(set_)
    p = "" if found.p is None else f"{found.p:.4f} {'*' if sure else ' '}"
    return [*row, _rate(found.difference, found.low, found.high, sign="+"), p]


def _rate_name(cells: Iterable[Cell], *, mixed: str) -> str:
    units = {cell.unit for cell in cells}
    return mixed if len(units) > 1 else "WER" if "word" in units else "CER"


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


# Drawn


def draw_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write :func:`errors_against_speed` as SVG and PNG; no file where no set has references."""
    if all(average.wer is None for average in comparison.averages):
        return []
    return write_figure(errors_against_speed(comparison), folder, "wer-rtfx")


def errors_against_speed(comparison: Comparison) -> Figure:
    """Draw error rates against speed, a panel for each noise."""
    panels = {n or "no noise added": speed_points(comparison, n) for n in comparison.noises}
    y = f"{comparison.rate_name}, %"
    return draw_panels(panels, x="RTFx", y=y, names=comparison.models, x_log=True, note=SPEED_NOTE)


def speed_points(comparison: Comparison, noise: str | None) -> list[Point]:
    """Return the error rate, in per cent, and the speed of every model that was timed.

    They are means over the sets, with the sets as their parts where there are several.
    """
    points = []
    for mean in comparison.averages:
        cells = comparison.cells_of(mean.model, noise)
        rtfx = rtfx_of(cells)
        if mean.noise == noise and mean.wer is not None and rtfx:
            parts = [(c.rtfx, 100 * c.wer) for c in cells if c.wer is not None and c.rtfx]
            bounds_ = in_percent(mean.low), in_percent(mean.high)
            several = parts if len(parts) > 1 else []
            points.append(Point(mean.model, rtfx, 100 * mean.wer, *bounds_, parts=several))
    return points
