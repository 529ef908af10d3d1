import numpy as np
import pytest

from distilwhisper.speech.audio import SAMPLE_RATE_HZ
from distilwhisper.speech.nonspeech import SOUNDS, coloured, tones

N = 10 * SAMPLE_RATE_HZ


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_are_as_long_as_asked_within_range_and_the_same_twice(name: str) -> None:
    samples = SOUNDS[name](N)
    assert samples.shape == (N,)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() <= 1.0
    assert (samples == SOUNDS[name](N)).all()
    assert samples.any() == (name != "silence")


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_noise_has_its_level_and_falls_with_frequency_as_told(exponent: int) -> None:
    samples = coloured(exponent, 0.03)(N)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.03, rel=1e-3)
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(N, 1 / SAMPLE_RATE_HZ)
    low, high = (power[(f < hz) & (hz < 2 * f)].mean() for f in (200, 3200))
    # Four octaves higher; the mean of some thousand bins is within a few per cent.
    assert low / high == pytest.approx(16.0**exponent, rel=0.15)


def test_tones_are_where_they_should_be() -> None:
    power = np.abs(np.fft.rfft(tones(50, 150)(N))) ** 2
    assert set(np.argsort(power)[-2:]) == {500, 1500}  # bins of a tenth of a Hz
