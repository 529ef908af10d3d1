"""Sounds in which nobody speaks, seeded: every word that is heard in them is one too many."""

from collections.abc import Callable, Mapping

import numpy as np

from distilwhisper.speech.audio import Samples
from distilwhisper.speech.noise import pink_noise, white_noise
from distilwhisper.speech.units import SAMPLE_RATE_HZ

Sound = Callable[[int], Samples]  # of so many samples


def silence(n: int) -> Samples:
    """Return zeros."""
    return np.zeros(n, dtype=np.float32)


def steady(noise: Callable[[int, np.random.Generator], Samples], level_db: float) -> Sound:
    """Return a maker of noise of a mean power of so many dB, below that of full scale."""

    def make(n: int) -> Samples:
        samples = noise(n, np.random.default_rng(0))
        return (samples * 10 ** (level_db / 20)).astype(np.float32)

    return make


def tones(*hz: float) -> Sound:
    """Return a maker of steady tones."""

    def make(n: int) -> Samples:
        at = np.arange(n) / SAMPLE_RATE_HZ
        total = sum(np.sin(2 * np.pi * one * at) for one in hz)
        return (0.1 * np.asarray(total) / len(hz)).astype(np.float32)

    return make


def clicks(n: int) -> Samples:
    """Return a click every second or so."""
    samples = np.zeros(n, dtype=np.float32)
    generator = np.random.default_rng(1)
    at = np.cumsum(generator.integers(8_000, 24_000, size=n // 8_000 + 1))
    samples[at[at < n]] = 0.5
    return samples


SOUNDS: Mapping[str, Sound] = {
    "silence": silence,
    "white noise, -40 dB": steady(white_noise, -40.0),
    "white noise, -20 dB": steady(white_noise, -20.0),
    "pink noise, -30 dB": steady(pink_noise, -30.0),
    "hum, 50 Hz": tones(50, 100, 150),
    "chord": tones(261.6, 329.6, 392.0),
    "clicks": clicks,
}
