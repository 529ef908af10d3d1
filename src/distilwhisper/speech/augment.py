"""Sound made harder to learn from: faster, noisier, with holes, or without silence behind it.

What is done to a window is drawn first, as an :class:`Augmentation`, from a generator of its own;
then it is done. So the same draw can move a label's timestamps, sort windows by length, and change
the sound, wherever each of these happens.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from distilwhisper.checks import AT_LEAST_1, PROBABILITY, Checked, Rule, ruled
from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.noise import mix_at_snr, recorded_noise, white_noise
from distilwhisper.speech.units import (
    FRAMES_PER_WINDOW,
    HOP_SAMPLES,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    seconds_to_samples,
)

_FASTER_OR_SLOWER: Rule = ("be above zero", lambda factors: bool(factors) and min(factors) > 0)
_RISING: Rule = ("rise", lambda low_high: low_high[0] <= low_high[1])
_RISING_FROM_0: Rule = ("rise from 0 on", lambda low_high: 0 <= low_high[0] <= low_high[1])


@dataclass(frozen=True)
class AugmentSettings(Checked):
    """What may happen to the sound of a training window; nothing by default.

    Teacher and student get the same, but for short contexts, which are the student's alone.
    """

    speed_probability: float = ruled(0.0, PROBABILITY)
    """How often a window is played at another speed, its pitch and timestamps changing along."""
    speed_factors: tuple[float, ...] = ruled((0.9, 1.1), _FASTER_OR_SLOWER)
    """Of these one is drawn; above 1 is faster. A window that would grow over 30 s stays."""
    noise_probability: float = ruled(0.0, PROBABILITY)
    """How often noise is added."""
    noise: str = "white"
    """White noise, or a folder of recorded noises."""
    noise_snr_db: tuple[float, float] = ruled((0.0, 30.0), _RISING)
    """Lowest and highest ratio of speech to noise; drawn evenly between."""
    time_mask_share: float = ruled(0.0, PROBABILITY)
    """SpecAugment: share of the sound's frames to cut out, overlaps counted twice; usual: 0.05."""
    time_mask_frames: int = ruled(10, AT_LEAST_1)
    """Length of each cut, in frames of 10 ms."""
    frequency_mask_share: float = ruled(0.0, PROBABILITY)
    """SpecAugment: share of the mel bins to cut out, overlaps counted twice."""
    frequency_mask_bins: int = ruled(10, AT_LEAST_1)
    """Width of each cut."""
    short_context_probability: float = ruled(0.0, PROBABILITY)
    """How often the student gets a window without the silence that fills it up to 30 s, while the
    targets are still its teacher's of all 30: a student for short sound."""
    short_context_margin_s: tuple[float, float] = ruled((0.5, 2.0), _RISING_FROM_0)
    """Least and most silence that stays; drawn evenly between, then the whole is rounded up."""
    short_context_step_s: int = ruled(1, AT_LEAST_1)
    """Short contexts are multiples of this. Windows of one context go through the network together:
    with few different ones, a GPU has more to do at a time."""

    @property
    def is_on(self) -> bool:
        """Whether anything may happen."""
        return self.changes_sound or self.short_context_probability > 0

    @property
    def changes_sound(self) -> bool:
        """Whether the teacher, too, may get something else than what was recorded."""
        shares = (self.time_mask_share, self.frequency_mask_share)
        return any((self.speed_probability, self.noise_probability, *shares))


@dataclass(frozen=True)
class Augmentation:
    """What happens to one window, once."""

    speed: float = 1.0  # above 1 is faster
    snr_db: float | None = None  # None: no noise
    n_frames: int = FRAMES_PER_WINDOW  # of mel that the student's encoder is given
    seed: int = 0  # of the noise and the masks


