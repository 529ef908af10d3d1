"""Noise under speech."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from distilwhisper.speech.audio import Samples, load_samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ

# Pink noise has the same power in every octave. Octaves below hearing would take a good part of it,
# more in longer noise, and a ratio to speech would mean something else at each length.
PINK_FROM_HZ = 20.0
PINK_PERIOD_SAMPLES = 1 << 21  # 131 s; a transform of hours would take gigabytes


def mix_at_snr(speech: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add noise to speech at a given signal-to-noise ratio.

    That is the mean power of the speech over that of the noise, in dB; lower is noisier. The noise
    is scaled and the speech is not, so a sweep over ``snr_db`` changes one thing only. Noise
    shorter than the speech is repeated; longer noise is cut. The sum may leave [-1, 1]: clipping
    here would change the ratio. Silence of one of the two, which has no ratio, is a ValueError.
    """
    noise = np.resize(noise, len(speech))
    speech_power, noise_power = _power(speech), _power(noise)
    if not speech_power or not noise_power:
        silent = "noise" if speech_power else "speech"
        raise ValueError(
            f"neither speech nor noise may be silent for a ratio of {snr_db:g} dB, found that the "
            f"{silent} is silent in all of its {len(speech)} samples: leave it as it is"
        )
    gain = (speech_power / noise_power / 10 ** (snr_db / 10)) ** 0.5
    mixed = gain * noise
    mixed += speech  # in place: hours of sound are gigabytes
    return mixed.astype(np.float32, copy=False)


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def white_noise(n_samples: int, generator: np.random.Generator) -> Samples:
    """Return noise of equal power at all frequencies, of mean power one."""
    return generator.standard_normal(n_samples, dtype=np.float32)


def pink_noise(n_samples: int, generator: np.random.Generator) -> Samples:
    """Return noise whose power falls as one over the frequency, from 20 Hz on; none lies below.

    It is of mean power one. After two minutes it begins again, without a seam.
    """
    period = min(max(n_samples, SAMPLE_RATE_HZ), PINK_PERIOD_SAMPLES)
    spectrum = np.fft.rfft(generator.standard_normal(period))
    frequencies_hz = np.fft.rfftfreq(period, 1 / SAMPLE_RATE_HZ)
    is_audible = frequencies_hz >= PINK_FROM_HZ
    spectrum[~is_audible] = 0
    spectrum[is_audible] /= np.sqrt(frequencies_hz[is_audible])
    noise = np.fft.irfft(spectrum, period)
    noise /= np.sqrt(np.mean(np.square(noise)))
    return np.resize(noise.astype(np.float32), n_samples)


def babble(voices: Sequence[Samples], n_samples: int, generator: np.random.Generator) -> Samples:
    """Return voices that speak at once, each from anywhere in it and with the same mean power.

    A voice that is shorter begins again; one that is silent in its stretch adds nothing.
    """
    total = np.zeros(n_samples)
    for voice in voices:
        stretch = _from_anywhere(voice, n_samples, generator)
        if power := _power(stretch):
            total += stretch / np.sqrt(power)
    return total.astype(np.float32)


def recorded_noise(folder: Path, n_samples: int, generator: np.random.Generator) -> Samples:
    """Return a stretch of one of a folder's recordings, drawn evenly, from anywhere in it.

    The folder holds audio alone, in folders of its own or not; what is hidden is passed over. A
    recording that is shorter begins again. An empty folder is a ValueError.
    """
    return _from_anywhere(draw_recording(folder, generator), n_samples, generator)


def draw_recording(folder: Path, generator: np.random.Generator) -> Samples:
    """Return one of a folder's recordings, drawn evenly; as for :func:`recorded_noise`."""
    files = recordings_in(folder)
    return _recording(files[generator.integers(len(files))])


def _from_anywhere(samples: Samples, n_samples: int, generator: np.random.Generator) -> Samples:
    start = int(generator.integers(len(samples)))
    if start + n_samples <= len(samples):
        return samples[start : start + n_samples]
    return np.resize(np.concatenate([samples[start:], samples[:start]]), n_samples)


@lru_cache(maxsize=4)
def recordings_in(folder: Path) -> tuple[Path, ...]:
    """Return a folder's files, in order; as for :func:`recorded_noise`."""
    below = ((path, path.relative_to(folder).parts) for path in sorted(folder.rglob("*")))
    files = [p for p, parts in below if p.is_file() and not any(n[0] == "." for n in parts)]
    if not files:
        raise ValueError(f"a folder of sounds must hold audio files, found none in {folder}")
    return tuple(files)


# Half an hour of each of these would be 3.7 GB; noises are minutes.
_recording = lru_cache(maxsize=32)(load_samples)
