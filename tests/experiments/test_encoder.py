import numpy as np
import numpy.typing as npt
import pytest
from experiments.encoder import LinearCka

Floats = npt.NDArray[np.float64]


def states(n: int, width: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, width)) + 3.0


def likeness(ours: Floats, theirs: Floats) -> float:
    cka = LinearCka()
    cka.add(ours, theirs)
    return cka.value


def by_kernels(ours: Floats, theirs: Floats) -> float:
    """Compare kernel matrices, centred in the middle: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""
    n = len(ours)
    centre = np.eye(n) - 1 / n
    k, m = (centre @ (x @ x.T) @ centre for x in (ours, theirs))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def test_likeness_is_that_of_centred_kernels() -> None:
    ours, theirs = states(40, 6, 0), states(40, 9, 1)
    theirs[:, :6] += ours
    assert likeness(ours, theirs) == pytest.approx(by_kernels(ours, theirs), rel=1e-9)


def test_sounds_add_up() -> None:
    ours, theirs = states(50, 6, 0), states(50, 6, 1)
    cka = LinearCka()
    for part in (slice(0, 7), slice(7, 30), slice(30, 50)):
        cka.add(ours[part], theirs[part])
    assert cka.value == pytest.approx(likeness(ours, theirs), rel=1e-9)


def test_a_rotation_and_a_scale_change_nothing_but_noise_does() -> None:
    ours = states(200, 8, 0)
    rotation, _ = np.linalg.qr(states(8, 8, 2))
    assert likeness(ours, 5 * ours @ rotation + 1.0) == pytest.approx(1.0)
    assert likeness(ours, states(200, 8, 3)) < 0.2


def test_states_that_never_change_are_refused() -> None:
    with pytest.raises(ValueError, match="found none in the short sets"):
        _ = LinearCka().value
    with pytest.raises(ValueError, match="states that change over time"):
        likeness(states(9, 4, 0), np.ones((9, 4)))
