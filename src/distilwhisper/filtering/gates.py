"""Measures to verdicts: the limits, and the reasons for which a label is not trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from distilwhisper.filtering.measures import Flags, Floats, Measures
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.languages import language_code

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


# When each reason holds; the first that does is the verdict's.
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
