"""What was heard against what was said, row by row; and arms made of rows, with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal, get_args

from distilwhisper.corpus.records import Utterance
from distilwhisper.evaluation.bootstrap import (
    FEW_RECORDINGS,
    Counted,
    Interval,
    Resampling,
    mean_difference,
    mean_interval,
)
from distilwhisper.evaluation.scoring import (
    OVER,
    are_spaced,
    count_errors,
    drawn_over,
    drawn_sentence,
    group_of,
)
from distilwhisper.text.wer import ErrorCounts, repeated_ngrams

Rate = Literal["wer", "ser", "der", "ier"]

_INTERVALS = (
    "Rates are means over the sets, as in the paper; in brackets 95 % intervals, paired bootstrap "
    f"{OVER}. p is two-sided."
)


@dataclass(frozen=True)
class Row:
    """One utterance, as one arm heard it."""

    arm: str
    set: str
    id: str
    file: str  # what intervals are drawn over: the recording that the utterance is of
    reference: str  # normalised, as the hypothesis
    hypothesis: str
    errors: ErrorCounts
    problem: str | None = None  # why it could not be read; then nothing was heard

    def to_dict(self) -> dict[str, Any]:
        """Return a line of rows.jsonl."""
        return asdict(self)


def score_texts(arm: str, set_name: str, said: Sequence[tuple[Utterance, str]]) -> list[Row]:
    """Score a set as evaluation does: in words, or in characters if any of it has no spaces.

    Args:
        arm: who heard it.
        set_name: what the utterances are of.
        said: utterances with their references, and the hypotheses.
    """
    spaced = are_spaced(utterance for utterance, _ in said)
    return [score_text(arm, set_name, utterance, text, spaced=spaced) for utterance, text in said]


def score_text(arm: str, set_name: str, utterance: Utterance, text: str, *, spaced: bool) -> Row:
    """Normalise both sides alike and count words, or characters.

    Args:
        arm: who heard it.
        set_name: what the utterance is of.
        utterance: with its reference.
        text: the hypothesis.
        spaced: count words.
    """
    scored = count_errors(utterance, text, spaced=spaced)
    return Row(
        arm=arm,
        set=set_name,
        id=utterance.id,
        file=group_of(utterance),
        reference=scored["reference"],
        hypothesis=scored["hypothesis"],
        errors=ErrorCounts(**scored["errors"]),
    )


@dataclass(frozen=True)
class ArmSummary:
    """An arm over its rows: sums, rates and how far they can be trusted. Rates are fractions."""

    arm: str
    n_utterances: int
    errors: ErrorCounts  # of all sets together
    by_set: Mapping[str, ErrorCounts]
    mean_wer: Interval | None  # over the sets; None where one has fewer than two files
    repeated_5_grams: int  # in the hypotheses, set by set
    reference_5_grams: int  # in the references
    drawn_over: Mapping[str, str]  # by set, what intervals are drawn over, such as "35 files"
    n_drawn: Mapping[str, int]  # by set, how many of them
    against: str | None = None  # the arm it is compared with
    difference: Interval | None = None  # of the mean error rates, over the rows that both have
    p: float | None = None  # of there being no difference, two-sided
    more: Mapping[str, Any] | None = None  # what else an experiment measures of the arm

    def mean(self, rate: Rate = "wer", sets: Iterable[str] | None = None) -> float:
        """Return the mean of a rate over some sets, or all: as the paper averages."""
        return fmean(getattr(self.by_set[name], rate) for name in sets or self.by_set)

    @property
    def shown_wer(self) -> Interval | float:
        """The mean of the sets' error rates, with its interval where there is one."""
        return self.mean() if self.mean_wer is None else self.mean_wer

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds of the arm."""
        by_set = {
            name: {**asdict(counts), **_rates(counts)} for name, counts in self.by_set.items()
        }
        return {**asdict(self), **_rates(self.errors), "by_set": by_set}


def summarise(
    rows: Mapping[str, Sequence[Row]],
    *,
    against: Mapping[str, str],
    resampling: Resampling,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, ArmSummary]:
    """Sum up arms, and compare each with another over the utterances that both have.

    Args:
        rows: by arm.
        against: arm to the arm that it is compared with; arms left out are compared with none.
        resampling: how the files are drawn.
        more: by arm, what else is known of it.
    """
    found = {}
    for arm, of_arm in rows.items():
        by_set = _by_set(of_arm)
        counted = {name: _counted(of_set) for name, of_set in by_set.items()}
        other = against.get(arm, arm)
        compared = None if other == arm else _difference(of_arm, rows[other], resampling)
        found[arm] = ArmSummary(
            arm=arm,
            n_utterances=len(of_arm),
            errors=_total(of_arm),
            by_set={name: _total(of_set) for name, of_set in by_set.items()},
            mean_wer=mean_interval(list(counted.values()), resampling),
            repeated_5_grams=sum(repeated_ngrams(r.hypothesis for r in s) for s in by_set.values()),
            reference_5_grams=sum(repeated_ngrams(r.reference for r in s) for s in by_set.values()),
            drawn_over={name: drawn_over([r.file for r in s]) for name, s in by_set.items()},
            n_drawn={name: len(set(of_set.groups)) for name, of_set in counted.items()},
            against=None if other == arm else other,
            difference=compared[0] if compared else None,
            p=compared[1] if compared else None,
            more=(more or {}).get(arm),
        )
    return found


def interval_notes(found: Mapping[str, ArmSummary]) -> list[str]:
    """Return what a reader must know of a table's intervals, and of its p."""
    over: dict[str, str] = {}
    for arm in found.values():  # of the first arm that has a set
        over = {**arm.drawn_over, **over}
    few = [n for n in over if any(0 < a.n_drawn.get(n, 0) < FEW_RECORDINGS for a in found.values())]
    notes = [_INTERVALS, drawn_sentence(over)]
    if few:
        notes.append(
            f"Of {', '.join(few)} fewer than {FEW_RECORDINGS} are drawn: bounds lie too close "
            "together and p is too small."
        )
    return notes


def _by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {
        name: [row for row in rows if row.set == name]
        for name in dict.fromkeys(r.set for r in rows)
    }


def _total(rows: Iterable[Row]) -> ErrorCounts:
    return sum((row.errors for row in rows), ErrorCounts())


def _rates(counts: ErrorCounts) -> dict[str, float | None]:
    return {rate: getattr(counts, rate) if counts.words else None for rate in get_args(Rate)}


def _counted(rows: Sequence[Row]) -> Counted:
    return Counted.of(
        [row.errors for row in rows],
        ids=[row.id for row in rows],
        groups=[row.file for row in rows],
    )


def _difference(
    ours: Sequence[Row], theirs: Sequence[Row], resampling: Resampling
) -> tuple[Interval, float] | None:
    known = {(row.set, row.id): row for row in theirs}
    pairs = [
        [(row, known[name, row.id]) for row in of_set if (name, row.id) in known]
        for name, of_set in _by_set(ours).items()
    ]
    return mean_difference(
        [
            (_counted([one for one, _ in of_set]), _counted([other for _, other in of_set]))
            for of_set in pairs
            if of_set
        ],
        resampling,
    )
