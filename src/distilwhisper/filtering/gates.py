"""Measures to verdicts: the limits, and the reasons for which a label is not trained on.

How well the gates that need no reference find bad labels is measured on labels with one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from distilwhisper.filtering.measures import Flags, Floats, Measures
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.languages import language_code
from distilwhisper.tables import percent, titled_tables

Codes = npt.NDArray[np.uint8]  # places in REASONS


@dataclass(frozen=True)
class Gate:
    """A limit on one measure that needs no reference."""

    setting: str  # its name in the settings, which begins with max or min
    reason: str  # of labels beyond it
    # What is measured; nan where it is unknown, which is beyond no limit
    values: Callable[[Measures], Floats]
    beside_reference: bool = False  # whether it holds for labels with a reference too

    @property
    def is_maximum(self) -> bool:
        """Whether values above the limit are bad, and not those below."""
        return self.setting.startswith("max_")

    def beyond(self, values: Floats, limit: float | None) -> Flags:
        """Return whether each value is beyond a limit; one at its limit is not, nor any at None."""
        if limit is None:
            return np.zeros(len(values), dtype=bool)
        return values > limit if self.is_maximum else values < limit

    def drops(self, measures: Measures, settings: FilterSettings) -> Flags:
        """Return whether each label is beyond the limit of the settings."""
        beyond = self.beyond(self.values(measures), getattr(settings, self.setting))
        return beyond if self.beside_reference else beyond & ~measures["has_reference"]


def _logprob(measures: Measures) -> Floats:
    """Return log-probabilities, of which one that is no number is below any limit."""
    return np.nan_to_num(measures["avg_logprob"], nan=-np.inf, neginf=-np.inf)


GATES = (
    Gate(
        "max_compression_ratio",
        "compression_ratio_above_limit",
        itemgetter("compression_ratio"),
        beside_reference=True,
    ),
    Gate("min_avg_logprob", "log_probability_below_limit", _logprob),
    Gate("max_no_speech_prob", "no_speech_probability_above_limit", itemgetter("no_speech_prob")),
    Gate("max_repetition", "repetition_above_limit", lambda m: m.per_word("looped")),
    Gate(
        "max_other_language_prob", "other_language_above_limit", itemgetter("other_language_prob")
    ),
    Gate("max_disagreement", "disagreement_above_limit", lambda m: m.per_word("second_errors")),
)


def above_wer(measures: Measures, settings: FilterSettings) -> Flags:
    """Return whether each label has more errors than its language's limit allows."""
    own = {language_code(name): limit for name, limit in settings.max_wer_by_language}
    # Place -1, the last one, is for a language that is unknown.
    names = [*measures.names["language"], ""]
    limits = np.array([own.get(name, settings.max_wer) for name in names])
    return measures.rates > limits[measures["language"]]


# When each reason holds; the first that does is the verdict's. A student learns the empty text of
# silence that is kept, whatever its label; a label that is cut off ran into the token limit; bad
# ones are written in capitals throughout.
_RULES: dict[str, Callable[[Measures, FilterSettings], Flags]] = {
    "unlabelled": lambda m, _: ~m["has_label"],
    "label_failed": lambda m, _: m["has_error"],
    "kept_silence": lambda m, settings: m["silent_reference"] & settings.keep_silence,
    "cut_off": lambda m, _: ~m["finished"],
    "empty_reference": lambda m, _: m["empty_reference"],
    "empty_pseudo_label": lambda m, _: m["empty_label"],
    "all_capitals": lambda m, _: m["all_capitals"],
    "wer_above_limit": lambda m, settings: above_wer(m, settings) & ~m["in_characters"],
    "cer_above_limit": above_wer,
    **{gate.reason: gate.drops for gate in GATES},
    "kept_without_reference": lambda m, _: ~m["has_reference"],
    "kept": lambda m, _: m["has_reference"],
}
REASONS = sorted(_RULES, key=lambda reason: reason.startswith("kept"))  # those for a drop first


def judge_all(measures: Measures, settings: FilterSettings) -> Codes:
    """Return the first reason that holds for each label, as its place in ``REASONS``."""
    codes = np.zeros(len(measures.rows), dtype=np.uint8)
    for reason, holds in reversed(_RULES.items()):
        codes[holds(measures, settings)] = REASONS.index(reason)
    return codes


def is_kept(codes: Codes) -> Flags:
    """Return whether a student may learn from each label."""
    return codes >= REASONS.index("kept_silence")


# Calibration

GOOD_KEPT = 0.9  # share of the good labels that a limit must keep to be suggested
_HEAD = ("precision", "recall", "good kept")


@dataclass(frozen=True)
class Score:
    """What a gate does at one limit."""

    limit: float | None  # at which a label is still kept; None for several gates together
    precision: float | None  # share of the labels that it drops that are bad; None if it drops none
    recall: float  # share of the bad labels that it drops
    good_kept: float  # share of the good labels that it keeps


