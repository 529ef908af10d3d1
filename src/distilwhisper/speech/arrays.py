"""Arrays of other programs as samples: any type of number, one channel or several."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt

from distilwhisper.speech.audio import LOUDEST, MOST_CHANNELS, Samples, loudest_if_cancelled
from distilwhisper.speech.containers import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
from distilwhisper.speech.units import SAMPLE_RATE_HZ

Sound: TypeAlias = npt.NDArray[Any] | Sequence[float]  # what to_samples is meant for


def to_samples(sound: object, name: str, *, sampling_rate: int = SAMPLE_RATE_HZ) -> Samples:
    """Return an array as samples: float32, mono, about [-1, 1].

    Integers are divided by the largest of their type, unsigned ones around its middle. Those of 32
    or 64 bits that all fit in fewer (16, 32) are taken to be of so many. Of two dimensions the
    shorter one holds the channels, whose mean is taken, or the loudest where they cancel out, as
    with one of them inverted. The rate cannot be seen: where it is not 16 kHz it must be given, and
    the sound is resampled. The name is for messages.

    Raises:
        ValueError: there is no sample, one is NaN or infinite, or far above 1; the array holds no
            real numbers, or has another shape; or sound has no such rate.
    """
    if hasattr(sound, "detach"):  # a tensor: NumPy takes no bfloat16, gradients or GPU
        tensor: Any = sound.detach().cpu()
        sound = tensor.float() if tensor.is_floating_point() else tensor
    try:
        array = np.asarray(sound)
    except ValueError:  # rows of unlike lengths, as of a pair of samples and their rate
        array = np.asarray(sound, dtype=object)
    if array.dtype.kind not in "iuf":
        found = type(sound).__name__ if array.dtype == object else array.dtype
        raise ValueError(
            f"{name} must be samples as integers or floats, found {found}: give the array alone, "
            "and its rate as sampling_rate"
        )
    if not array.size:
        raise ValueError(f"{name} must hold at least one sample, found none")
    if array.ndim not in (1, 2) or (array.ndim == 2 and min(array.shape) > MOST_CHANNELS):
        raise ValueError(
            f"{name} must be a row of samples, or up to {MOST_CHANNELS} channels of them, found "
            f"the shape {array.shape}"
        )
    floats = array if array.dtype.kind == "f" else _scaled(array)
    if floats.ndim == 2:
        channels = floats if floats.shape[0] <= floats.shape[1] else floats.T
        loudest = loudest_if_cancelled(channels)
        floats = channels.mean(axis=0) if loudest is None else channels[loudest]
    samples: Samples = floats.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} must hold numbers, found NaN or infinity among its samples")
    peak = max(samples.max(), -samples.min())
    if peak > LOUDEST:
        raise ValueError(
            f"{name} must hold floats of about [-1, 1], found {peak:g}: divide them by the full "
            "scale (32768 for 16 bits), or give the integers themselves"
        )
    return samples if sampling_rate == SAMPLE_RATE_HZ else _resampled(samples, sampling_rate)


def _resampled(samples: Samples, sampling_rate: int) -> Samples:
    """Return samples at 16 kHz, by the resampler that files go through."""
    if not LOWEST_RATE_HZ <= sampling_rate <= HIGHEST_RATE_HZ:
        must = f"must lie in [{LOWEST_RATE_HZ}, {HIGHEST_RATE_HZ}] Hz"
        raise ValueError(f"sampling_rate {must}, found {sampling_rate}")
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = sampling_rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])


def _scaled(integers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    bits = 8 * integers.dtype.itemsize
    floats = integers.astype(np.float64)
    if integers.dtype.kind == "u":
        return floats / 2.0 ** (bits - 1) - 1.0
    peak = np.abs(floats).max()
    fitting = next(b for b in (16, 32, 64) if peak <= 2.0 ** (b - 1))
    return floats / 2.0 ** (min(bits, fitting) - 1)
