"""The picture of sound that Whisper sees: log-mel frames, one every 10 ms."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.recording import Recording, end_of
from distilwhisper.speech.units import (
    FRAMES_PER_WINDOW,
    HOP_SAMPLES,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    samples_to_seconds,
)

FFT_SAMPLES = 400  # 25 ms, under a Hann window
N_FREQUENCIES = FFT_SAMPLES // 2 + 1  # 0 to 8 kHz in steps of 40 Hz
POWER_FLOOR = 1e-10
SILENT_FRAMES = 4  # behind sound: the last of them sees none of it
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

    Samples are mono, 16 kHz, at least 201, float32 or float64, on any device. Pad them to the
    window first (``stack_windows``): silence after the speech is part of the picture. Bands are 80,
    or 128 for large-v3 and its kin.

    There is one frame for each whole 160 samples, in their dtype, about [-1.5, 2]. Every row is
    scaled by its own loudest value, so a row comes out the same in any batch.

    Raises:
        ValueError: too few samples to mirror at the edges, or another dtype.

    Source: arXiv:2212.04356, section 2.2; ``openai/whisper: whisper/audio.py``,
    log_mel_spectrogram, which takes the loudest value over a whole batch.
    """
    if samples.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"samples must be float32 or float64, found {samples.dtype}")
    edge = FFT_SAMPLES // 2
    if samples.shape[1] <= edge:
        raise ValueError(
            f"log_mel needs at least {edge + 1} samples, found {samples.shape[1]}; "
            "pad them to the window with stack_windows"
        )
    mirrored = torch.nn.functional.pad(samples[:, None], (edge, edge), mode="reflect")[:, 0]
    # One frame for each whole hop: none is centred on the end of the sound.
    n_wanted = (samples.shape[1] // HOP_SAMPLES - 1) * HOP_SAMPLES + FFT_SAMPLES
    log_power = log_mel_power(mirrored[:, :n_wanted], n_mels=n_mels)
    return scale_log_mel(log_power, log_power.amax(dim=(1, 2), keepdim=True))


def log_mel_power(
    samples: Float[Tensor, "batch samples"], *, n_mels: int
) -> Float[Tensor, "batch n_mels frames"]:
    """Return the log10 of the power in each mel band, before any scaling.

    Samples begin 200 before the first frame's centre, and end 200 behind the last's.
    """
    # Inside a training loop's autocast the product with the filters would be rounded to bfloat16.
    with torch.autocast(samples.device.type, enabled=False):
        window = torch.hann_window(FFT_SAMPLES, dtype=samples.dtype, device=samples.device)
        spectrum = torch.stft(
            samples, FFT_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()  # (batch, frequencies, frames)
        bank = _mel_filters_on(n_mels, samples.dtype, samples.device)
        return (bank @ power).clamp(min=POWER_FLOOR).log10()


def scale_log_mel(
    log_power: Float[Tensor, "*batch n_mels frames"], loudest: Float[Tensor, "..."]
) -> Float[Tensor, "*batch n_mels frames"]:
    """Scale log power to what the encoder takes, cut off 80 dB below the loudest value."""
    return (torch.maximum(log_power, loudest - DYNAMIC_RANGE) + 4.0) / 4.0


def window_log_mel(
    samples: Samples, *, n_mels: int, device: torch.device
) -> Float[Tensor, "n_mels 3000"]:
    """Return the log-mel of sound and of the silence that fills its window, made on a device.

    The same as :func:`log_mel` of :func:`stack_windows`, without a transform of all the silence.
    """
    n_frames = min(len(samples) // HOP_SAMPLES + SILENT_FRAMES, FRAMES_PER_WINDOW)
    padded = stack_windows([samples])[:, : n_frames * HOP_SAMPLES]
    mel = log_mel(padded.to(device), n_mels=n_mels)[0]
    silence = mel[:, -1:].expand(-1, FRAMES_PER_WINDOW - n_frames)
    return torch.cat([mel, silence], dim=1)


class RecordingMel:
    """The log-mel of a whole recording, made window by window.

    The frames are those of one transform of the whole recording, with 30 s of silence behind it,
    scaled by the loudest of all: what openai-whisper cuts its windows from. The recording is read
    twice; the first time for its loudest value.
    """

    def __init__(self, recording: Recording, *, n_mels: int, device: torch.device) -> None:
        self._recording = recording.again()
        self._n_mels = n_mels
        self._device = device
        self._loudest = math.log10(POWER_FLOOR)  # of the silence behind the sound
        scan, at = recording.again(), 0
        while (frames := self._log_power(scan, at, FRAMES_PER_WINDOW)).shape[1]:
            self._loudest = max(self._loudest, float(frames.amax()))
            at += FRAMES_PER_WINDOW
        self.duration_s = samples_to_seconds(end_of(scan, at * HOP_SAMPLES))

    def window(self, first: int, stop: int) -> tuple[Float[Tensor, "n_mels frames"], int]:
        """Return 3,000 frames from one on, and how many of them hold sound.

        From ``stop`` on, and behind the end of the recording, all is zero.
        """
        n_wanted = max(min(FRAMES_PER_WINDOW, stop - first), 0)
        power = self._log_power(self._recording, first, n_wanted)
        scaled = scale_log_mel(power, torch.tensor(self._loudest, device=self._device))
        missing = FRAMES_PER_WINDOW - scaled.shape[1]
        return torch.nn.functional.pad(scaled, (0, missing)), scaled.shape[1]

    def _log_power(
        self, recording: Recording, first_frame: int, n_frames: int
    ) -> Float[Tensor, "n_mels frames"]:
        """Return the frames that begin in the recording."""
        edge = FFT_SAMPLES // 2
        start = first_frame * HOP_SAMPLES
        samples = recording.read(max(start - edge, 0), start + n_frames * HOP_SAMPLES + edge)
        n_before = min(start, edge)
        n_frames = min(n_frames, (len(samples) - n_before) // HOP_SAMPLES)
        if n_frames <= 0:
            return torch.zeros(self._n_mels, 0, device=self._device)
        wanted = (n_frames - 1) * HOP_SAMPLES + FFT_SAMPLES
        sound = np.zeros(wanted + n_before, dtype=np.float32)
        sound[: len(samples)] = samples[: len(sound)]
        mirrored = np.pad(sound, (edge - n_before, 0), mode="reflect")  # the beginning alone
        block = torch.from_numpy(mirrored[:wanted]).to(self._device)
        return log_mel_power(block[None], n_mels=self._n_mels)[0]


def stack_windows(pieces: Sequence[Samples]) -> Float[Tensor, "batch 480000"]:
    """Return one 30 s window per piece, silent to the right of it; longer ones are a ValueError."""
    windows = np.zeros((len(pieces), WINDOW_SAMPLES), dtype=np.float32)
    for index, piece in enumerate(pieces):
        if len(piece) > WINDOW_SAMPLES:
            raise ValueError(
                f"a window holds {WINDOW_SAMPLES} samples, piece {index} has {len(piece)}; "
                "cut it first"
            )
        windows[index, : len(piece)] = piece
    return torch.from_numpy(windows)


def mel_filters(n_mels: int) -> npt.NDArray[np.float64]:
    """Return the Slaney mel filter bank, (n_mels, 201), to multiply a power spectrum with.

    Triangles whose corners are even on the mel scale from 0 to 8 kHz, each of area one over
    frequency.

    Source: M. Slaney, Auditory Toolbox, 1998; ``librosa/librosa: librosa/filters.py``, mel.
    """
    highest = _KNEE_MEL + math.log(SAMPLE_RATE_HZ / 2 / _KNEE_HZ) / _LOG_STEP
    mels = np.linspace(0.0, highest, n_mels + 2)
    above_knee_hz = _KNEE_HZ * np.exp(_LOG_STEP * (mels - _KNEE_MEL))
    corners_hz = np.where(mels < _KNEE_MEL, mels * _LINEAR_STEP_HZ, above_knee_hz)
    left, centre, right = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, N_FREQUENCIES)
    triangles = np.minimum((hz - left) / (centre - left), (right - hz) / (right - centre))
    bank: npt.NDArray[np.float64] = np.maximum(0.0, triangles) * (2.0 / (right - left))
    return bank


@lru_cache(maxsize=16)
def _mel_filters_on(n_mels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(mel_filters(n_mels)).to(device, dtype)
