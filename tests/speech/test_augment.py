from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.speech.audio import write_wav
from distilwhisper.speech.augment import (
    Augmentation,
    AugmentSettings,
    augment_samples,
    change_speed,
    context_frames,
    draw_augmentation,
    mask_mel,
    masked_places,
)


def tone(hz: float, n_samples: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tone that rises and falls, so that its edges are silent."""
    times = np.arange(n_samples) / 16_000
    return (np.sin(2 * np.pi * hz * times) * np.hanning(n_samples)).astype(np.float32)


EVERYTHING = AugmentSettings(
    speed_probability=0.5,
    noise_probability=0.5,
    short_context_probability=0.5,
    time_mask_share=0.05,
    frequency_mask_share=0.05,
)


# What is drawn


def test_nothing_happens_by_default() -> None:
    assert not AugmentSettings().is_on
    drawn = draw_augmentation(AugmentSettings(), np.random.default_rng(0), end_s=3.0)
    assert replace(drawn, seed=0) == Augmentation()
    for name in ("speed_probability", "noise_probability", "short_context_probability"):
        assert AugmentSettings(**{name: 0.1}).is_on
        of_both = name != "short_context_probability"
        assert AugmentSettings(**{name: 0.1}).changes_sound == of_both
    for name in ("time_mask_share", "frequency_mask_share"):
        assert AugmentSettings(**{name: 0.1}).is_on
        assert AugmentSettings(**{name: 0.1}).changes_sound


def test_draws_are_as_frequent_as_asked_and_alone_the_same_as_together() -> None:
    generators = [np.random.default_rng(seed) for seed in range(1_000)]
    drawn = [draw_augmentation(EVERYTHING, generator, end_s=3.0) for generator in generators]
    assert drawn == [
        draw_augmentation(EVERYTHING, np.random.default_rng(seed), end_s=3.0)
        for seed in range(1_000)
    ]
    counts = [
        sum(a.speed == 0.9 for a in drawn) * 2,
        sum(a.speed == 1.1 for a in drawn) * 2,
        sum(a.snr_db is not None for a in drawn),
        sum(a.n_frames < 3000 for a in drawn),
    ]
    assert counts == pytest.approx([500] * 4, abs=150)  # over 5 standard deviations
    ratios = [a.snr_db for a in drawn if a.snr_db is not None]
    assert 0 <= min(ratios) < 2
    assert 28 < max(ratios) <= 30
    alone = replace(EVERYTHING, speed_probability=0.0)
    for seed, augmentation in enumerate(drawn[:50]):
        without = draw_augmentation(alone, np.random.default_rng(seed), end_s=3.0)
        assert (without.snr_db, without.seed) == (augmentation.snr_db, augmentation.seed)


@given(end_s=st.floats(0.01, 30.0), seed=st.integers(0, 1000), factor=st.floats(0.3, 3.0))
def test_what_is_drawn_fits_the_window(end_s: float, seed: int, factor: float) -> None:
    settings = replace(EVERYTHING, speed_factors=(factor,), speed_probability=1.0)
    drawn = draw_augmentation(settings, np.random.default_rng(seed), end_s=end_s)
    assert drawn.speed in (1.0, factor)
    assert end_s / drawn.speed <= 30.0 + 1 / 16_000
    assert 100 * end_s / drawn.speed <= drawn.n_frames + 1e-2
    assert drawn.n_frames % 100 == 0
    assert 100 <= drawn.n_frames <= 3000


def test_sound_of_unknown_length_keeps_its_speed_and_its_context() -> None:
    for seed in range(20):
        drawn = draw_augmentation(EVERYTHING, np.random.default_rng(seed), end_s=None)
        assert (drawn.speed, drawn.n_frames) == (1.0, 3000)


@pytest.mark.parametrize(
    ("seconds", "frames"), [(0.0, 100), (1.0, 100), (1.01, 200), (29.0, 2900), (31.0, 3000)]
)
def test_a_short_context_is_whole_seconds(seconds: float, frames: int) -> None:
    assert context_frames(seconds) == frames


@pytest.mark.parametrize(
    ("seconds", "frames"), [(0.0, 500), (5.0, 500), (5.01, 1000), (26.0, 3000)]
)
def test_short_contexts_are_whole_steps(seconds: float, frames: int) -> None:
    assert context_frames(seconds, step_s=5) == frames


def test_settings_that_make_no_sense_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"noise_probability .* \[0, 1\], found 2\.0; .*must rise"):
        AugmentSettings(noise_probability=2.0, noise_snr_db=(9.0, 1.0))
    for wrong in (
        {"time_mask_share": -0.1},
        {"speed_factors": ()},
        {"speed_factors": (0.0,)},
        {"time_mask_frames": 0},
        {"short_context_margin_s": (-1.0, 1.0)},
        {"short_context_margin_s": (2.0, 1.0)},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AugmentSettings(**wrong)  # type: ignore[arg-type]


# Speed


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1, 1.37])
def test_a_faster_tone_is_shorter_and_higher(factor: float) -> None:
    faster = change_speed(tone(440.0, 16_000), factor)
    assert faster.dtype == np.float32
    assert len(faster) == round(16_000 / factor)
    places = np.arange(len(faster)) * (16_000 / len(faster))  # in the slower tone
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * places / 15_999)
    expected = np.sin(2 * np.pi * 440.0 / 16_000 * places) * hann
    assert np.abs(faster - expected).max() < 1e-5


def test_frequencies_that_the_rate_cannot_hold_are_lost_and_not_folded() -> None:
    assert np.abs(change_speed(tone(7_900.0, 16_000), 1.1)).max() < 1e-3


# Noise


def test_noise_is_added_as_loud_as_drawn(tmp_path: Path) -> None:
    samples = tone(440.0, 16_000)
    write_wav(tmp_path / "n.wav", 0.5 * tone(100.0, 500))
    for noise in ("white", str(tmp_path)):
        settings = AugmentSettings(noise_probability=1.0, noise=noise)
        noisy = augment_samples(samples, Augmentation(snr_db=10.0, seed=1), settings)
        added = noisy - samples
        assert np.mean(samples**2) / np.mean(added**2) == pytest.approx(10.0, rel=1e-3)
        again = augment_samples(samples, Augmentation(snr_db=10.0, seed=1), settings)
        assert np.array_equal(noisy, again)
        other = augment_samples(samples, Augmentation(snr_db=10.0, seed=2), settings)
        assert not np.array_equal(noisy, other)


def test_silence_stays_silent(tmp_path: Path) -> None:
    settings = AugmentSettings(noise_probability=1.0)
    silence = np.zeros(100, dtype=np.float32)
    assert not augment_samples(silence, Augmentation(snr_db=0.0), settings).any()
    write_wav(tmp_path / "silent.wav", silence)
    quiet = replace(settings, noise=str(tmp_path))
    samples = tone(440.0, 1_600)
    assert np.array_equal(augment_samples(samples, Augmentation(snr_db=0.0), quiet), samples)


# Masks


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(("n_places", "length", "least"), [(3000, 10, 2), (80, 10, 0), (40, 30, 2)])
def test_masks_are_those_of_transformers(
    monkeypatch: pytest.MonkeyPatch, share: float, n_places: int, length: int, least: int
) -> None:
    """Transformers draws from numpy's global state: here, from a generator like ours."""
    whisper = pytest.importorskip("transformers.models.whisper.modeling_whisper")
    for seed in range(10):
        theirs = np.random.default_rng(seed)
        monkeypatch.setattr(np.random, "rand", theirs.random)
        monkeypatch.setattr(np.random, "choice", theirs.choice)
        expected = whisper._compute_mask_indices((1, n_places), share, length, None, least)[0]
        found = masked_places(
            n_places,
            share=share,
            length=length,
            least=least,
            generator=np.random.default_rng(seed),
        )
        assert np.array_equal(found, expected)


def test_masks_cut_whole_frames_and_whole_bins_and_leave_the_rest() -> None:
    mel = torch.rand(80, 3000) + 1
    settings = AugmentSettings(time_mask_share=0.1, frequency_mask_share=0.3)
    masked = mask_mel(mel, Augmentation(seed=3), settings, n_sound_frames=500)
    holes = masked == 0
    frames, bins = holes.all(dim=0), holes.all(dim=1)
    assert torch.equal(holes, frames[None] | bins[:, None])
    assert torch.equal(masked[~holes], mel[~holes])
    assert 10 <= frames.sum() <= 60
    assert 10 <= bins.sum() <= 30
    assert not frames[500:].any()
    assert (mel > 0).all()  # what came in is as it was
    other = mask_mel(mel, Augmentation(seed=4), settings, n_sound_frames=500)
    assert not torch.equal(other, masked)
    again = mask_mel(mel, Augmentation(seed=3), settings, n_sound_frames=500)
    assert torch.equal(again, masked)


@given(n_frames=st.integers(0, 30), share=st.floats(0, 1), length=st.integers(1, 40))
def test_sound_too_short_for_a_mask_has_none(n_frames: int, share: float, length: int) -> None:
    masked = masked_places(
        n_frames, share=share, length=length, least=2, generator=np.random.default_rng(0)
    )
    assert len(masked) == n_frames
    assert masked.any() == (n_frames >= length)
