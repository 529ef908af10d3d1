"""Paired bootstrap over recordings: how far a corpus rate, or a difference of two, can be trusted.

Stands in for the fuller one of the branch "evaluate", with the same signatures.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Interval:
    """A value with a percentile interval."""

    value: float
    low: float
    high: float


def rate_interval(
    errors: Sequence[int],
    words: Sequence[int],
    groups: Sequence[Hashable],
    *,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Return a corpus rate with its interval; None for fewer than two groups, or no words."""
    drawn = _draws(np.array([errors, words]), groups, n_resamples, seed)
    if drawn is None or not sum(words):
        return None
    low, high = _bounds(drawn[0] / np.maximum(drawn[1], 1), level)
    return Interval(sum(errors) / sum(words), low, high)


def difference_interval(
    errors_a: Sequence[int],
    errors_b: Sequence[int],
    words: Sequence[int],
    groups: Sequence[Hashable],
    *,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Interval | None, float | None]:
    """Return the rate of a less that of b with its interval, and a two-sided p."""
    apart = np.subtract(errors_a, errors_b)
    drawn = _draws(np.array([apart, words]), groups, n_resamples, seed)
    if drawn is None or not sum(words):
        return None, None
    rates = drawn[0] / np.maximum(drawn[1], 1)
    p = min(1.0, 2 * min(float(np.mean(rates <= 0)), float(np.mean(rates >= 0))))
    return Interval(float(apart.sum()) / sum(words), *_bounds(rates, level)), p


def _draws(
    values: npt.NDArray[np.int64], groups: Sequence[Hashable], n_resamples: int, seed: int
) -> npt.NDArray[np.int64] | None:
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    if len(places) < 2:
        return None
    sums = np.zeros((len(values), len(places)), dtype=np.int64)
    for place, column in zip((places[g] for g in groups), values.T, strict=True):
        sums[:, place] += column
    picks = np.random.default_rng(seed).integers(len(places), size=(n_resamples, len(places)))
    return sums[:, picks].sum(axis=-1)


def _bounds(rates: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
