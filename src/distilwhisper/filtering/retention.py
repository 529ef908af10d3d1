"""What a filter keeps: by language, source, speaker and length, and with how many errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from distilwhisper.filtering.gates import is_kept, judge_all
from distilwhisper.filtering.measures import Flags, Measures
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.tables import percent, titled_tables

# The paper's sweep over lambda (arXiv:2311.00430, table 10), from strict to lax.
LIMITS = (0.05, 0.10, 0.15, 0.20, 0.40, 0.80, 1.00)
LENGTHS_S = (1, 2, 5, 10, 15, 20, 30)  # edges of bins; what is on an edge is in the bin below it
N_GROUPS_SHOWN = 20  # of one kind in a summary; there may be a speaker per utterance
UNKNOWN = "unknown"
_CURVE = tuple(percent / 100 for percent in range(101))
_HEAD = ("", "utterances", "kept", "hours", "kept", "error rate", "of kept")


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

    @property
    def named_limits(self) -> dict[str, Kept]:
        """What each limit would keep, by the limit as people write it."""
        return {f"{100 * limit:g} %": kept for limit, kept in self.by_limit.items()}

    def __str__(self) -> str:
        parts = {}
        for kind, groups in self.groups.items():
            is_part = groups.n > N_GROUPS_SHOWN
            few = f", the largest {N_GROUPS_SHOWN} of {groups.n}" * is_part
            lost = f", {groups.n_lost} lost altogether" * bool(groups.n_lost)
            parts[f"by {kind}{few}{lost}"] = groups.largest
        if self.by_limit:
            parts["if the limit on errors were"] = self.named_limits
        tables = {
            title: [_HEAD, *(_row(name, kept) for name, kept in of.items())]
            for title, of in parts.items()
        }
        return "\n".join(titled_tables(tables))


def _row(name: str, part: Kept) -> Sequence[str]:
    return (
        name[:24],
        str(part.n),
        percent(part.n_kept / part.n if part.n else None, none="-"),
        f"{part.hours:.2f}",
        percent(part.hours_kept / part.hours if part.hours else None, none="-"),
        *(percent(rate, none="-") for rate in part.errors),
    )


def retention(measures: Measures, settings: FilterSettings, kept: Flags) -> Retention:
    """Compare what is kept under the limits with what there is."""
    parts = {}
    for column in ("language", "source", "speaker"):
        names = [UNKNOWN, *measures.names[column]]
        sums = _sums(measures, kept, measures[column] + 1, names)
        parts[column] = dict(sorted(sums.items(), key=lambda item: -item[1].n))
    bounds = pairwise([0, *LENGTHS_S])
    lengths = [UNKNOWN, *(f"{low} to {high} s" for low, high in bounds), f"over {LENGTHS_S[-1]} s"]
    durations_s = measures["duration_s"]
    bins = 1 + np.searchsorted(np.array(LENGTHS_S, dtype=np.float64), durations_s)
    bins = np.where(np.isnan(durations_s), 0, bins)
    parts["length"] = _sums(measures, kept, bins, lengths)
    groups = {
        kind: Groups(
            n=len(of),
            n_lost=sum(not part.n_kept for part in of.values()),
            largest=dict(islice(of.items(), N_GROUPS_SHOWN)),
        )
        for kind, of in parts.items()
    }
    rates = measures.rates
    rates = np.sort(rates[np.isfinite(rates) & ~measures["has_error"] & (measures["words"] > 0)])
    if not len(rates):
        return Retention(groups, by_limit={}, n_judged=0, error_curve=())
    curve = np.searchsorted(rates, _CURVE, side="right") / len(rates)
    return Retention(groups, _by_limit(measures, settings), len(rates), tuple(curve.tolist()))


def _by_limit(measures: Measures, settings: FilterSettings) -> dict[float, Kept]:
    """Return what each limit would keep."""
    judged = measures["has_reference"].astype(np.intp) - 1  # -1 is in no group
    by_limit = {}
    for limit in LIMITS:
        codes = judge_all(measures, replace(settings, max_wer=limit, max_wer_by_language=()))
        by_limit[limit] = _sums(measures, is_kept(codes), judged, ["all"])["all"]
    return by_limit


def _sums(
    measures: Measures, kept: Flags, groups: npt.NDArray[Any], names: Sequence[str]
) -> dict[str, Kept]:
    """Add up the utterances of each group that has any, by its name; of group -1 none."""
    inside = groups >= 0
    taught = kept & ~measures["silent_reference"]  # of the others no label is taught

    def total(flags: Flags, weights: npt.NDArray[Any] | None = None) -> list[Any]:
        flags = flags & inside
        chosen = None if weights is None else weights[flags]
        return np.bincount(groups[flags], weights=chosen, minlength=len(names)).tolist()

    columns = []
    for flags in (inside, kept):
        columns += [total(flags), total(flags, measures.hours)]
    characters = measures["in_characters"]
    for of_unit in (measures.judged & ~characters, measures.judged & characters):
        for flags in (of_unit, of_unit & taught):
            errors, words = total(flags, measures.errors), total(flags, measures["words"])
            columns.append([e / w if w else None for e, w in zip(errors, words, strict=True)])
    rows = zip(names, *columns, strict=True)
    return {name: Kept(*row) for name, *row in rows if row[0]}
