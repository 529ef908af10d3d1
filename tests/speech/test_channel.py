import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.speech.audio import Samples
from distilwhisper.speech.channel import (
    clip_peaks,
    reverberate,
    room_response,
    through_codec,
)
from distilwhisper.speech.units import SAMPLE_RATE_HZ


def sound(n_samples: int, *, seed: int = 0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


@pytest.mark.parametrize("rt60_s", [0.3, 0.6, 1.2])
def test_the_tail_of_a_room_falls_by_sixty_decibels_in_its_rt60(rt60_s: float) -> None:
    response = room_response(rt60_s, np.random.default_rng(0))
    assert response[0] == 1.0
    assert len(response) == round(rt60_s * SAMPLE_RATE_HZ) + 1
    # Schroeder's backward integral, read from -5 to -35 dB as ISO 3382 does for T30.
    left = np.cumsum(np.square(response[1:], dtype=np.float64)[::-1])[::-1]
    level_db = 10 * np.log10(left / left[0])
    read = np.flatnonzero((level_db <= -5) & (level_db >= -35))
    slope = np.polyfit(read / SAMPLE_RATE_HZ, level_db[read], 1)[0]
    assert -60 / slope == pytest.approx(rt60_s, rel=0.05)
    energy = np.mean(
        [np.square(room_response(rt60_s, np.random.default_rng(s))[1:]).sum() for s in range(20)]
    )
    assert energy == pytest.approx(7.0 * rt60_s, rel=0.05)


def test_rooms_differ_in_how_soon_the_same_noise_is_gone() -> None:
    short, long = (room_response(rt60_s, np.random.default_rng(5)) for rt60_s in (0.2, 0.8))
    n = np.arange(1, 2_000)
    decays = [10 ** (-3 * n / (rt60_s * SAMPLE_RATE_HZ)) for rt60_s in (0.2, 0.8)]
    assert np.allclose(short[n] / decays[0], long[n] / decays[1], rtol=1e-5)


@given(n_samples=st.integers(1, 60_000), n_response=st.integers(1, 9_000), data=st.data())
def test_reverberation_is_a_convolution_that_leaves_the_direct_sound_in_its_place(
    n_samples: int, n_response: int, data: st.DataObject
) -> None:
    samples, response = sound(n_samples), 0.1 * sound(n_response, seed=1)
    direct = data.draw(st.integers(0, n_response - 1))
    response[direct] = 1.0
    heard = reverberate(samples, response)
    assert (len(heard), heard.dtype) == (n_samples, np.float32)
    plain = np.convolve(samples, response)[direct : direct + n_samples]
    plain *= np.sqrt(power(samples) / power(plain))
    # float32, with sums of thousands of terms
    assert np.abs(heard - plain).max() < 1e-5
    assert power(heard) == pytest.approx(power(samples), rel=1e-5)


def test_an_echo_free_room_changes_nothing() -> None:
    samples = sound(50_000)
    response = np.zeros(3_000, dtype=np.float32)
    response[700] = -0.25  # a recorded response may come late, quiet and upside down
    assert np.abs(reverberate(samples, response) + samples).max() < 1e-6


def test_silence_is_not_reverberated() -> None:
    silence = np.zeros(100, dtype=np.float32)
    with pytest.raises(ValueError, match="found the room's response silent"):
        reverberate(sound(100), silence)
    with pytest.raises(ValueError, match="found the sound silent"):
        reverberate(silence, sound(100))


@pytest.mark.parametrize("drive_db", [0.0, 6.0, 20.0])
def test_clipping_takes_what_stands_above_and_leaves_the_rest(drive_db: float) -> None:
    samples = sound(10_000)
    clipped = clip_peaks(samples, drive_db)
    most = np.abs(samples).max() * 10 ** (-drive_db / 20)
    above = np.abs(samples) > most
    assert clipped.dtype == np.float32
    assert np.array_equal(clipped[~above], samples[~above])
    assert np.allclose(clipped[above], most * np.sign(samples[above]))
    assert above.any() == (drive_db > 0)


def test_silence_is_not_clipped() -> None:
    assert not clip_peaks(np.zeros(10, dtype=np.float32), 20.0).any()


CODECS = ["opus-6k", "opus-24k", "mp3-8k", "mp3-16k", "mp3-64k", "mulaw"]


@pytest.mark.parametrize("name", CODECS)
def test_speech_behind_a_codec_has_its_length_and_its_place(
    name: str, prompts: list[tuple[Samples, str]]
) -> None:
    for samples, _ in prompts[:2]:
        heard = through_codec(samples, name)
        assert (len(heard), heard.dtype) == (len(samples), np.float32)
        assert not np.array_equal(heard, samples)
        size = 1 << (2 * len(samples)).bit_length()
        product = np.fft.rfft(samples, size).conj() * np.fft.rfft(heard, size)
        correlation = np.fft.irfft(product, size)
        most = np.argmax(correlation)
        assert min(most, size - most) <= (name.startswith("opus"))  # its high-pass leads a little
        assert correlation[0] > 0.8 * np.linalg.norm(samples) * np.linalg.norm(heard)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("n_samples", [1, 160, 8_001])
def test_a_moment_keeps_its_length_too(name: str, n_samples: int) -> None:
    assert len(through_codec(sound(n_samples), name)) == n_samples


def test_more_bits_are_nearer_to_the_sound(prompts: list[tuple[Samples, str]]) -> None:
    samples = prompts[0][0]
    # Of what Opus changes, much is a filter for voices that more bits do not take back.
    for name, rates_k, least in (("opus", (6, 16, 64), 0.8), ("mp3", (8, 24, 64), 0.3)):
        heard = [through_codec(samples, f"{name}-{k}k") for k in rates_k]
        errors = [power(h - samples) for h in heard]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < least * errors[0]


def test_a_telephone_hears_nothing_above_four_kilohertz() -> None:
    heard = through_codec(sound(32_000), "mulaw")
    spectrum = np.abs(np.fft.rfft(heard)) ** 2
    assert spectrum[8_400:].sum() < 1e-3 * spectrum.sum()
    assert spectrum[:7_000].sum() > 0.9 * spectrum.sum()


def test_a_codec_clips_what_its_input_cannot_hold() -> None:
    loud = np.array([0.0, 3.0, -3.0, 0.0] * 4_000, dtype=np.float32).repeat(4)
    assert np.abs(through_codec(loud, "mulaw")).max() < 1.2


@pytest.mark.parametrize("text", ["opus", "opus-5k", "mp3-17k", "mulaw-64k", "gsm", "", "Opus-6k"])
def test_an_unknown_codec_is_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(ValueError, match=f'opus-6k to opus-256k.*mulaw, found "{text}"'):
        through_codec(sound(160), text)
