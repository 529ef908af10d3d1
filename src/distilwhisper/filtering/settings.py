"""The limits of filtering."""

import math
from dataclasses import dataclass


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


def _out_of_range(
    settings: FilterSettings, name: str, must: str, least: float, most: float = math.inf
) -> list[str]:
    value = getattr(settings, name)
    if value is None or (least <= value <= most and value < math.inf):
        return []
    return [f"{name} must be {must}, found {value}"]


def _language_faults(settings: FilterSettings) -> list[str]:
    from distilwhisper.text.tokens import language_code, uses_spaces

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
