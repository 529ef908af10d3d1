"""The picture of sound that Whisper sees: log-mel frames, one every 10 ms."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from distilwhisper.speech.audio import HOP_SAMPLES, SAMPLE_RATE_HZ, WINDOW_SAMPLES, Samples

FFT_SAMPLES = 400  # 25 ms, under a Hann window
N_FREQUENCIES = FFT_SAMPLES // 2 + 1  # 0 to 8 kHz in steps of 40 Hz
POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # decades of power kept below the loudest value of a row: 80 dB

# The Slaney mel scale: even steps of 200/3 Hz up to 1 kHz, then 27 steps to each factor of 6.4.
_LINEAR_STEP_HZ = 200.0 / 3.0
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_STEP_HZ
_LOG_STEP = math.log(6.4) / 27.0


def log_mel(
    samples: Float[Tensor, "batch samples"], *, n_mels: int
) -> Float[Tensor, "batch n_mels frames"]:
    """Turn samples into the log-mel frames that a Whisper encoder takes.

    Every row is scaled by its own loudest value, so a row comes out the same in any batch.

    Args:
        samples: mono, 16 kHz, at least 201 of them, float32 or float64, on any device. Pad to the
            window first (``stack_windows``): silence after the speech is part of the picture.
        n_mels: 80, or 128 for large-v3 and its kin.

    Returns:
        One frame for each whole 160 samples, in the dtype of the samples, about [-1.5, 2].

    Raises:
        ValueError: too few samples to mirror at the edges, or another dtype.

    Source: arXiv:2212.04356, section 2.2; ``openai/whisper: whisper/audio.py``,
    log_mel_spectrogram, which takes the loudest value over a whole batch.
    """
    if samples.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"samples must be float32 or float64, found {samples.dtype}")
    if samples.shape[1] <= FFT_SAMPLES // 2:
        raise ValueError(
            f"log_mel needs at least {FFT_SAMPLES // 2 + 1} samples, found {samples.shape[1]}; "
            "pad them to the window with stack_windows"
        )
    # Inside a training loop's autocast the product with the filters would be rounded to bfloat16.
    with torch.autocast(samples.device.type, enabled=False):
        window = torch.hann_window(FFT_SAMPLES, dtype=samples.dtype, device=samples.device)
        spectrum = torch.stft(
            samples, FFT_SAMPLES, HOP_SAMPLES, window=window, return_complex=True
        )[..., :-1]  # the last frame is centred on the end of the sound
        power = spectrum.real.square() + spectrum.imag.square()  # (batch, frequencies, frames)
        bank = _mel_filters_on(n_mels, samples.dtype, samples.device)
        log_power = (bank @ power).clamp(min=POWER_FLOOR).log10()
    floor = log_power.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE
    return (torch.maximum(log_power, floor) + 4.0) / 4.0


def stack_windows(pieces: Sequence[Samples]) -> Float[Tensor, "batch 480000"]:
    """Return one 30 s window per piece, silent to the right of it.

    Args:
        pieces: mono, 16 kHz, each at most 480,000 samples; an empty one is a silent window.

    Raises:
        ValueError: a piece is longer than the window; the message names its index and length.
    """
    windows = np.zeros((len(pieces), WINDOW_SAMPLES), dtype=np.float32)
    for index, piece in enumerate(pieces):
        if len(piece) > WINDOW_SAMPLES:
            raise ValueError(
                f"a window holds {WINDOW_SAMPLES} samples, piece {index} has {len(piece)}; "
                "cut it first"
            )
        windows[index, : len(piece)] = piece
    return torch.from_numpy(windows)


@lru_cache(maxsize=16)
def mel_filters(n_mels: int) -> npt.NDArray[np.float64]:
    """Return the Slaney mel filter bank, (n_mels, 201), to multiply a power spectrum with.

    Triangles whose corners are even on the mel scale from 0 to 8 kHz, each of area one over
    frequency. Kept between calls: do not write to it.

    Source: M. Slaney, Auditory Toolbox, 1998; ``librosa/librosa: librosa/filters.py``, mel.
    """
    mels = np.linspace(0.0, _hz_to_mel(SAMPLE_RATE_HZ / 2), n_mels + 2)
    corners_hz = np.where(
        mels < _KNEE_MEL,
        mels * _LINEAR_STEP_HZ,
        _KNEE_HZ * np.exp(_LOG_STEP * (mels - _KNEE_MEL)),
    )
    left, centre, right = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, N_FREQUENCIES)
    triangles = np.minimum((hz - left) / (centre - left), (right - hz) / (right - centre))
    bank: npt.NDArray[np.float64] = np.maximum(0.0, triangles) * (2.0 / (right - left))
    return bank


def _hz_to_mel(hz: float) -> float:
    """Place a frequency above the knee on the mel scale."""
    return _KNEE_MEL + math.log(hz / _KNEE_HZ) / _LOG_STEP


@lru_cache(maxsize=16)
def _mel_filters_on(n_mels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(mel_filters(n_mels)).to(device, dtype)
