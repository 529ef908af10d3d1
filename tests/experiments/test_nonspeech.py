import numpy as np
import pytest
from experiments.nonspeech import SOUNDS, tones

from distilwhisper.speech.units import SAMPLE_RATE_HZ

N = 10 * SAMPLE_RATE_HZ


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_are_as_long_as_asked_within_range_and_the_same_twice(name: str) -> None:
    samples = SOUNDS[name](N)
    assert samples.shape == (N,)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() <= 1.0
    assert (samples == SOUNDS[name](N)).all()
    assert samples.any() == (name != "silence")


@pytest.mark.parametrize("name", [name for name in SOUNDS if name.endswith(" dB")])
def test_noise_has_its_level(name: str) -> None:
    level_db = float(name.split()[-2])
    power_db = 10 * np.log10(np.mean(np.square(SOUNDS[name](N), dtype=np.float64)))
    assert power_db == pytest.approx(level_db, abs=0.1)  # of 160,000 samples


def test_tones_are_where_they_should_be() -> None:
    power = np.abs(np.fft.rfft(tones(50, 150)(N))) ** 2
    assert set(np.argsort(power)[-2:]) == {500, 1500}  # bins of a tenth of a Hz
