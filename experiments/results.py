"""What arms made of the sets: rows, and their sums with intervals and differences."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, TypeVar, get_args

from distilwhisper.corpus.records import Utterance
from distilwhisper.evaluation.bootstrap import (
    FEW_RECORDINGS,
    Counted,
    Interval,
    Resampling,
    by_recording,
    mean_difference,
    mean_interval,
)
from distilwhisper.evaluation.comparison import Evaluation
from distilwhisper.evaluation.scoring import (
    OVER,
    are_spaced,
    count_errors,
    drawn_over,
    drawn_sentence,
)
from distilwhisper.text.wer import ErrorCounts, repeated_ngrams

Rate = Literal["wer", "ser", "der", "ier"]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Row:
    """One utterance, and the text that one arm made of it."""

    arm: str
    set: str
    id: str
    file: str  # what intervals are drawn over: the recording that the utterance is of
    reference: str  # normalised, as the hypothesis
    hypothesis: str
    errors: ErrorCounts
    problem: str | None = None  # why it could not be read; then the hypothesis is empty

    @classmethod
    def of(
        cls, arm: str, set_: str, scored: Mapping[str, Any], problem: str | None = None
    ) -> "Row":
        """Return a row of scores.jsonl as one of ours."""
        return cls(
            arm, set_, scored["id"], scored["group"], scored["reference"], scored["hypothesis"],
            ErrorCounts(**scored["errors"]), problem,
        )  # fmt: skip


def rows_of(evaluation: Evaluation) -> list[Row]:
    """Return what an arm, which the evaluation's model is called after, made of a set."""
    failed = evaluation.summary["failed"]
    return [
        Row.of(evaluation.model, evaluation.set, scored, failed.get(scored["id"]))
        for scored in evaluation.scores
    ]


def score_texts(arm: str, set_: str, texts: Sequence[tuple[Utterance, str]]) -> list[Row]:
    """Score a set as evaluation does: in words, or in characters if any of it has no spaces.

    Args:
        arm: whose hypotheses they are.
        set_: what the utterances are of.
        texts: utterances with their references, and the hypotheses.
    """
    spaced = are_spaced(utterance for utterance, _ in texts)
    return [
        Row.of(arm, set_, count_errors(utterance, text, spaced=spaced)) for utterance, text in texts
    ]


@dataclass(frozen=True)
class Result:
    """An arm over its rows. Rates are fractions, and means over the sets, as in the paper."""

    arm: str
    rows: Sequence[Row]
    interval: Interval | None = None  # None where a set has fewer than two files
    against: str | None = None  # the arm it is compared with
    difference: Interval | None = None  # of the mean error rates
    p: float | None = None  # of there being no difference, two-sided
    more: Mapping[str, Any] | None = None  # what else an experiment measures of the arm

    @cached_property
    def sets(self) -> Mapping[str, Sequence[Row]]:
        """The rows by set."""
        names = dict.fromkeys(row.set for row in self.rows)
        return {name: [row for row in self.rows if row.set == name] for name in names}

    @cached_property
    def errors(self) -> Mapping[str, ErrorCounts]:
        """Sums by set."""
        return {name: total(rows) for name, rows in self.sets.items()}

    def mean(self, rate: Rate = "wer", sets: Iterable[str] | None = None) -> float:
        """Return the mean of a rate over some sets, or all."""
        return fmean(getattr(self.errors[name], rate) for name in sets or self.sets)

    @property
    def wer(self) -> Interval | float:
        """The mean error rate, with its interval where there is one."""
        return self.mean() if self.interval is None else self.interval

    @property
    def repeated_5_grams(self) -> int:
        """Repetitions in the hypotheses, set by set."""
        return sum(repeated_ngrams(row.hypothesis for row in rows) for rows in self.sets.values())

    @property
    def reference_5_grams(self) -> int:
        """Repetitions in the references, set by set."""
        return sum(repeated_ngrams(row.reference for row in rows) for rows in self.sets.values())

    @cached_property
    def counted(self) -> Mapping[str, Counted]:
        """What intervals are drawn of, by set."""
        return {
            name: by_recording([(row.id, row.file, row.errors) for row in rows])
            for name, rows in self.sets.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds of the arm."""
        errors = total(self.rows)
        return {
            "arm": self.arm,
            "n_utterances": len(self.rows),
            "errors": asdict(errors),
            "by_set": {name: {**asdict(e), **_rates(e)} for name, e in self.errors.items()},
            "mean_wer": self.interval and asdict(self.interval),
            "repeated_5_grams": self.repeated_5_grams,
            "reference_5_grams": self.reference_5_grams,
            "drawn_over": {n: drawn_over([r.file for r in rows]) for n, rows in self.sets.items()},
            "n_drawn": {name: len(counted) for name, counted in self.counted.items()},
            "against": self.against,
            "difference": self.difference and asdict(self.difference),
            "p": self.p,
            "more": self.more,
            **_rates(errors),
        }


def total(rows: Iterable[Row]) -> ErrorCounts:
    """Return the errors of all rows together."""
    return sum((row.errors for row in rows), ErrorCounts())


def _rates(errors: ErrorCounts) -> dict[str, float | None]:
    return {rate: getattr(errors, rate) if errors.words else None for rate in get_args(Rate)}


def summarise(
    rows: Mapping[Key, Sequence[Row]],
    resampling: Resampling,
    *,
    against: Callable[[Key], Key] | None = None,
    more: Mapping[Key, Mapping[str, Any]] | None = None,
) -> dict[Key, Result]:
    """Sum up arms, and compare each with another on the same draws of the same utterances.

    Args:
        rows: of each arm, under any key; one at least.
        resampling: how the files are drawn.
        against: key of an arm to that of the one that it is compared with; its own compares it
            with none.
        more: what else is known of some.

    Raises:
        ValueError: an arm has no rows, or others than the one that it is compared with.
    """
    if not all(rows.values()):
        raise ValueError("the sets must hold references to score, found an arm without any")
    alone = {key: Result(of_arm[0].arm, of_arm) for key, of_arm in rows.items()}
    results = {}
    for key, one in alone.items():
        other = one if against is None else alone[against(key)]
        compared = None
        if other is not one:
            pairs = [(counted, other.counted[name]) for name, counted in one.counted.items()]
            compared = mean_difference(pairs, resampling)
        difference, p = compared or (None, None)
        results[key] = Result(
            one.arm,
            one.rows,
            interval=mean_interval(list(one.counted.values()), resampling),
            against=None if other is one else other.arm,
            difference=difference,
            p=p,
            more=(more or {}).get(key),
        )
    return results


_INTERVALS = (
    "Rates are means over the sets, as in the paper; in brackets 95 % intervals, paired bootstrap "
    f"{OVER}. p is two-sided."
)


def interval_notes(results: Iterable[Result]) -> list[str]:
    """Return what a reader must know of a table's intervals, and of its p."""
    counted: dict[str, list[Counted]] = {}
    over: dict[str, str] = {}
    for result in results:
        for name, rows in result.sets.items():
            over.setdefault(name, drawn_over([row.file for row in rows]))
            counted.setdefault(name, []).append(result.counted[name])
    few = [n for n, of_set in counted.items() if any(_are_few(each) for each in of_set)]
    notes = [_INTERVALS, drawn_sentence(over)]
    if few:
        notes.append(
            f"Of {', '.join(few)} fewer than {FEW_RECORDINGS} are drawn: bounds lie too close "
            "together and p is too small."
        )
    return notes


def _are_few(counted: Counted) -> bool:
    return 0 < len(counted) < FEW_RECORDINGS