@dataclass(frozen=True)
class GateScore:
    """One gate, or all of them together."""

    gate: str  # name of its setting, or "all"
    n_known: int  # labels that its measure is known of
    at_limit: Score | None  # at the limit that is set; None where none is
    # At the strictest limit that keeps ``GOOD_KEPT`` of the good labels; None where that
    # catches no more bad ones than chance would
    suggested: Score | None


@dataclass(frozen=True)
class Calibration:
    """All gates against the word error rate.

    Limits are suggested by one half of the labels that have a reference, and all scores are those
    of the other half. A digest of its id decides which half a label is in.
    """

    n_good: int  # labels of the scored half whose errors are within the limit
    n_bad: int  # those whose errors are not
    # Those whose measure is known of any of these labels, and then all together
    gates: tuple[GateScore, ...]
    n_made_from: int  # labels of the half that limits are suggested by

    def __str__(self) -> str:
        n = self.n_good + self.n_bad
        head = ["", "as set: limit", *_HEAD, "suggested:", *_HEAD]
        rows = [[g.gate, *_cells(g.at_limit), *_cells(g.suggested)] for g in self.gates]
        title = (
            f"gates without a reference, against the errors of {n} labels that have one, "
            f"{self.n_bad} of them bad ({percent(self.n_bad / n)});\n"
            f"  limits are suggested by {self.n_made_from} others"
        )
        return "\n".join(titled_tables({title: [head, *rows]}))


def _cells(score: Score | None) -> list[str]:
    if score is None:
        return ["-"] * 4
    limit = "" if score.limit is None else f"{score.limit:g}"
    shares = (score.precision, score.recall, score.good_kept)
    return [limit, *(percent(share, none="-") for share in shares)]


def calibrate(measures: Measures, settings: FilterSettings) -> Calibration | None:
    """Compare each gate's verdict with that of the word error rate.

    Labels that are dropped in any case (failed, cut off, empty or in capitals) are not compared.
    None if one of the halves has no good label or no bad one.
    """
    rows = measures.rows
    fixed = ~rows["finished"] | rows["empty_reference"] | rows["empty_label"] | rows["all_capitals"]
    compared = measures.judged & ~fixed
    above = above_wer(measures, settings)
    fitting, scoring = compared & ~rows["held_out"], compared & rows["held_out"]
    if any(above[half].all() or not above[half].any() for half in (fitting, scoring)):
        return None
    bad = above[scoring]
    scores: list[GateScore] = []
    dropped = np.zeros((2, len(bad)), dtype=bool)  # under the limits as set, and as suggested
    for gate in GATES:
        of_fitting, values = (gate.values(measures)[half] for half in (fitting, scoring))
        n_known = int(np.count_nonzero(~np.isnan(values)))
        if n_known:
            limits = getattr(settings, gate.setting), suggest(gate, of_fitting, above[fitting])
            dropped |= [gate.beyond(values, limit) for limit in limits]
            both = (score_at(gate, limit, values, bad) for limit in limits)
            scores.append(GateScore(gate.setting, n_known, *both))
    together = GateScore("all together", len(bad), *(_score(flags, bad) for flags in dropped))
    n_bad = int(np.count_nonzero(bad))
    return Calibration(len(bad) - n_bad, n_bad, (*scores, together), int(np.count_nonzero(fitting)))


def suggest(gate: Gate, values: Floats, bad: Flags) -> float | None:
    """Return the strictest limit on values, of labels bad or good, that keeps enough of the good.

    nan is beyond no limit. None where what the limit drops is no worse than all labels are.
    """
    sign = 1 if gate.is_maximum else -1
    good = np.sort(sign * values[~bad])  # nan comes last, where nothing is dropped
    edge = sign * float(good[math.ceil(GOOD_KEPT * len(good)) - 1])
    if not math.isfinite(edge):
        return None
    limit = _round_outwards(edge, up=gate.is_maximum)
    precision = _score(gate.beyond(values, limit), bad).precision
    better = precision is not None and precision > np.count_nonzero(bad) / len(bad)
    return limit if better else None


def score_at(gate: Gate, limit: float | None, values: Floats, bad: Flags) -> Score | None:
    """Return what a gate does at a limit, if there is one; arguments as in :func:`suggest`."""
    return None if limit is None else _score(gate.beyond(values, limit), bad, limit)


def _score(dropped: Flags, bad: Flags, limit: float | None = None) -> Score:
    n_dropped, n_bad = np.count_nonzero(dropped), np.count_nonzero(bad)
    n_caught = np.count_nonzero(dropped & bad)
    return Score(
        limit=limit,
        precision=float(n_caught / n_dropped) if n_dropped else None,
        recall=float(n_caught / n_bad),
        good_kept=float(1 - (n_dropped - n_caught) / (len(bad) - n_bad)),
    )


def _round_outwards(value: float, *, up: bool) -> float:
    """Round to three digits that a person can type, to the side on which more is kept."""
    rounding = ROUND_CEILING if up else ROUND_FLOOR
    return float(Context(prec=3, rounding=rounding).create_decimal(repr(value)))
