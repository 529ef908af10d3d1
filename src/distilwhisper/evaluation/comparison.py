"""Several models on several sets, read from their evaluation folders and put side by side."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
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
    mean_difference,
    mean_interval,
)
from distilwhisper.evaluation.scoring import OVER, drawn_over
from distilwhisper.tables import bounds, percent, table_lines
from distilwhisper.text.wer import ErrorCounts

N_WORST = 10  # utterances of one model on one set
SIGNIFICANT = 0.05  # p-values below this are called so


class NotComparable(DistilwhisperError, ValueError):
    """Evaluations are of different utterances, or count in different units."""


@dataclass(frozen=True)
class Evaluation:
    """One model on one set, with one kind of noise or none, and the folder of its results."""

    model: str
    set: str
    noise: str | None
    folder: Path

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.model, self.set, self.noise)))

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
        """Errors and words of every utterance, with its recording."""
        return Counted.of(
            [ErrorCounts(**row["errors"]) for row in self.scores],
            ids=[row["id"] for row in self.scores],
            groups=[row["group"] for row in self.scores],
        )


@dataclass(frozen=True)
class Cell:
    """What one model did on one set; rates are fractions, and None without references."""

    model: str
    set: str
    noise: str | None
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
class WorstUtterance:
    """An utterance in which a model made many errors."""

    model: str
    set: str
    noise: str | None
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
        sections = {
            _title(self, set_, noise): [
                _head(self, set_),
                *(_row(self, model, set_, noise) for model in self.models),
            ]
            for noise in self.noises
            for set_ in parts
        }
        lines = iter(table_lines(*sections.values(), indent="  "))
        tables = ([title, *(next(lines) for _ in rows), ""] for title, rows in sections.items())
        return "\n".join([*(line for table in tables for line in table), *_notes(self)])

    @property
    def failed(self) -> dict[str, str]:
        """Every utterance that could not be read, and why, by model, set, noise and id."""
        return {
            ", ".join(filter(None, (cell.model, cell.set, cell.noise, id_))): problem
            for cell in self.cells
            for id_, problem in cell.failed.items()
        }

    @property
    def first_noise(self) -> str | None:
        """What the models are judged by first: the sound as it is, or else the first noise."""
        return None if None in self.noises else self.noises[0]

    @property
    def rate_name(self) -> str:
        """What error rates are called."""
        units = {cell.unit for cell in self.cells}
        return "error rate" if len(units) > 1 else "WER" if "word" in units else "CER"

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
    n_different = len({(e.model, e.set, e.noise) for e in evaluations})
    if not n_wanted == n_different == len(evaluations):
        raise ValueError(
            f"every model must be there once on every set with every noise, {n_wanted} "
            f"evaluations, found {len(evaluations)}, of which {n_different} differ"
        )
    for set_ in sets:
        first, *others = (e for e in evaluations if e.set == set_)
        for other in others:
            _check_same(first, other)
    if baseline is not None and baseline not in models:
        raise ValueError(f'the baseline must be one of {", ".join(models)}, found "{baseline}"')
    ordered = sorted(evaluations, key=lambda e: sets.index(e.set))
    return Comparison(
        models=models,
        baseline=baseline,
        sets=sets,
        noises=noises,
        cells=tuple(_cell(evaluation, folder, resampling) for evaluation in evaluations),
        averages=tuple(
            Average(model, noise, _mean_rate(counts), *_ends(mean_interval(counts, resampling)))
            for noise in noises
            for model in models
            for counts in [_counts(ordered, model, noise)]
        ),
        differences=tuple(
            _difference(ordered, model, baseline, set_, noise, resampling)
            for noise in noises
            for set_ in (*sets, None)
            for model in models
            if baseline is not None and model != baseline
        ),
        worst=tuple(row for evaluation in evaluations for row in _worst(evaluation, folder)),
        resampling=resampling,
    )


def _counts(
    evaluations: Sequence[Evaluation], model: str, noise: str | None, set_: str | None = None
) -> list[Counted]:
    """Return what was counted in each set, or in one; sets without references have no rate."""
    here = (e for e in evaluations if (e.model, e.noise) == (model, noise))
    counts = [e.counted for e in here if set_ in (None, e.set)]
    return [each for each in counts if sum(each.words)]


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
    summary, counts = evaluation.summary, evaluation.counted
    low, high = _ends(mean_interval([counts], resampling))
    of_summary = {f.name: summary[f.name] for f in fields(Cell) if f.name in summary}
    return Cell(
        model=evaluation.model,
        set=evaluation.set,
        noise=evaluation.noise,
        folder=os.path.relpath(evaluation.folder, folder),
        n_groups=len(set(counts.groups)),
        drawn_over=drawn_over([row["group"] for row in evaluation.scores]),
        wer_low=low,
        wer_high=high,
        **of_summary,
    )


def _difference(
    evaluations: Sequence[Evaluation],
    model: str,
    against: str,
    set_: str | None,
    noise: str | None,
    resampling: Resampling,
) -> Difference:
    counts, baseline = (_counts(evaluations, name, noise, set_) for name in (model, against))
    rate, other = _mean_rate(counts), _mean_rate(baseline)
    pairs = list(zip(counts, baseline, strict=True))
    interval, p = mean_difference(pairs, resampling) or (None, None)
    difference = None if rate is None or other is None else rate - other
    return Difference(model, against, set_, noise, difference, *_ends(interval), p)


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _mean_rate(sets: Sequence[Counted]) -> float | None:
    rates = [sum(counts.errors) / sum(counts.words) for counts in sets]
    return sum(rates) / len(rates) if rates else None


def _worst(evaluation: Evaluation, folder: Path) -> list[WorstUtterance]:
    """Return the utterances with the most errors; of as many, those with the fewest words."""
    counts = {row["id"]: ErrorCounts(**row["errors"]) for row in evaluation.scores}
    ranked = sorted(
        (row for row in evaluation.scores if counts[row["id"]].errors),
        key=lambda row: (-counts[row["id"]].errors, counts[row["id"]].words, row["id"]),
    )
    names = ("id", "start_s", "duration_s", "reference", "hypothesis", "errors")
    return [
        WorstUtterance(
            model=evaluation.model,
            set=evaluation.set,
            noise=evaluation.noise,
            audio=audio_from(folder, audio_in(evaluation.folder.resolve(), row["audio"])),
            **{name: row[name] for name in names},
        )
        for row in ranked[:N_WORST]
    ]


# In plain text


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
    row = [model, *errors, f"{rtfx_of(cells):.1f}", f"{cells[0].n_parameters / 1e6:.1f}"]
    if comparison.baseline is None:
        return row
    found = comparison.difference(model, set_, noise)
    if found is None:  # the baseline itself
        return [*row, "", ""]
    sure = found.p is not None and found.p < SIGNIFICANT and not comparison.are_few(set_)
    p = "" if found.p is None else f"{found.p:.4f} {'*' if sure else ' '}"
    return [*row, _rate(found.difference, found.low, found.high, sign="+"), p]


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
