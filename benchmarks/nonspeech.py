"""Words per minute that a model hears where nobody speaks.

    python benchmarks/nonspeech.py --model openai/whisper-tiny.en [--minutes 3] [--out results.json]

Silence, white, pink and brown noise, hum, a chord and clicks, seeded, in chunks and window by
window, with and without the voice activity detector. Every word is one too many. Runs in the
project's own environment (extra "vad" for the detector).
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import SAMPLE_RATE_HZ, Samples

MODES = {
    "chunked": DecodingSettings(language="en"),
    "chunked, no fallback": DecodingSettings(
        language="en",
        temperatures=(0.0,),
        compression_ratio_threshold=None,
        logprob_threshold=None,
        no_speech_threshold=None,
    ),
    "sequential": DecodingSettings(language="en", long_form="sequential"),
    "chunked, vad_filter": DecodingSettings(language="en", vad_filter=True),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    hardware = Hardware(dtype=options.dtype)
    n_samples = round(options.minutes * 60 * SAMPLE_RATE_HZ)
    rows: dict[str, dict[str, float]] = {name: {} for name in SOUNDS}
    for mode, settings in MODES.items():
        transcriber = Transcriber.from_model(options.model, settings, hardware)
        for name, make in SOUNDS.items():
            text = transcriber.transcribe(make(n_samples)).text
            rows[name][mode] = len(text.split()) / options.minutes
    if options.out:
        record = {
            "model": options.model,
            "minutes": options.minutes,
            "hardware": hardware.describe(),
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "words_per_minute": rows,
        }
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"words per minute, {options.model}, {options.minutes:g} minutes of each")
    print(" | ".join(["sound", *MODES]))
    for name, row in rows.items():
        print(" | ".join([name, *(f"{row[mode]:.1f}" for mode in MODES)]))


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

if __name__ == "__main__":
    main()
