"""How error falls with data: error = scale * hours ** -exponent + floor, fitted to a few points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_POINTS = 4  # one more than the law has numbers
EXPONENTS = np.geomspace(0.02, 4.0, 400)
HUBER = 1.345  # residuals beyond so many spreads pull no harder than that
ROUNDS = 30  # of reweighting


class NoFit(ValueError):
    """The points are not of a power law that levels out, or too few to tell."""


@dataclass(frozen=True)
class PowerLaw:
    """A law, and how far the points lie from it."""

    scale: float
    exponent: float
    floor: float  # what more data would never get below
    residual: float  # root mean square, in the unit of the errors

    def at(self, hours: float) -> float:
        """Return the error after so many hours."""
        return float(self.scale * hours**-self.exponent + self.floor)

    def __str__(self) -> str:
        return (
            f"{self.scale:.3g} h^-{self.exponent:.3g} + {self.floor:.3g}, "
            f"{self.residual:.2g} from the points (root mean square)"
        )


def fit_power_law(hours: Sequence[float], errors: Sequence[float]) -> PowerLaw:
    """Fit a law by which an outlier pulls no harder than a point at the edge of the rest.

    For every exponent of a grid, scale and floor are a line through the points, reweighted after
    Huber until they stay; the exponent whose line leaves the least is taken.

    Args:
        hours: above 0.
        errors: in any unit, at the same places.

    Raises:
        NoFit: with the reason.
    """
    x, y = np.asarray(hours, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if len(np.unique(x)) < MIN_POINTS:
        raise NoFit(f"at least {MIN_POINTS} sizes are needed, found {len(np.unique(x))}")
    spread = _spread(y)
    if spread == 0:
        raise NoFit("the error is the same at all sizes")
    fits = [(*_line(x**-exponent, y), float(exponent)) for exponent in EXPONENTS]
    losses = [_loss(y - scale * x**-b - floor, spread) for scale, floor, b in fits]
    best = int(np.argmin(losses))
    scale, floor, exponent = fits[best]
    if scale <= 0:
        raise NoFit("the error does not fall with more data")
    if best in (0, len(fits) - 1):
        raise NoFit(
            f"the exponent runs out of [{EXPONENTS[0]:g}, {EXPONENTS[-1]:g}]: the points do not "
            "say how the error levels out"
        )
    residuals = y - scale * x**-exponent - floor
    return PowerLaw(scale, exponent, floor, float(np.sqrt(np.mean(residuals**2))))


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Return slope and intercept of a line, neither below 0, that outliers pull little at."""
    weights = np.ones_like(y)
    slope, intercept = 0.0, 0.0
    for _ in range(ROUNDS):
        slope, intercept = _weighted_line(x, y, weights)
        residuals = np.abs(y - slope * x - intercept)
        limit = HUBER * max(1.4826 * float(np.median(residuals)), 1e-9 * float(np.abs(y).max()))
        weights = np.minimum(1.0, limit / np.maximum(residuals, limit))
    return slope, intercept


def _weighted_line(x: Floats, y: Floats, weights: Floats) -> tuple[float, float]:
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    around = x - mean_x
    slope = float((weights * around * (y - mean_y)).sum() / (weights * around**2).sum())
    if slope <= 0:
        return 0.0, float(mean_y)
    intercept = float(mean_y - slope * mean_x)
    if intercept < 0:
        return float((weights * x * y).sum() / (weights * x**2).sum()), 0.0
    return slope, intercept


def _loss(residuals: Floats, spread: float) -> float:
    """Return Huber's loss, by a yardstick that is the same for all exponents."""
    sizes, limit = np.abs(residuals), 0.05 * spread
    return float(np.where(sizes <= limit, sizes**2 / 2, limit * (sizes - limit / 2)).sum())


def _spread(values: Floats) -> float:
    return float(values.max() - values.min())
