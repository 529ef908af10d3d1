"""Sounds in which nobody speaks, seeded: every word that is heard in them is one too many."""

from collections.abc import Callable

import numpy as np

from distilwhisper.speech.audio import SAMPLE_RATE_HZ, Samples


def silence(n: int) -> Samples:
    """Return zeros."""
    return np.zeros(n, dtype=np.float32)


def coloured(exponent: float, rms: float) -> Callable[[int], Samples]:
    """Return a maker of noise whose power falls with frequency to the exponent given."""

    def make(n: int) -> Samples:
        spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(n))
        frequency = np.maximum(np.fft.rfftfreq(n), 20 / SAMPLE_RATE_HZ)
        noise = np.fft.irfft(spectrum * frequency ** (-exponent / 2), n)
        return (noise * rms / np.sqrt(np.mean(noise**2))).astype(np.float32)

    return make


def tones(*hz: float) -> Callable[[int], Samples]:
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


SOUNDS: dict[str, Callable[[int], Samples]] = {
    "silence": silence,
    "white noise, -40 dB": coloured(0, 0.01),
    "white noise, -20 dB": coloured(0, 0.1),
    "pink noise, -30 dB": coloured(1, 0.03),
    "brown noise, -30 dB": coloured(2, 0.03),
    "hum, 50 Hz": tones(50, 100, 150),
    "chord": tones(261.6, 329.6, 392.0),
    "clicks": clicks,
}