def draw_augmentation(
    settings: AugmentSettings, generator: np.random.Generator, *, end_s: float | None
) -> Augmentation:
    """Draw what happens to a window: the same from the same state, whatever is switched on.

    The sound ends at ``end_s`` in the window; None, where that is not known, leaves speed and
    context as they are.
    """
    speed_draw, noise_draw, context_draw, snr_draw = generator.random(4)
    factor = settings.speed_factors[generator.integers(len(settings.speed_factors))]
    low_db, high_db = settings.noise_snr_db
    seed, margin_draw = int(generator.integers(2**63)), generator.random()
    low_s, high_s = settings.short_context_margin_s
    speed, n_frames = 1.0, FRAMES_PER_WINDOW
    if end_s is not None and speed_draw < settings.speed_probability:
        grown = seconds_to_samples(end_s) / factor
        speed = factor if round(grown) <= WINDOW_SAMPLES else 1.0
    if end_s is not None and context_draw < settings.short_context_probability:
        wanted_s = end_s / speed + low_s + margin_draw * (high_s - low_s)
        n_frames = context_frames(wanted_s, step_s=settings.short_context_step_s)
    is_noisy = noise_draw < settings.noise_probability
    snr_db = low_db + snr_draw * (high_db - low_db) if is_noisy else None
    return Augmentation(speed, snr_db, n_frames, seed)


def context_frames(seconds: float, *, step_s: int = 1) -> int:
    """Return the mel frames of a short context: whole steps, at most the window."""
    step = step_s * SAMPLE_RATE_HZ // HOP_SAMPLES
    n_steps = max(math.ceil(seconds_to_samples(seconds) / HOP_SAMPLES / step), 1)
    return min(n_steps * step, FRAMES_PER_WINDOW)


def augment_samples(
    samples: Samples, augmentation: Augmentation, settings: AugmentSettings
) -> Samples:
    """Return a window's sound, without the silence that fills it up, at its speed, then with noise.

    Sound or noise without any power has no ratio to the other, and stays as it is.
    """
    samples = change_speed(samples, augmentation.speed)
    if augmentation.snr_db is None or not samples.any():
        return samples
    generator = np.random.default_rng((augmentation.seed, 0))
    if settings.noise == "white":
        noise = white_noise(len(samples), generator)
    else:
        noise = recorded_noise(Path(settings.noise), len(samples), generator)
    return mix_at_snr(samples, noise, augmentation.snr_db) if noise.any() else samples


def change_speed(samples: Samples, factor: float) -> Samples:
    """Play samples faster; tempo and pitch change together, as on a tape.

    There are ``len(samples) / factor`` of them then, rounded; frequencies beyond 8 kHz are lost.

    Source: "Audio augmentation for speech recognition", Ko et al., Interspeech 2015. Resampled by
    its spectrum, which takes the sound for periodic: the edges are best silent.
    """
    n_after = round(len(samples) / factor)
    if n_after == len(samples):
        return samples
    spectrum = np.fft.rfft(samples.astype(np.float64))[: n_after // 2 + 1]
    return (np.fft.irfft(spectrum, n_after) * (n_after / len(samples))).astype(np.float32)


def mask_mel(
    mel: Float[Tensor, "n_mels frames"],
    augmentation: Augmentation,
    settings: AugmentSettings,
    *,
    n_sound_frames: int,
) -> Float[Tensor, "n_mels frames"]:
    """Return a window's log-mel with stretches of frequency and of its sound set to zero.

    Source: arXiv:1904.08779, without the warping; counted, placed and filled as transformers does
    when it fine-tunes Whisper (``modeling_whisper.py``, _compute_mask_indices).
    """
    generator = np.random.default_rng((augmentation.seed, 1))
    masked = mel.clone()
    if share := settings.time_mask_share:
        length = settings.time_mask_frames  # and at least two, as in transformers
        in_time = masked_places(n_sound_frames, generator, share=share, length=length, least=2)
        masked[:, np.flatnonzero(in_time)] = 0
    if share := settings.frequency_mask_share:
        length = settings.frequency_mask_bins
        in_frequency = masked_places(len(mel), generator, share=share, length=length)
        masked[np.flatnonzero(in_frequency)] = 0
    return masked


def masked_places(
    n_places: int, generator: np.random.Generator, *, share: float, length: int, least: int = 0
) -> npt.NDArray[np.bool_]:
    """Return which places of an axis are masked, by spans of which no two begin at one place.

    Together they are a share of the places, chance rounding their number up or down; but at least
    so many, where they fit.
    """
    n_begins = max(n_places - (length - 1), 0)
    n_spans = max(int(share * n_places / length + generator.random()), least)
    n_spans = min(n_spans, n_places // length, n_begins)
    masked = np.zeros(n_places, dtype=np.bool_)
    for begin in generator.choice(n_begins, n_spans, replace=False) if n_spans else ():
        masked[begin : begin + length] = True
    return masked
