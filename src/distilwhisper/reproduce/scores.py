"""What was heard against what was said, row by row; and arms made of rows, with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from distilwhisper.corpus.records import Utterance
from distilwhisper.evaluation.bootstrap import Interval, difference_interval, rate_interval
from distilwhisper.text.normalize import normalizer_for, uses_spaces
from distilwhisper.text.wer import ErrorCounts, character_errors, repeated_ngrams, word_errors

Rate = Literal["wer", "ser", "der", "ier"]


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


def score_text(
    arm: str, set_name: str, utterance: Utterance, text: str, *, problem: str | None = None
) -> Row:
    """Normalise both sides alike and count words, or characters where words are not spaced.

    Args:
        arm: who heard it.
        set_name: what the utterance is of.
        utterance: with its reference.
        text: the hypothesis.
        problem: why there is none.
    """
    language = utterance.language or "en"
    normalize = normalizer_for(language)
    reference, hypothesis = normalize(utterance.text or ""), normalize(text)
    count = word_errors if uses_spaces(language) else character_errors
    return Row(
        arm=arm,
        set=set_name,
        id=utterance.id,
        file=file_of(utterance),
        reference=reference,
        hypothesis=hypothesis,
        errors=count(reference, hypothesis),
        problem=problem,
    )


def file_of(utterance: Utterance) -> str:
    """Return the recording that an utterance is of: utterances of one are not independent."""
    return utterance.recording or utterance.audio


@dataclass(frozen=True)
class ArmSummary:
    """An arm over its rows: sums, rates and how far they can be trusted. Rates are fractions."""

    arm: str
    n_utterances: int
    errors: ErrorCounts
    wer: Interval | None  # of all words together; None: fewer than two files
    by_set: Mapping[str, ErrorCounts]
    repeated_5_grams: int  # over all hypotheses, set by set
    reference_5_grams: int  # the same of the references
    against: str | None = None  # the arm it is compared with
    difference: Interval | None = None  # of the error rates, over the rows that both have
    p: float | None = None  # of there being no difference, two-sided
    more: Mapping[str, Any] | None = None  # what else an experiment measures of the arm

    @property
    def shown_wer(self) -> Interval | float:
        """The error rate of all words together, with its interval where there is one."""
        return self.errors.wer if self.wer is None else self.wer

    def mean(self, rate: Rate = "wer", sets: Iterable[str] | None = None) -> float:
        """Return the mean of a rate over some sets, or all: as the paper averages."""
        return fmean(getattr(self.by_set[name], rate) for name in sets or self.by_set)

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds of the arm."""
        rates = {name: getattr(self.errors, name) for name in ("wer", "ser", "der", "ier")}
        return {
            **asdict(self),
            **(rates if self.errors.words else dict.fromkeys(rates)),
            "wer_interval": None if self.wer is None else asdict(self.wer),
            "mean_wer": self.mean() if self.errors.words else None,
            "by_set": {
                name: {**asdict(counts), "wer": counts.wer if counts.words else None}
                for name, counts in self.by_set.items()
            },
        }


def summarise(
    rows: Mapping[str, Sequence[Row]],
    *,
    against: Mapping[str, str],
    resamples: int,
    seed: int,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, ArmSummary]:
    """Sum up arms, and compare each with another over the utterances that both have.

    Args:
        rows: by arm.
        against: arm to the arm that it is compared with; arms left out are compared with none.
        resamples: how often the files are drawn.
        seed: of the draws.
        more: by arm, what else is known of it.
    """
    found = {}
    for arm, of_arm in rows.items():
        by_set = {name: _errors(r for r in of_arm if r.set == name) for name in _sets(of_arm)}
        other = against.get(arm)
        difference, p = (
            (None, None)
            if other is None or other == arm
            else _difference(of_arm, rows[other], resamples=resamples, seed=seed)
        )
        found[arm] = ArmSummary(
            arm=arm,
            n_utterances=len(of_arm),
            errors=_errors(of_arm),
            wer=rate_interval(
                [r.errors.errors for r in of_arm],
                [r.errors.words for r in of_arm],
                [r.file for r in of_arm],
                n_resamples=resamples,
                seed=seed,
            ),
            by_set=by_set,
            repeated_5_grams=_repeated(of_arm, "hypothesis"),
            reference_5_grams=_repeated(of_arm, "reference"),
            against=None if other == arm else other,
            difference=difference,
            p=p,
            more=(more or {}).get(arm),
        )
    return found


def _sets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.set for row in rows))


def _errors(rows: Any) -> ErrorCounts:
    return sum((row.errors for row in rows), ErrorCounts())


def _repeated(rows: Sequence[Row], side: str) -> int:
    """Count a set's repeated 5-grams, and add up the sets."""
    return sum(
        repeated_ngrams(getattr(row, side) for row in rows if row.set == name)
        for name in _sets(rows)
    )


def _difference(
    ours: Sequence[Row], theirs: Sequence[Row], *, resamples: int, seed: int
) -> tuple[Interval | None, float | None]:
    known = {(row.set, row.id): row for row in theirs}
    pairs = [(row, known[row.set, row.id]) for row in ours if (row.set, row.id) in known]
    if not pairs:
        return None, None
    return difference_interval(
        [ours.errors.errors for ours, _ in pairs],
        [theirs.errors.errors for _, theirs in pairs],
        [ours.errors.words for ours, _ in pairs],
        [ours.file for ours, _ in pairs],
        n_resamples=resamples,
        seed=seed,
    )
