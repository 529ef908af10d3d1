from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.filtering.gates import (
    GATES,
    GOOD_KEPT,
    Calibration,
    Gate,
    calibrate,
    score_at,
    suggest,
)
from distilwhisper.filtering.measures import ROW, Measures
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.run.settings import build_settings


def corpus(rates: list[float], logprobs: list[float]) -> Measures:
    """Labels of a hundred words each, with so many errors and such scores."""
    rows = np.zeros(len(rates), dtype=ROW)
    for flag in ("has_label", "finished", "has_reference"):
        rows[flag] = True
    rows["words"] = rows["label_words"] = 100
    rows["substitutions"] = [round(100 * rate) for rate in rates]
    rows["avg_logprob"] = logprobs
    rows["compression_ratio"] = 1.0
    rows["second_errors"] = -1
    for unknown in ("no_speech_prob", "duration_s", "other_language_prob"):
        rows[unknown] = np.nan
    names = {"language": ["en"], "speaker": [""], "source": [""]}
    return Measures(rows, [str(i) for i in range(len(rates))], names)


def both_halves(rates: list[float], logprobs: list[float]) -> Measures:
    """The same labels once in the half that is held out and once in the other."""
    measures = corpus(2 * rates, 2 * logprobs)
    measures.rows["held_out"][len(rates) :] = True
    return measures


def test_a_gate_is_scored_at_its_limit_and_at_the_one_suggested() -> None:
    # Ten good labels, of which one is unsure, and four bad ones, of which three are.
    rates = [0.0] * 9 + [0.1] + [0.5] * 4
    logprobs = [-0.1 * i for i in range(1, 10)] + [-1.5] + [-0.05, -1.1, -1.2, -1.3]
    found = calibrate(both_halves(rates, logprobs), FilterSettings(min_avg_logprob=-1.15))
    assert found is not None
    assert (found.n_good, found.n_bad, found.n_made_from) == (10, 4, 14)
    scores = {score.gate: score for score in found.gates}
    gate = scores["min_avg_logprob"]
    assert gate.at_limit is not None
    assert gate.suggested is not None
    assert asdict(gate.at_limit) == {
        "limit": -1.15,
        "precision": pytest.approx(2 / 3),
        "recall": 0.5,
        "good_kept": pytest.approx(0.9),
    }
    assert (gate.suggested.limit, gate.suggested.recall) == (-0.9, 0.75)
    assert gate.suggested.good_kept == pytest.approx(0.9)
    assert scores["max_compression_ratio"].suggested is None  # the same for all
    assert scores["all together"].at_limit == replace(gate.at_limit, limit=None)
    assert "max_no_speech_prob" not in scores
    assert build_settings(Calibration, asdict(found), where="a dict") == found
    assert "4 of them bad (28.6 %);\n  limits are suggested by 14 others" in str(found)


def test_a_limit_is_made_on_one_half_and_scored_on_the_other() -> None:
    rates = [0.0] * 10 + [0.5] * 4
    made = [-0.1] * 9 + [-0.5] + [-0.4] * 3 + [-0.05]
    held = [-0.3] * 5 + [-0.05] * 5 + [-0.4] + [-0.05] * 3
    measures = corpus(2 * rates, made + held)
    measures.rows["held_out"][len(rates) :] = True
    found = calibrate(measures, FilterSettings(min_avg_logprob=-9))
    assert found is not None
    suggested = {score.gate: score for score in found.gates}["min_avg_logprob"].suggested
    assert suggested is not None
    assert asdict(suggested) == {
        "limit": -0.1,
        "precision": pytest.approx(1 / 6),  # worse than chance there, and it says so
        "recall": 0.25,
        "good_kept": 0.5,
    }


@pytest.mark.parametrize(
    ("gate", "edge", "limit"),
    [
        ("max_compression_ratio", 1.1, 1.1),
        ("max_compression_ratio", 1.23456, 1.24),
        ("max_compression_ratio", 0.0, 0.0),
        ("min_avg_logprob", -2.2, -2.2),
        ("min_avg_logprob", -0.98765, -0.988),
    ],
)
def test_a_suggested_limit_has_three_digits_and_drops_nothing_more(
    gate: str, edge: float, limit: float
) -> None:
    (one,) = (one for one in GATES if one.setting == gate)
    bad = 9.0 if one.is_maximum else -9.0
    is_bad = np.array([False] * 4 + [True] * 4)
    assert suggest(one, np.array([edge] * 4 + [bad] * 4), is_bad) == limit


def test_without_good_and_bad_labels_nothing_can_be_told() -> None:
    assert calibrate(both_halves([0.0, 0.0], [-0.1, -0.2]), FilterSettings()) is None
    for row in (1, 3):  # the bad one of either half
        measures = both_halves([0.0, 0.5], [-0.1, -0.2])
        assert calibrate(measures, FilterSettings()) is not None
        measures.rows["finished"][row] = False
        assert calibrate(measures, FilterSettings()) is None


values = st.floats(0.001, 9) | st.just(float("nan"))


@given(
    good=st.lists(values, min_size=1, max_size=40),
    bad=st.lists(values, min_size=1, max_size=40),
    gate=st.sampled_from(GATES),
)
def test_a_suggested_limit_keeps_enough_of_the_good_and_beats_chance(
    good: list[float], bad: list[float], gate: Gate
) -> None:
    is_bad = np.array([False] * len(good) + [True] * len(bad))
    values = np.array(good + bad)
    score = score_at(gate, suggest(gate, values, is_bad), values, is_bad)
    if score is not None:
        assert score.precision is not None
        assert score.good_kept >= GOOD_KEPT - 1e-9
        assert score.precision > len(bad) / len(is_bad)
