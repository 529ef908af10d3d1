from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.corpus.records import Label, Utterance, Verdict
from distilwhisper.filtering.gates import REASONS, judge_all
from distilwhisper.filtering.measures import MIN_CAPITALS, measure_all
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.languages import uses_spaces
from distilwhisper.stages.filter import judge
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.transcript import compression_ratio
from distilwhisper.text.wer import character_errors, word_errors

TEN = "one cat sat on the mat and saw two dogs"


def utterance(text: str | None = None, **other: Any) -> Utterance:
    return Utterance("a", "a.wav", **{"duration_s": 4.0, "language": "en", "text": text, **other})


def label(text: str = TEN, **other: Any) -> Label:
    fields: dict[str, Any] = {
        "language": "en",
        "avg_logprob": -0.3,
        "no_speech_prob": 0.01,
        "compression_ratio": 1.1,
        "error": None,
    }
    return Label(id="a", token_ids=(1,), text=text, **{**fields, **other})


def plain_verdict(utterance: Utterance, label: Label, settings: FilterSettings) -> Verdict:
    """Judge one label in plain steps and exact fractions, as an independent check."""
    language = str(settings.language or utterance.language or label.language)
    normalize = normalizer_for(language)
    heard, spoken = normalize(label.text), utterance.text and normalize(utterance.text)
    spoken = spoken if utterance.text is None else spoken or ""
    in_words = uses_spaces(language)
    count = word_errors if in_words else character_errors
    errors = None if spoken is None else count(spoken, heard)
    limit = Fraction(str(dict(settings.max_wer_by_language).get(language, settings.max_wer)))
    capitals = [c for c in label.text if c.isupper()]
    ratio = label.compression_ratio
    ratio = compression_ratio(label.text) if ratio is None else ratio
    if not label.finished:
        reason = "cut_off"
    elif spoken is not None and not any(c.isalnum() for c in spoken):
        reason = "empty_reference"
    elif not any(c.isalnum() for c in heard):
        reason = "empty_pseudo_label"
    elif label.text.isupper() and len(capitals) >= MIN_CAPITALS:
        reason = "all_capitals"
    elif errors is not None and errors.errors > limit * errors.words:
        reason = "wer_above_limit" if in_words else "cer_above_limit"
    elif ratio > settings.max_compression_ratio:
        reason = "compression_ratio_above_limit"
    elif errors is not None:
        reason = "kept"
    elif label.avg_logprob is None or label.avg_logprob < settings.min_avg_logprob:
        reason = "log_probability_below_limit"
    else:
        reason = "kept_without_reference"
    wer = errors.wer if errors is not None and errors.words else None
    keep = reason.startswith("kept")
    return Verdict("a", keep, reason, wer, errors, "word" if in_words else "character")


pieces = st.sampled_from(
    ["one", "cat", "CAT", "sat.", "...", "twenty", "东", "京", "it's", "LOUDLY"]
)
texts = st.lists(pieces, max_size=9).map(" ".join)


@given(
    reference=st.none() | texts,
    said=texts,
    scores=st.fixed_dictionaries(
        {
            "avg_logprob": st.none() | st.floats(-2, 0),
            "compression_ratio": st.none() | st.floats(0, 4),
            "finished": st.booleans(),
        }
    ),
    language=st.sampled_from(["en", "de", "zh"]),
    limit=st.integers(0, 120).map(lambda percent: percent / 100),
)
def test_verdicts_equal_those_of_plain_steps(
    reference: str | None, said: str, scores: dict[str, Any], language: str, limit: float
) -> None:
    spoken, heard = utterance(reference, language=language), label(said, **scores)
    settings = FilterSettings(max_wer=limit, max_wer_by_language=(("de", 0.5),))
    assert judge(spoken, heard, settings) == plain_verdict(spoken, heard, settings)


# setting, what breaks it, what is just at it, the limit, the reason
CASES: list[tuple[str, dict[str, Any], dict[str, Any], float, str]] = [
    (
        "max_no_speech_prob",
        {"no_speech_prob": 0.51},
        {"no_speech_prob": 0.5},
        0.5,
        "no_speech_probability_above_limit",
    ),
    (
        "max_repetition",
        {"text": "no no no no no go"},
        {"text": "no no no no go"},
        0.6,
        "repetition_above_limit",
    ),
    (
        "max_other_language_prob",
        {"detected_language": "de", "language_probability": 0.91},
        {"detected_language": "de", "language_probability": 0.9},
        0.9,
        "other_language_above_limit",
    ),
]


@pytest.mark.parametrize(("setting", "bad", "good", "limit", "reason"), CASES)
def test_a_gate_drops_what_is_beyond_its_limit_and_keeps_what_is_at_it(
    setting: str, bad: dict[str, Any], good: dict[str, Any], limit: float, reason: str
) -> None:
    settings = FilterSettings(**{setting: limit})
    dropped = judge(utterance(), label(**bad), settings)
    assert (dropped.keep, dropped.reason) == (False, reason)
    assert judge(utterance(), label(**good), settings).reason == "kept_without_reference"
    assert judge(utterance(), label(**bad), FilterSettings()).reason == "kept_without_reference"
    text = bad.get("text", TEN)
    assert judge(utterance(text), label(**bad), settings).reason == "kept"


def test_what_is_not_known_is_beyond_no_limit() -> None:
    settings = FilterSettings(max_no_speech_prob=0.0, max_other_language_prob=0.0)
    unknown = label(no_speech_prob=None)
    assert judge(utterance(), unknown, settings).reason == "kept_without_reference"
    sure = label(detected_language="fr", no_speech_prob=None)
    assert judge(utterance(), sure, settings).reason == "other_language_above_limit"
    named = label(detected_language="en", no_speech_prob=None)
    assert judge(utterance(language="English"), named, settings).keep


def test_two_decodes_that_disagree_are_dropped() -> None:
    settings = FilterSettings(max_disagreement=0.1)
    for second, reason in (
        (label(TEN.replace("cat", "cow")), "kept_without_reference"),
        (label(TEN.replace("cat", "cow").replace("mat", "hat")), "disagreement_above_limit"),
        (label("", error="cannot be read"), "kept_without_reference"),
    ):
        measures = measure_all([(utterance(), label(), second)], language=None)
        assert REASONS[judge_all(measures, settings)[0]] == reason


def test_every_language_may_have_a_limit() -> None:
    settings = FilterSettings(max_wer_by_language=(("German", 0.5), ("zh", 0.0)))
    wrong = label(TEN.replace("cat", "dog").replace("mat", "hat"))
    assert judge(utterance(TEN), wrong, settings).reason == "wer_above_limit"
    assert judge(utterance(TEN, language="de"), wrong, settings).reason == "kept"
    assert judge(utterance("今日", language="zh"), label("今天"), settings).keep is False


def test_settings_that_make_no_sense_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"max_no_speech_prob .* 2; max_disagreement .* -1$"):
        FilterSettings(max_disagreement=-1, max_no_speech_prob=2)
    with pytest.raises(ValueError, match="once, found de, German"):
        FilterSettings(max_wer_by_language=(("de", 0.1), ("German", 0.2)))
    with pytest.raises(ValueError, match="found -1 for fr"):
        FilterSettings(max_wer_by_language=(("fr", -1),))
    with pytest.raises(ValueError, match="klingon"):
        FilterSettings(max_wer_by_language=(("klingon", 1),))
