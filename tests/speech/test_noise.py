from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.speech.audio import Samples, load_samples, write_wav
from distilwhisper.speech.noise import (
    PINK_FROM_HZ,
    PINK_PERIOD_SAMPLES,
    babble,
    draw_recording,
    mix_at_snr,
    pink_noise,
    recorded_noise,
    white_noise,
)
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.speech.units import SAMPLE_RATE_HZ


def sound(n_samples: int, *, seed: int = 0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


@given(
    n_speech=st.integers(1, 5000),
    n_noise=st.integers(1, 9000),
    snr_db=st.floats(-30, 40),
    level=st.floats(1e-3, 10.0),
)
def test_the_ratio_is_the_one_asked_for(
    n_speech: int, n_noise: int, snr_db: float, level: float
) -> None:
    speech, noise = sound(n_speech), level * sound(n_noise, seed=1)
    mixed = mix_at_snr(speech, noise.astype(np.float32), snr_db)
    assert mixed.dtype == np.float32
    assert len(mixed) == n_speech
    added = mixed.astype(np.float64) - speech
    powers = np.mean(np.square(speech, dtype=np.float64)), np.mean(np.square(added))
    # float32 rounds the sum, not the noise: at 40 dB a few 1e-5 of the noise
    assert 10 * np.log10(powers[0] / powers[1]) == pytest.approx(snr_db, abs=0.01)
    repeated = np.tile(noise, n_speech // n_noise + 1)[:n_speech]
    assert np.abs(added / np.abs(added).max() - repeated / np.abs(repeated).max()).max() < 1e-3


@pytest.mark.parametrize("silent", ["speech", "noise"])
def test_silence_has_no_ratio(silent: str) -> None:
    pair = {"speech": sound(100), "noise": sound(100), silent: np.zeros(100, dtype=np.float32)}
    with pytest.raises(ValueError, match=rf"5 dB, found that the {silent} is silent in all of"):
        mix_at_snr(pair["speech"], pair["noise"], 5.0)


def test_white_noise_is_as_loud_at_every_frequency() -> None:
    noise = white_noise(160_000, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)[1:]) ** 2 / len(noise)
    bands = power.reshape(10, -1).mean(axis=1)
    assert bands == pytest.approx(np.ones(10), abs=0.06)  # 5 standard deviations of 8,000 bins


def test_pink_noise_falls_by_ten_decibels_in_a_decade_from_20_hz_on() -> None:
    n_samples = 640_000
    noise = pink_noise(n_samples, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    frequencies_hz = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE_HZ)
    edges_hz = 20 * 2.0 ** np.arange(9)
    octaves = [
        power[(frequencies_hz >= low) & (frequencies_hz < 2 * low)].sum() for low in edges_hz[:-1]
    ]
    # Equal power in each octave is the slope of -1; the lowest has 800 bins, so 3.5 % of error.
    slope = np.polyfit(np.log2(edges_hz[:-1]), np.log2(np.divide(octaves, edges_hz[:-1])), 1)[0]
    assert slope == pytest.approx(-1, abs=0.02)
    assert np.divide(octaves, np.mean(octaves)) == pytest.approx(np.ones(8), abs=0.15)
    assert power[frequencies_hz < PINK_FROM_HZ].sum() < 1e-9 * power.sum()
    assert np.mean(np.square(noise, dtype=np.float64)) == pytest.approx(1)


@pytest.mark.parametrize("n_samples", [1, 50, 8_000])
def test_pink_noise_of_a_moment_is_heard(n_samples: int) -> None:
    noise = pink_noise(n_samples, np.random.default_rng(3))
    assert (len(noise), noise.dtype) == (n_samples, np.float32)
    assert np.count_nonzero(noise) == n_samples


def test_pink_noise_of_hours_begins_again_without_a_seam() -> None:
    n_samples = PINK_PERIOD_SAMPLES + 1_000
    noise = pink_noise(n_samples, np.random.default_rng(0))
    assert len(noise) == n_samples
    assert noise[PINK_PERIOD_SAMPLES:].tolist() == noise[:1_000].tolist()
    steps = np.abs(np.diff(noise))
    assert steps[PINK_PERIOD_SAMPLES - 1] < steps.max()


def tone(hz: float, n_samples: int) -> Samples:
    return np.sin(2 * np.pi * hz / SAMPLE_RATE_HZ * np.arange(n_samples)).astype(np.float32)


def test_voices_of_babble_are_equally_loud_and_begin_anywhere() -> None:
    n_samples = 16_000
    voices = [0.01 * tone(400, 16_000), 0.9 * tone(1_000, 4_000), np.zeros(50, dtype=np.float32)]
    mixed = babble(voices, n_samples, np.random.default_rng(0))
    assert (len(mixed), mixed.dtype) == (n_samples, np.float32)
    spectrum = np.fft.rfft(mixed)
    power = np.abs(spectrum) ** 2
    assert power[400] == pytest.approx(power[1_000], rel=1e-4)
    assert power[400] + power[1_000] == pytest.approx(power.sum(), rel=1e-4)
    other = np.fft.rfft(babble(voices, n_samples, np.random.default_rng(1)))
    assert abs(np.angle(other[400] / spectrum[400])) > 0.01
    assert not babble([], 10, np.random.default_rng(0)).any()


def test_recorded_noise_is_a_stretch_of_one_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "noises" / "deeper"
    folder.mkdir(parents=True)
    for name, n_samples in (("a", 1_000), ("b", 50)):
        write_wav(folder / f"{name}.wav", sound(n_samples, seed=ord(name)))
    (folder / ".hidden").write_text("no sound")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "index").write_text("no sound")
    whole = [np.tile(load_samples(folder / f"{name}.wav"), 20).tolist() for name in "ab"]
    starts = set()
    for seed in range(20):
        noise = recorded_noise(folder.parent, 300, np.random.default_rng(seed)).tolist()
        assert noise == recorded_noise(folder.parent, 300, np.random.default_rng(seed)).tolist()
        (where,) = {
            (file, at)
            for file, samples in enumerate(whole)
            for at in range((1_000, 50)[file])
            if samples[at : at + 300] == noise
        }
        starts.add(where)
    assert len(starts) > 10
    assert {file for file, _ in starts} == {0, 1}
    drawn = {len(draw_recording(folder.parent, np.random.default_rng(seed))) for seed in range(20)}
    assert drawn == {1_000, 50}


def test_a_folder_without_noise_and_a_file_without_sound_are_named(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "notes.txt").write_text("no sound")
    with pytest.raises(ValueError, match=r"found none in .*empty"):
        recorded_noise(empty, 10, np.random.default_rng(0))
    with pytest.raises(CorruptAudio, match=r"notes\.txt"):
        recorded_noise(broken, 10, np.random.default_rng(0))
