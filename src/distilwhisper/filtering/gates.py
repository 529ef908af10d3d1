"""Measures to verdicts: the limits, and the reasons for which a label is not trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from distilwhisper.filtering.measures import Flags, Floats, Measures, share
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.languages import language_code

Reason = Literal[
    "unlabelled",
    "label_failed",
    "cut_off",
    "empty_reference",
    "empty_pseudo_label",
    "all_capitals",
    "wer_above_limit",
    "cer_above_limit",
    "compression_ratio_above_limit",
    "log_probability_below_limit",
    "no_speech_probability_above_limit",
    "repetition_above_limit",
    "other_language_above_limit",
    "disagreement_above_limit",
    "kept_silence",
    "kept_without_reference",
    "kept",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
Codes = npt.NDArray[np.uint8]  # places in REASONS


@dataclass(frozen=True)
class Gate:
    """A limit on one measure that needs no reference."""

    setting: str  # its name in the settings, which begins with max or min
    reason: Reason  # of labels beyond it
    # What is measured; nan where it is unknown, which is beyond no limit
    values: Callable[[Measures], Floats]

    @property
    def is_maximum(self) -> bool:
        """Whether values above the limit are bad, and not those below."""
        return self.setting.startswith("max_")

    def beyond(self, values: Floats, limit: float) -> Flags:
        """Return whether each value is beyond a limit; one at its limit is not."""
        return values > limit if self.is_maximum else values < limit


GATES = (
    Gate("max_compression_ratio", "compression_ratio_above_limit", itemgetter("compression_ratio")),
    Gate(
        "min_avg_logprob",
        "log_probability_below_limit",
        # One that is no number is below any limit.
        lambda m: np.nan_to_num(m["avg_logprob"], nan=-np.inf, neginf=-np.inf),
    ),
    Gate("max_no_speech_prob", "no_speech_probability_above_limit", itemgetter("no_speech_prob")),
    Gate(
        "max_repetition", "repetition_above_limit", lambda m: share(m["looped"], m["label_words"])
    ),
    Gate(
        "max_other_language_prob", "other_language_above_limit", itemgetter("other_language_prob")
    ),
    Gate(
        "max_disagreement",
        "disagreement_above_limit",
        lambda m: share(m["second_errors"], m["label_words"]),
    ),
)
_ALWAYS = "compression_ratio_above_limit"  # the one gate that holds beside a reference too


def judge_all(measures: Measures, settings: FilterSettings) -> Codes:
    """Return the first reason that holds for each label, as its place in ``REASONS``."""
    rows = measures.rows
    without = ~rows["has_reference"]
    above = above_wer(measures, settings)
    holds: dict[Reason, Flags] = {
        "unlabelled": ~rows["has_label"],
        "label_failed": rows["has_error"],
        "kept_silence": rows["silent_reference"] & settings.keep_silence,
        "cut_off": ~rows["finished"],
        "empty_reference": rows["empty_reference"],
        "empty_pseudo_label": rows["empty_label"],
        "all_capitals": rows["all_capitals"],
        "wer_above_limit": above & ~rows["in_characters"],
        "cer_above_limit": above,
    }
    for gate in GATES:
        limit = getattr(settings, gate.setting)
        if limit is not None:
            beyond = gate.beyond(gate.values(measures), limit)
            holds[gate.reason] = beyond if gate.reason == _ALWAYS else beyond & without
    holds["kept_without_reference"] = without
    codes = np.full(len(rows), REASONS.index("kept"), dtype=np.uint8)
    for reason, flags in reversed(holds.items()):
        codes[flags] = REASONS.index(reason)
    return codes


def is_kept(codes: Codes) -> Flags:
    """Return whether a student may learn from each label."""
    return codes >= REASONS.index("kept_silence")


def above_wer(measures: Measures, settings: FilterSettings) -> Flags:
    """Return whether each label has more errors than its language's limit allows."""
    own = {language_code(name): limit for name, limit in settings.max_wer_by_language}
    # Place -1, the last one, is for a language that is unknown.
    names = [*measures.names["language"], ""]
    limits = np.array([own.get(name, settings.max_wer) for name in names])
    return measures.rates > limits[measures["language"]]
