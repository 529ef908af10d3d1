"""What a filter keeps: by language, source, speaker and length, and with how many errors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from distilwhisper.filtering.gates import is_kept, judge_all
from distilwhisper.filtering.measures import Flags, Measures
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.run.settings import build_settings
from distilwhisper.tables import percent, table_lines

LIMITS = (0.05, 0.10, 0.15, 0.20, 0.40, 0.80, 1.00)
"""The paper's sweep over lambda (arXiv:2311.00430, table 10), from strict to lax."""

LENGTHS_S = (1, 2, 5, 10, 15, 20, 30)
"""Edges of the bins of length; an utterance on an edge is in the bin below it."""

N_GROUPS_SHOWN = 20
"""Groups of one kind in a summary; there may be a speaker per utterance."""

UNKNOWN = "unknown"
_CURVE = tuple(percent / 100 for percent in range(101))


@dataclass(frozen=True)
class Kept:
    """What is kept of a part of a corpus."""

    n: int  # utterances
    hours: float  # of them; utterances of unknown length count nothing
    n_kept: int  # those that a student may learn from
    hours_kept: float  # of these
    # Errors of all labels that have a reference over its words; None without words
    wer: float | None
    wer_kept: float | None  # of those that are kept
    cer: float | None  # the same in characters, of scripts without spaces
    cer_kept: float | None  # of those that are kept

    @property
    def errors(self) -> tuple[float | None, float | None]:
        """Error rates of all labels and of those kept, in characters where those were counted."""
        return (self.wer, self.wer_kept) if self.cer is None else (self.cer, self.cer_kept)


@dataclass(frozen=True)
class Groups:
    """The groups of one kind."""

    n: int  # how many there are
    n_lost: int  # of which nothing is kept
    # The first ``N_GROUPS_SHOWN`` by number of utterances; lengths in their order
    largest: Mapping[str, Kept]


@dataclass(frozen=True)
class Retention:
    """What is kept, by groups and by limits."""

    groups: Mapping[str, Groups]  # by kind: language, source, speaker, length
    # What would be kept of the utterances that have a reference if all else stayed and every
    # language had this limit on its errors
    by_limit: Mapping[float, Kept]
    n_judged: int  # labels that have errors over a reference
    # Share of these whose errors are at most 0, 1, ... 100 % of the reference.
    error_curve: tuple[float, ...]

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Retention":
        """Return what ``dataclasses.asdict`` made a dict of, and JSON made of that."""
        return build_settings(cls, row, where="what a filter kept")

    @property
    def named_limits(self) -> dict[str, Kept]:
        """What each limit would keep, by the limit as people write it."""
        return {f"{100 * limit:g} %": kept for limit, kept in self.by_limit.items()}

    def __str__(self) -> str:
        tables = {}
        for kind, groups in self.groups.items():
            is_part = groups.n > N_GROUPS_SHOWN
            few = f", the largest {N_GROUPS_SHOWN} of {groups.n}" * is_part
            lost = f", {groups.n_lost} lost altogether" * bool(groups.n_lost)
            tables[f"by {kind}{few}{lost}"] = [_HEAD, *_rows(groups.largest)]
        if self.by_limit:
            tables["if the limit on errors were"] = [_HEAD, *_rows(self.named_limits)]
        lines = iter(table_lines(*tables.values(), indent="  "))
        return "\n".join(
            line for title, rows in tables.items() for line in (title, *(next(lines) for _ in rows))
        )


_HEAD = ("", "utterances", "kept", "hours", "kept", "error rate", "of kept")


def _rows(parts: Mapping[str, Kept]) -> Iterator[Sequence[str]]:
    for name, part in parts.items():
        yield (
            name[:24],
            str(part.n),
            percent(part.n_kept / part.n if part.n else None, none="-"),
            f"{part.hours:.2f}",
            percent(part.hours_kept / part.hours if part.hours else None, none="-"),
            *(percent(rate, none="-") for rate in part.errors),
        )


def retention(measures: Measures, settings: FilterSettings, kept: Flags) -> Retention:
    """Compare what is kept under the limits with what there is."""
    edges = [0, *LENGTHS_S]
    lengths = [f"{low} to {high} s" for low, high in pairwise(edges)]
    lengths = [UNKNOWN, *lengths, f"over {edges[-1]} s"]
    durations_s = measures["duration_s"]
    bins = 1 + np.searchsorted(np.array(LENGTHS_S, dtype=np.float64), durations_s)
    bins = np.where(np.isnan(durations_s), 0, bins)
    groups = {
        column: _groups(measures, kept, measures[column] + 1, [UNKNOWN, *measures.names[column]])
        for column in ("language", "source", "speaker")
    }
    groups["length"] = _groups(measures, kept, bins, lengths, in_order=True)
    rates = measures.rates
    rates = np.sort(rates[np.isfinite(rates) & ~measures["has_error"] & (measures["words"] > 0)])
    curve = np.searchsorted(rates, _CURVE, side="right") / max(len(rates), 1)
    return Retention(
        groups=groups,
        by_limit=_by_limit(measures, settings) if len(rates) else {},
        n_judged=len(rates),
        error_curve=tuple(curve.tolist()) if len(rates) else (),
    )


def _by_limit(measures: Measures, settings: FilterSettings) -> dict[float, Kept]:
    """Return what each limit would keep; all other reasons are found once."""
    lax = replace(settings, max_wer=max(LIMITS), max_wer_by_language=())
    kept = is_kept(judge_all(measures, lax))
    judged = measures["has_reference"].astype(np.intp) - 1  # -1 is in no group
    rates = np.where(measures["silent_reference"], 0, np.nan_to_num(measures.rates, nan=np.inf))
    return {limit: _sums(measures, kept & (rates <= limit), judged, 1)[0] for limit in LIMITS}


def _groups(
    measures: Measures,
    kept: Flags,
    groups: npt.NDArray[Any],
    names: Sequence[str],
    *,
    in_order: bool = False,
) -> Groups:
    sums = dict(zip(names, _sums(measures, kept, groups, len(names)), strict=True))
    present = {name: part for name, part in sums.items() if part.n}
    ranked = present if in_order else dict(sorted(present.items(), key=lambda item: -item[1].n))
    return Groups(
        n=len(present),
        n_lost=sum(not part.n_kept for part in present.values()),
        largest=dict(list(ranked.items())[:N_GROUPS_SHOWN]),
    )


def _sums(measures: Measures, kept: Flags, groups: npt.NDArray[Any], n: int) -> list[Kept]:
    """Add up every group's utterances; those of a negative group are left out."""
    inside = groups >= 0
    taught = kept & ~measures["silent_reference"]  # of the others no label is taught
    judged = measures.judged

    def total(flags: Flags, weights: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        flags = flags & inside
        chosen = None if weights is None else weights[flags]
        return np.bincount(groups[flags], weights=chosen, minlength=n)

    def rate(flags: Flags) -> list[float | None]:
        errors, words = total(flags, measures.errors), total(flags, measures["words"])
        return [float(e / w) if w else None for e, w in zip(errors, words, strict=True)]

    characters = measures["in_characters"]
    columns = [
        total(inside).tolist(),
        total(inside, measures.hours).tolist(),
        total(kept).tolist(),
        total(kept, measures.hours).tolist(),
        rate(judged & ~characters),
        rate(judged & ~characters & taught),
        rate(judged & characters),
        rate(judged & characters & taught),
    ]
    return [Kept(*values) for values in zip(*columns, strict=True)]
