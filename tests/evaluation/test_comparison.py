import json
from dataclasses import replace
from pathlib import Path

import pytest

from distilwhisper.evaluation.bootstrap import (
    Counted,
    Resampling,
    by_recording,
    mean_difference,
    mean_interval,
)
from distilwhisper.evaluation.comparison import Comparison, NotComparable, compare
from distilwhisper.text.wer import ErrorCounts
from evaluations import TEXTS, evaluation

FEW = Resampling(n=500, seed=2)
OTHERS = {f"u{i}": "red green blue black" for i in range(6)}

# The interface: what report/ reads of comparison.json.
CELL = """model set noise folder n_utterances failed audio_s compute_s rtfx n_parameters unit errors
wer wer_low wer_high cer ser der ier repeated_5_grams acceptance"""
AVERAGE = "model noise wer low high"
DIFFERENCE = "model against set noise difference low high p"
WORST = "model set noise id audio reference hypothesis errors"


def counted_first(*errors: int) -> Counted:
    """What was counted in the first set, of so many errors in its utterances."""
    of = zip("abc", errors, (5, 4, 3), strict=True)
    return by_recording([(id_, id_, ErrorCounts(substitutions=e, words=n)) for id_, e, n in of])


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Two models on two sets: the small one makes 3 of 12 and 6 of 24 errors, the large one 1."""
    evaluations = [
        evaluation(tmp_path, "small", "first", {"a": "the rein in a valley", "b": "a thin line"}),
        evaluation(tmp_path, "small", "second", {f"u{i}": "red green" for i in range(3)},
                   texts=OTHERS, error="torn"),
        evaluation(tmp_path, "large", "first", {"c": "another one"}),
        evaluation(tmp_path, "large", "second", texts=OTHERS),
    ]  # fmt: skip
    return compare(evaluations, folder=tmp_path, baseline="large", resampling=FEW)


def test_the_keys_are_those_that_others_read(comparison: Comparison) -> None:
    row = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    for name, keys in (
        ("cells", CELL), ("averages", AVERAGE), ("differences", DIFFERENCE), ("worst", WORST),
    ):  # fmt: skip
        assert set(keys.split()) <= set(row[name][0]), name
    assert (row["models"], row["baseline"]) == (["small", "large"], "large")
    assert (row["sets"], row["noises"]) == (["first", "second"], [None])
    assert row["resampling"] == {"n": 500, "level": 0.95, "seed": 2}


def test_a_cell_is_the_summary_of_its_folder_with_an_interval(
    tmp_path: Path, comparison: Comparison
) -> None:
    assert [(c.model, c.set) for c in comparison.cells] == [
        ("small", "first"), ("small", "second"), ("large", "first"), ("large", "second"),
    ]  # fmt: skip
    for cell in comparison.cells:
        summary = json.loads((tmp_path / cell.folder / "summary.json").read_text())
        assert {k: v for k, v in vars(cell).items() if k in summary} == {
            k: summary[k] for k in vars(cell) if k in summary
        }
    first = comparison.cells[0]
    assert (first.wer, first.cer, first.rtfx, first.n_groups) == (3 / 12, 9 / 46, 10.0, 3)
    interval = mean_interval([counted_first(2, 1, 0)], FEW)
    assert interval is not None
    assert (first.wer_low, first.wer_high) == (interval.low, interval.high)
    assert comparison.failed == {"small, second, u0": "torn"}


def test_an_average_is_of_the_rates_of_the_sets(comparison: Comparison) -> None:
    small, large = comparison.averages
    assert (small.model, small.wer) == ("small", 0.25)
    assert (large.model, large.wer) == ("large", (1 / 12 + 0) / 2)
    assert small.low is not None
    assert small.high is not None
    assert small.low < 0.25 < small.high


def test_a_model_is_compared_with_the_baseline_utterance_by_utterance(
    comparison: Comparison,
) -> None:
    assert [(d.model, d.against, d.set) for d in comparison.differences] == [
        ("small", "large", "first"), ("small", "large", "second"), ("small", "large", None),
    ]  # fmt: skip
    first, second, mean = comparison.differences
    found = mean_difference([(counted_first(2, 1, 0), counted_first(0, 0, 1))], FEW)
    assert found is not None
    interval, p = found
    assert (first.difference, first.low, first.high, first.p) == (
        pytest.approx(interval.value), interval.low, interval.high, p,
    )  # fmt: skip
    assert second.difference == 0.25
    assert mean.difference == pytest.approx(0.25 - 1 / 24)
    assert first.p is not None
    assert second.p is not None
    assert second.p < first.p


def test_without_a_baseline_nothing_is_compared(tmp_path: Path) -> None:
    found = compare([evaluation(tmp_path, "small")], folder=tmp_path, resampling=FEW)
    assert found.differences == ()
    assert found.baseline is None


def test_noises_are_compared_apart(tmp_path: Path) -> None:
    evaluations = [
        evaluation(tmp_path, model, noise=noise, heard={"a": "the"} if noise == "white:0" else {})
        for model in ("small", "large")
        for noise in (None, "white:0")
    ]
    found = compare(evaluations, folder=tmp_path, baseline="large", resampling=FEW)
    assert found.noises == (None, "white:0")
    assert [(a.model, a.noise, a.wer) for a in found.averages] == [
        ("small", None, 0.0), ("large", None, 0.0),
        ("small", "white:0", 4 / 12), ("large", "white:0", 4 / 12),
    ]  # fmt: skip
    assert [(d.noise, d.set, d.difference, d.p) for d in found.differences] == [
        (None, "set", 0.0, 1.0), (None, None, 0.0, 1.0),
        ("white:0", "set", 0.0, 1.0), ("white:0", None, 0.0, 1.0),
    ]  # fmt: skip


def test_the_worst_utterances_come_first_and_tell_where_they_can_be_heard(
    tmp_path: Path, comparison: Comparison
) -> None:
    worst = [row for row in comparison.worst if row.model == "small"]
    assert [(row.set, row.id) for row in worst] == [
        ("first", "a"), ("first", "b"), ("second", "u0"), ("second", "u1"), ("second", "u2"),
    ]  # fmt: skip
    assert worst[0].hypothesis == "the rein in a valley"
    assert worst[0].audio == "corpus/a.wav"
    assert (worst[0].start_s, worst[0].duration_s) == (1.0, 2.0)


def test_of_one_recording_utterances_are_drawn(tmp_path: Path) -> None:
    def compared(recording: str | None) -> Comparison:
        evaluations = [
            evaluation(tmp_path / str(recording), "small", heard={"a": "the"}, recording=recording),
            evaluation(tmp_path / str(recording), "large", recording=recording),
        ]
        return compare(evaluations, folder=tmp_path, baseline="large", resampling=FEW)

    one, many = compared("one"), compared(None)
    assert one.cells[0].drawn_over == "one recording"
    assert many.cells[0].drawn_over.endswith(" files")
    like_many = replace(one.cells[0], drawn_over=many.cells[0].drawn_over, folder="")
    assert like_many == replace(many.cells[0], folder="")
    assert one.differences == many.differences


def test_one_utterance_gives_no_interval(tmp_path: Path) -> None:
    texts = {"a": TEXTS["a"]}
    evaluations = [
        evaluation(tmp_path, "small", heard={"a": "the"}, texts=texts),
        evaluation(tmp_path, "large", texts=texts),
    ]
    found = compare(evaluations, folder=tmp_path, baseline="large", resampling=FEW)
    cell, difference = found.cells[0], found.differences[0]
    assert (cell.wer, cell.wer_low, cell.wer_high, cell.n_groups) == (4 / 5, None, None, 1)
    assert (difference.difference, difference.low, difference.p) == (4 / 5, None, None)
    assert (found.averages[0].wer, found.averages[0].low) == (4 / 5, None)


def test_a_set_without_references_is_in_no_mean(tmp_path: Path) -> None:
    evaluations = [
        evaluation(tmp_path, model, set_, {"a": "the"}, texts=texts)
        for model in ("small", "large")
        for set_, texts in (("set", TEXTS), ("untold", dict.fromkeys(TEXTS)))
    ]
    found = compare(evaluations, folder=tmp_path, baseline="large", resampling=FEW)
    assert [(c.set, c.wer) for c in found.cells[:2]] == [("set", 4 / 12), ("untold", None)]
    assert found.averages[0].wer == 4 / 12
    assert found.differences[1].set == "untold"
    assert found.differences[1].difference is None
    json.dumps(found.to_dict(), allow_nan=False)


# What cannot be compared


def test_other_utterances_are_refused_with_both_numbers(tmp_path: Path) -> None:
    one = evaluation(tmp_path, "small")
    other = evaluation(tmp_path, "large", texts={**TEXTS, "d": "and more"})
    with pytest.raises(NotComparable, match=r"(?s)set .* 3 scored in .*small.* 4 in .*3 of them"):
        compare([one, other], folder=tmp_path)


def test_other_units_are_refused(tmp_path: Path) -> None:
    evaluations = [
        evaluation(tmp_path, model, language=language)
        for model, language in (("small", "en"), ("large", "zh"))
    ]
    with pytest.raises(NotComparable, match=r"(?s)found words in .*small.* characters in .*large"):
        compare(evaluations, folder=tmp_path)


def test_every_model_must_be_there_once_on_every_set(tmp_path: Path) -> None:
    one = evaluation(tmp_path, "small", "first")
    other = evaluation(tmp_path, "large", "second")
    with pytest.raises(ValueError, match="4 evaluations, found 2, of which 2 differ"):
        compare([one, other], folder=tmp_path)
    with pytest.raises(ValueError, match="1 evaluations, found 2, of which 1 differ"):
        compare([one, replace(one)], folder=tmp_path)


def test_the_baseline_must_be_one_of_the_models(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='one of small, found "tiny"'):
        compare([evaluation(tmp_path, "small")], folder=tmp_path, baseline="tiny")
