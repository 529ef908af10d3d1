import numpy as np
import pytest
from experiments.power_law import NoFit, fit_power_law
from experiments.tables import PAPER

HOURS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]


def errors(scale: float, exponent: float, floor: float) -> list[float]:
    return [scale * hours**-exponent + floor for hours in HOURS]


@pytest.mark.parametrize("law", [(10.0, 0.5, 11.0), (3.0, 0.2, 0.0), (40.0, 1.0, 8.0)])
def test_the_law_that_made_the_points_is_found(law: tuple[float, float, float]) -> None:
    found = fit_power_law(HOURS, errors(*law))
    # As near as the grid of exponents, whose steps are 1.3 %.
    assert found.exponent == pytest.approx(law[1], rel=0.02)
    assert found.scale == pytest.approx(law[0], rel=0.1)
    assert found.floor == pytest.approx(law[2], abs=0.4)
    assert found.residual < 0.01 * law[0]
    assert found.at(128.0) == pytest.approx(law[0] * 128 ** -law[1] + law[2], rel=0.02)


def test_one_point_that_is_off_does_not_move_the_curve_far() -> None:
    law = (10.0, 0.5, 11.0)
    points = errors(*law)
    points[3] += 4.0
    found = fit_power_law(HOURS, points)
    others = [i for i in range(len(HOURS)) if i != 3]
    for i in others:
        assert found.at(HOURS[i]) == pytest.approx(errors(*law)[i], abs=0.5)


def test_noise_smaller_than_the_fall_is_borne() -> None:
    generator = np.random.default_rng(1)
    points = np.array(errors(10.0, 0.5, 11.0)) + generator.normal(0, 0.05, len(HOURS))
    assert fit_power_law(HOURS, points.tolist()).exponent == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([20.0] * 7, "the same at all sizes"),
        ([10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0], "does not fall"),
        ([90.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0], "runs out of"),
    ],
)
def test_points_that_are_of_no_law_are_refused(points: list[float], reason: str) -> None:
    with pytest.raises(NoFit, match=reason):
        fit_power_law(HOURS, points)


def test_too_few_sizes_are_refused() -> None:
    with pytest.raises(NoFit, match="at least 4 sizes are needed, found 3"):
        fit_power_law([1.0, 2.0, 4.0, 4.0], [9.0, 8.0, 7.0, 7.1])


def test_the_papers_points_are_of_a_law() -> None:
    printed = {float(hours): wer for hours, (wer,) in PAPER["table11"].items()}
    law = fit_power_law(list(printed), list(printed.values()))
    assert law.residual < 0.3
    assert 10.0 < law.floor < 11.6
