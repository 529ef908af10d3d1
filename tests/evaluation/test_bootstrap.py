import math
import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.evaluation.bootstrap import (
    Counted,
    Interval,
    Resampling,
    mean_difference,
    mean_interval,
)
from distilwhisper.text.wer import ErrorCounts


def counted(errors: Sequence[int], words: Sequence[int], groups: Sequence[str]) -> Counted:
    """Return what was counted of utterances, by group."""
    sums = {group: ErrorCounts() for group in groups}
    for n_errors, n_words, group in zip(errors, words, groups, strict=True):
        sums[group] += ErrorCounts(substitutions=n_errors, words=n_words)
    return sums


def interval(
    errors: Sequence[int], words: Sequence[int], groups: Sequence[str], **resampling: int
) -> Interval | None:
    """Return the interval of a single set's rate."""
    return mean_interval([counted(errors, words, groups)], Resampling(**resampling))


def difference(
    a: Sequence[int], b: Sequence[int], words: Sequence[int], groups: Sequence[str], **of: int
) -> tuple[Interval, float] | None:
    """Return how much higher the first rate of a single set is than the second."""
    pair = (counted(a, words, groups), counted(b, words, groups))
    return mean_difference([pair], Resampling(**of))


def names(n: int) -> list[str]:
    return [f"r{number}" for number in range(n)]


def binomial_quantile(n: int, p: float, level: float) -> int:
    """Return the smallest count whose cumulated probability reaches a level."""
    total, count = 0.0, -1
    while total < level:
        count += 1
        total += math.comb(n, count) * p**count * (1 - p) ** (n - count)
    return count


@pytest.mark.parametrize(("n", "n_wrong"), [(50, 25), (200, 20)])
def test_draws_of_single_words_are_binomial(n: int, n_wrong: int) -> None:
    errors = [1] * n_wrong + [0] * (n - n_wrong)
    found = interval(errors, [1] * n, names(n), n=20_000)
    assert found is not None
    assert found.value == n_wrong / n
    for bound, level in ((found.low, 0.025), (found.high, 0.975)):
        exact = binomial_quantile(n, n_wrong / n, level)
        assert abs(n * bound - exact) <= 1  # a quantile's own error, at a step of one word


def test_bounds_are_those_of_a_plain_loop() -> None:
    rng = random.Random(5)
    recordings = [[(rng.randint(0, 5), rng.randint(5, 30)) for _ in range(4)] for _ in range(30)]
    rates = []
    for _ in range(4_000):
        drawn = [pair for recording in rng.choices(recordings, k=30) for pair in recording]
        rates.append(sum(e for e, _ in drawn) / sum(w for _, w in drawn))
    rates.sort()
    utterances = [(e, w, f"r{at}") for at, rec in enumerate(recordings) for e, w in rec]
    found = interval(*zip(*utterances, strict=True))
    assert found is not None
    # Both are estimates; the spread of a 2.5 % quantile of 4,000 draws is a 25th of this width.
    assert found.low == pytest.approx(rates[100], abs=(found.high - found.low) / 10)
    assert found.high == pytest.approx(rates[3_900], abs=(found.high - found.low) / 10)


def test_a_recording_counts_once_however_many_utterances_it_is_cut_into() -> None:
    errors, words = [3, 0, 5, 1], [10, 8, 9, 20]
    whole = interval(errors, words, names(4))
    cut = interval(
        [part for e in errors for part in (e, 0, 0)],
        [part for w in words for part in (w - 2, 1, 1)],
        [name for name in names(4) for _ in range(3)],
    )
    assert whole == cut


def simulated(rng: np.random.Generator, n: int) -> tuple[list[int], list[int], list[str]]:
    """Return five utterances of each of n recordings, of which each has a rate of its own."""
    words = rng.integers(5, 30, size=(n, 5))
    rates = rng.beta(2, 8, size=(n, 1))  # 0.2 on average
    errors = rng.binomial(words, rates)
    return errors.ravel().tolist(), words.ravel().tolist(), [x for x in names(n) for _ in range(5)]


def test_an_interval_holds_the_truth_as_often_as_it_says_but_not_one_over_utterances() -> None:
    rng = np.random.default_rng(7)
    held = {"recordings": 0, "utterances": 0}
    for _ in range(300):
        errors, words, recordings = simulated(rng, 60)
        for kind, groups in (("recordings", recordings), ("utterances", names(300))):
            found = interval(errors, words, groups, n=400)
            assert found is not None
            held[kind] += found.low <= 0.2 <= found.high
    assert 0.91 <= held["recordings"] / 300 <= 0.98  # 0.95 less what percentiles lose, +- 3 sigma
    assert held["utterances"] / 300 < 0.85


