"""The limits of filtering."""

import math
from dataclasses import dataclass

from distilwhisper.checks import AT_LEAST_0, PROBABILITY, Rule, check_rules, ruled
from distilwhisper.languages import language_code, language_faults

_ERRORS: Rule = ("be a finite fraction from 0 on (0.10 is 10 %)", AT_LEAST_0[1])
_RATIO: Rule = ("be a finite number above 0", lambda ratio: 0 < ratio < math.inf)
_LOGPROB: Rule = ("be a finite logarithm of at most 0", lambda value: -math.inf < value <= 0)


@dataclass(frozen=True)
class FilterSettings:
    """The limits beyond which a label is not trained on; what is None is not looked at."""

    max_wer: float = ruled(0.10, _ERRORS)
    """Errors over the words of the reference, a fraction; over its characters in scripts without
    spaces. The paper's lambda."""
    max_compression_ratio: float = ruled(2.4, _RATIO)
    """Bytes of the label's text over its compressed bytes; above it the text repeats itself."""
    min_avg_logprob: float = ruled(-1.0, _LOGPROB)
    """Mean log-probability of a token, of labels without a reference, as in the optional limits."""
    language: str | None = None
    """Language of all utterances, even where the manifest names another; None: what it names, else
    what the teacher detected."""
    max_wer_by_language: tuple[tuple[str, float], ...] = ()
    """Languages, each with a limit of its own in the place of max_wer."""
    max_no_speech_prob: float | None = ruled(None, PROBABILITY)
    """Probability that nobody speaks."""
    max_repetition: float | None = ruled(None, PROBABILITY)
    """Share of the words that only repeat what stands directly before them."""
    max_other_language_prob: float | None = ruled(None, PROBABILITY)
    """Probability of the language detected where it is not the one expected."""
    max_disagreement: float | None = ruled(None, _ERRORS)
    """Errors of a second decode over the words of the label; needs second labels."""
    keep_silence: bool = False
    """Keep utterances whose reference is blank, with the empty text as their target, whatever the
    label."""

    def __post_init__(self) -> None:
        names = [name for name, _ in self.max_wer_by_language]
        unknown = language_faults(*names, self.language)
        is_twice = not unknown and len({*map(language_code, names)}) < len(names)
        limits = [
            f"max_wer_by_language must {_ERRORS[0]}, found {limit} for {name}"
            for name, limit in self.max_wer_by_language
            if not _ERRORS[1](limit)
        ]
        twice = f"max_wer_by_language must name a language once, found {', '.join(names)}"
        check_rules(self, *unknown, is_twice and twice, *limits)
