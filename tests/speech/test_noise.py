from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.speech.audio import CorruptAudio, Samples, load_samples, write_wav
from distilwhisper.speech.noise import mix_at_snr, recorded_noise, white_noise


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


def test_recorded_noise_is_a_stretch_of_one_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "noises" / "deeper"
    folder.mkdir(parents=True)
    for name, n_samples in (("a", 1_000), ("b", 50)):
        write_wav(folder / f"{name}.wav", sound(n_samples, seed=ord(name)))
    (folder / ".hidden").write_text("no sound")
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


def test_a_folder_without_noise_and_a_file_without_sound_are_named(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "notes.txt").write_text("no sound")
    with pytest.raises(ValueError, match=r"found none in .*empty"):
        recorded_noise(empty, 10, np.random.default_rng(0))
    with pytest.raises(CorruptAudio, match=r"notes\.txt"):
        recorded_noise(broken, 10, np.random.default_rng(0))