def test_of_equal_systems_one_in_twenty_differs_and_of_unequal_ones_most_do() -> None:
    rng = np.random.default_rng(11)
    n_told = {0.02: 0, 0.06: 0}
    for rate in n_told:
        for _ in range(250):
            errors, words, recordings = simulated(rng, 40)  # hard and easy ones, for both
            a, b = ((errors + rng.binomial(words, more)).tolist() for more in (rate, 0.02))
            found = difference(a, b, words, recordings, n=400)
            assert found is not None
            n_told[rate] += found[1] < 0.05
    assert 0.01 <= n_told[0.02] / 250 <= 0.10
    assert n_told[0.06] / 250 > 0.9


def test_a_system_does_not_differ_from_itself() -> None:
    assert difference([1, 0, 2], [1, 0, 2], [5, 6, 7], names(3)) == (
        Interval(0.0, 0.0, 0.0),
        1.0,
    )


counts = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)), min_size=2)


@given(rows=counts, seed=st.integers(0, 99))
def test_swapping_the_sides_flips_the_signs(rows: list[tuple[int, int, int]], seed: int) -> None:
    a, b, words = (list(column) for column in zip(*rows, strict=True))
    there = difference(a, b, words, names(len(a)), n=200, seed=seed)
    back = difference(b, a, words, names(len(a)), n=200, seed=seed)
    assert there is not None
    assert back is not None
    assert back[0].value == -there[0].value
    assert (-back[0].high, -back[0].low) == pytest.approx((there[0].low, there[0].high))
    assert back[1] == there[1]


def test_what_is_always_worse_has_the_smallest_p_there_is() -> None:
    found = difference([5] * 9, [1] * 9, [10] * 9, names(9), n=999)
    assert found is not None
    assert found[1] == 2 / 1000
    assert found[0].low == found[0].high == pytest.approx(0.4)


def test_a_mean_over_sets_is_of_their_rates_and_each_is_drawn_within_itself() -> None:
    a = counted([3, 0, 5, 1], [10, 8, 9, 20], names(4))
    steady = counted([1, 2, 3], [10, 20, 30], names(3))  # 0.1 in every draw
    alone, both = (mean_interval(sets, Resampling()) for sets in ([a], [a, steady]))
    assert alone is not None
    assert both is not None
    assert both.value == pytest.approx((9 / 47 + 0.1) / 2)
    assert both.low == pytest.approx((alone.low + 0.1) / 2)
    assert both.high == pytest.approx((alone.high + 0.1) / 2)


def test_two_systems_may_have_other_words_and_another_order() -> None:
    a = counted([1, 0, 2], [5, 6, 7], ["x", "y", "z"])
    b = counted([2, 1, 0], [8, 5, 6], ["z", "x", "y"])
    found = mean_difference([(a, b)], Resampling(n=50))
    assert found is not None
    assert found[0].value == pytest.approx(3 / 18 - 3 / 19)


@pytest.mark.parametrize(
    ("words", "groups"),
    [([5, 5], ["one", "one"]), ([0, 0], ["one", "other"]), ([], [])],
    ids=["one recording", "no words", "nothing"],
)
def test_where_nothing_can_be_told_there_is_no_interval(
    words: list[int], groups: list[str]
) -> None:
    errors = [1] * len(words)
    assert interval(errors, words, groups) is None
    assert difference(errors, errors, words, groups) is None
    fine = counted([1, 0], [5, 5], names(2))
    assert mean_interval([fine, counted(errors, words, groups)], Resampling()) is None
    assert mean_interval([], Resampling()) is None


def test_a_draw_without_words_has_no_rate() -> None:
    found = interval([2, 1], [0, 10], ["silence", "speech"])
    assert found == Interval(0.3, 0.1, 0.3)


def test_the_same_seed_gives_the_same_bounds_and_another_one_others() -> None:
    rng = np.random.default_rng(0)
    of = simulated(rng, 20)
    assert interval(*of, seed=3) == interval(*of, seed=3) != interval(*of, seed=4)


def test_many_recordings_take_bounded_memory() -> None:
    n = 5_000
    errors, words = [1, 0] * (n // 2), [7] * n
    tracemalloc.start()
    found = interval(errors, words, names(n))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 7 / math.sqrt(n), rel=0.05)
    assert peak < 80e6  # all draws at once would be 400 MB


def test_what_was_counted_must_fit_together() -> None:
    pair = (counted([1, 0], [5, 5], ["a", "b"]), counted([1, 0], [5, 5], ["b", "c"]))
    with pytest.raises(ValueError, match="2 of the one and 2 of the other, 1 of them of both"):
        mean_difference([pair], Resampling())
    with pytest.raises(ValueError, match=r"n must be at least 1, found 0; level .* found 1"):
        Resampling(n=0, level=1)
