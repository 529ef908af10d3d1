"""Noise under speech."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from distilwhisper.speech.audio import Samples, load_samples


def mix_at_snr(speech: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add noise to speech at a given signal-to-noise ratio.

    The noise is scaled and the speech is not, so a sweep over ``snr_db`` changes one thing only.
    Noise shorter than the speech is repeated; longer noise is cut.

    Args:
        speech: mono, at the rate the model hears.
        noise: the same rate, any length above zero.
        snr_db: mean power of the speech over that of the noise, in dB; lower is noisier.

    Returns:
        As long as the speech. May leave [-1, 1]; clipping here would change the ratio.

    Raises:
        ValueError: one of the two is silent, so that no ratio exists.
    """
    noise = np.resize(noise, len(speech))
    powers = [float(np.mean(np.square(x, dtype=np.float64))) if len(x) else 0.0
              for x in (speech, noise)]  # fmt: skip
    if 0.0 in powers:
        silent = "speech" if powers[0] == 0.0 else "noise"
        raise ValueError(
            f"speech and noise must both be heard for a ratio of {snr_db:g} dB, found that the "
            f"{silent} is silent in all of its {len(speech)} samples: leave it as it is"
        )
    gain = (powers[0] / powers[1] / 10 ** (snr_db / 10)) ** 0.5
    return (speech + gain * noise).astype(np.float32)


def white_noise(n_samples: int, generator: np.random.Generator) -> Samples:
    """Return noise of equal power at all frequencies, of mean power one."""
    return generator.standard_normal(n_samples, dtype=np.float32)


def recorded_noise(folder: Path, n_samples: int, generator: np.random.Generator) -> Samples:
    """Return a stretch of one of a folder's recordings, drawn evenly, from anywhere in it.

    Args:
        folder: of audio alone, in folders of its own or not; hidden files are passed over.
        n_samples: how long; a recording that is shorter begins again.
        generator: of the draws.

    Raises:
        ValueError: the folder holds no files.
        CorruptAudio: one of its files cannot be decoded.
    """
    files = _files(folder)
    noise = _recording(files[generator.integers(len(files))])
    start = int(generator.integers(len(noise)))
    return np.resize(np.roll(noise, -start)[:n_samples], n_samples)


@lru_cache(maxsize=4)
def _files(folder: Path) -> tuple[Path, ...]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not files:
        raise ValueError(f"a folder of noise must hold audio files, found none in {folder}")
    return tuple(files)


@lru_cache(maxsize=32)  # half an hour of each of these would be 3.7 GB; noises are minutes
def _recording(path: Path) -> Samples:
    return load_samples(path)
