"""Measures to verdicts: the limits, and the reasons for which a label is not trained on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from distilwhisper.filtering.measures import Flags, Floats, Measures, share
from distilwhisper.text.tokens import language_code, uses_spaces

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
    "words_per_second_below_limit",
    "words_per_second_above_limit",
    "unique_words_below_limit",
    "other_language_above_limit",
    "disagreement_above_limit",
    "kept_silence",
    "kept_without_reference",
    "kept",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
Codes = npt.NDArray[np.uint8]  # places in REASONS


@dataclass(frozen=True)
class FilterSettings:
    """The limits beyond which a label is not trained on; what is None is not looked at."""

    max_wer: float = 0.10
    """Errors over the words of the reference, a fraction; over its characters in scripts without
    spaces. The paper's lambda."""
    max_compression_ratio: float = 2.4
    """Bytes of the label's text over its compressed bytes; above it the text repeats itself."""
    min_avg_logprob: float = -1.0
    """Mean log-probability of a token, for labels without a reference; so are all that follow."""
    language: str | None = None
    """Of all utterances, whatever the manifest names; None: what it names, else what the teacher
    heard."""
    max_wer_by_language: tuple[tuple[str, float], ...] = ()
    """Languages, each with a limit of its own in the place of max_wer."""
    max_no_speech_prob: float | None = None
    """Probability that nobody speaks."""
    max_repetition: float | None = None
    """Share of the words that only say again what stands directly before them."""
    min_words_per_second: float | None = None
    """Words over the length of the sound; characters in scripts without spaces."""
    max_words_per_second: float | None = None
    """The same from above."""
    min_unique_words: float | None = None
    """Share of the words that are different from all before."""
    max_other_language_prob: float | None = None
    """Probability of the language detected where it is not the one expected."""
    max_disagreement: float | None = None
    """Errors of a second decode over the words of the label; needs second labels."""
    keep_silence: bool = False
    """Keep utterances whose reference is blank, and teach that nothing is said in them, whatever
    the label says."""

    def __post_init__(self) -> None:
        faults = [
            *_out_of_range(self, "max_wer", "a finite fraction from 0 on (0.10 is 10 %)", 0),
            *_out_of_range(self, "max_disagreement", "a finite fraction from 0 on", 0),
            *_out_of_range(self, "min_words_per_second", "a finite number from 0 on", 0),
            *_out_of_range(self, "max_words_per_second", "a finite number from 0 on", 0),
        ]
        for name in (
            "max_no_speech_prob",
            "max_repetition",
            "min_unique_words",
            "max_other_language_prob",
        ):
            faults += _out_of_range(self, name, "a fraction from 0 to 1", 0, 1)
        if not 0 < self.max_compression_ratio < math.inf:
            faults.append(
                "max_compression_ratio must be a finite number above 0, found "
                f"{self.max_compression_ratio}"
            )
        if not -math.inf < self.min_avg_logprob <= 0:
            faults.append(
                "min_avg_logprob must be a finite logarithm of at most 0, found "
                f"{self.min_avg_logprob}"
            )
        faults += _language_faults(self)
        if faults:
            raise ValueError("; ".join(faults))


@dataclass(frozen=True)
class Gate:
    """A limit on one measure that needs no reference.

    Attributes:
        setting: its name in the settings, which says whether it is a maximum or a minimum.
        reason: of labels beyond it.
        values: what is measured; nan where it is unknown, which is beyond no limit.
    """

    setting: str
    reason: Reason
    values: Callable[[Measures], Floats]

    @property
    def is_maximum(self) -> bool:
        """Whether values above the limit are bad, and not those below."""
        return self.setting.startswith("max_")

    def beyond(self, values: Floats, limit: float) -> Flags:
        """Tell which values are beyond a limit; one at its limit is not."""
        flags: Flags = values > limit if self.is_maximum else values < limit
        return flags


def _column(name: str) -> Callable[[Measures], Floats]:
    return lambda measures: measures[name]


def _avg_logprob(measures: Measures) -> Floats:
    """Return log-probabilities; one that is no number says nothing for the label."""
    values: Floats = np.nan_to_num(measures["avg_logprob"], nan=-np.inf, neginf=-np.inf)
    return values


def _words_per_second(measures: Measures) -> Floats:
    return share(measures["heard"], measures["duration_s"])


GATES = (
    Gate("max_compression_ratio", "compression_ratio_above_limit", _column("compression_ratio")),
    Gate("min_avg_logprob", "log_probability_below_limit", _avg_logprob),
    Gate("max_no_speech_prob", "no_speech_probability_above_limit", _column("no_speech_prob")),
    Gate("max_repetition", "repetition_above_limit", lambda m: share(m["looped"], m["heard"])),
    Gate("min_words_per_second", "words_per_second_below_limit", _words_per_second),
    Gate("max_words_per_second", "words_per_second_above_limit", _words_per_second),
    Gate("min_unique_words", "unique_words_below_limit", lambda m: share(m["unique"], m["heard"])),
    Gate("max_other_language_prob", "other_language_above_limit", _column("other_language_prob")),
    Gate(
        "max_disagreement",
        "disagreement_above_limit",
        lambda m: share(m["second_errors"], m["heard"]),
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
    """Tell which labels a student may learn from."""
    flags: Flags = codes >= REASONS.index("kept_silence")
    return flags


def above_wer(measures: Measures, settings: FilterSettings) -> Flags:
    """Tell which labels have more errors than their language's limit allows."""
    flags: Flags = measures.rates > wer_limits(measures, settings)
    return flags


def wer_limits(measures: Measures, settings: FilterSettings) -> Floats:
    """Return the limit on each label's word errors, or character errors."""
    own = {language_code(name): limit for name, limit in settings.max_wer_by_language}
    # Place -1, the last one, is for a language that is unknown.
    names = [*measures.names["language"], ""]
    limits = np.array([own.get(name, settings.max_wer) for name in names])
    of_each: Floats = limits[measures["language"]]
    return of_each


def _out_of_range(
    settings: FilterSettings, name: str, must: str, least: float, most: float = math.inf
) -> list[str]:
    value = getattr(settings, name)
    if value is None or (least <= value <= most and value < math.inf):
        return []
    return [f"{name} must be {must}, found {value}"]


def _language_faults(settings: FilterSettings) -> list[str]:
    faults = []
    named = [name for name, _ in settings.max_wer_by_language]
    for name in [*named, *([] if settings.language is None else [settings.language])]:
        try:
            uses_spaces(name)
        except ValueError as error:
            faults.append(str(error))
    if not faults and len(set(map(language_code, named))) < len(named):
        faults.append(f"max_wer_by_language must name a language once, found {', '.join(named)}")
    for name, limit in settings.max_wer_by_language:
        if not 0 <= limit < math.inf:
            faults.append(
                f"max_wer_by_language must be a finite fraction from 0 on, found {limit} for {name}"
            )
    return faults
