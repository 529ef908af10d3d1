from pathlib import Path

import numpy as np
import pytest

from corpora import noise
from distilwhisper.speech.audio import Samples, load_samples
from distilwhisper.speech.levels import longest_pause, sounding_spans, speech_like_s
from distilwhisper.speech.units import samples_to_seconds

SPEECH = Path(__file__).parents[1] / "assets" / "speech"


def pause(seconds: float, level_db: float | None) -> Samples:
    quiet = np.random.default_rng(1).standard_normal(round(seconds * 16_000))
    return (0.0 * quiet if level_db is None else quiet * 10 ** (level_db / 20)).astype(np.float32)


def syllables(seconds: float, *, seed: int = 0, gain_db: float = 0.0) -> Samples:
    """Noise whose level rises and falls five times a second."""
    sound = noise(seconds, seed=seed)
    beat = np.abs(np.sin(np.arange(len(sound)) / 16_000 * np.pi * 2.5)) ** 4
    return (2.0 * sound * beat * 10 ** (gain_db / 20)).astype(np.float32)


def spans_s(samples: Samples) -> list[tuple[float, float]]:
    spans = sounding_spans(samples, pause_s=3.0)
    return [(samples_to_seconds(span.start), samples_to_seconds(span.stop)) for span in spans]


@pytest.mark.parametrize("level_db", [None, -60.0, -40.0])
def test_a_long_steady_pause_parts_what_sounds(level_db: float | None) -> None:
    sound = np.concatenate([syllables(5.0), pause(6.0, level_db), syllables(4.0, seed=1)])
    (start_s, end_s), (next_s, stop_s) = spans_s(sound)
    assert (start_s, stop_s) == (0.0, 15.0)
    assert end_s == pytest.approx(5.5, abs=0.3)
    assert next_s == pytest.approx(10.5, abs=0.3)
    mostly_pause = np.concatenate([pause(24.0, level_db), syllables(4.0)])
    ((start_s, stop_s),) = spans_s(mostly_pause)
    assert start_s == pytest.approx(23.5, abs=0.3)
    assert stop_s == 28.0


def test_what_has_no_long_pause_is_whole() -> None:
    for samples in (
        syllables(9.0),
        np.concatenate([syllables(5.0), pause(2.8, None), syllables(4.0)]),
        pause(20.0, None),
        pause(20.0, -40.0),
        pause(0.05, -40.0),
    ):
        assert spans_s(samples) == [(0.0, samples_to_seconds(len(samples)))]


def test_quiet_speech_is_no_pause_and_a_click_is_no_speech() -> None:
    quiet = np.concatenate([syllables(5.0), syllables(6.0, gain_db=-25), syllables(4.0)])
    assert spans_s(quiet) == [(0.0, 15.0)]
    silence = pause(10.0, -60.0)
    silence[80_000:81_000] += 0.5
    assert len(spans_s(np.concatenate([syllables(5.0), silence, syllables(4.0)]))) == 2
    silence[80_000:96_000] += syllables(1.0, gain_db=-20)
    assert len(spans_s(np.concatenate([syllables(5.0), silence, syllables(4.0)]))) == 3


def test_speech_is_counted_and_steady_sound_is_not() -> None:
    assert speech_like_s([pause(30.0, None), pause(30.0, -40.0)]) == 0
    hum = 0.1 * np.sin(np.arange(160_000) / 16_000 * 2 * np.pi * 100)
    assert speech_like_s([hum.astype(np.float32)]) == 0
    beats = np.concatenate([pause(25.0, -60.0), syllables(5.0)])
    assert 2 < speech_like_s([pause(30.0, -60.0), beats]) <= 5


@pytest.mark.parametrize("level_db", [-20, -40, -60])
def test_steady_sounds_are_no_speech(level_db: float) -> None:
    level = 10 ** (level_db / 20)
    hiss = np.random.default_rng(1).standard_normal(480_000).astype(np.float32)
    tone = np.sin(np.arange(480_000) / 5, dtype=np.float32)
    for steady in (hiss, tone, np.ones(480_000, dtype=np.float32), 0 * tone):
        assert not speech_like_s([level * steady])
    assert not speech_like_s([hiss[:100]])


def test_speech_may_be_speech_alone_in_noise_and_in_silence() -> None:
    speech = np.concatenate([load_samples(path) for path in sorted(SPEECH.glob("*.g722"))])[
        :480_000
    ]
    hiss = np.random.default_rng(1).standard_normal(480_000).astype(np.float32)
    silence = np.zeros(480_000, dtype=np.float32)
    silence[-32_000:] = speech[8_000:40_000]
    for sound in (speech, 0.01 * speech, speech + 0.003 * hiss[: len(speech)], silence):
        assert speech_like_s([sound])


def test_the_longest_pause_behind_a_place() -> None:
    parts = [
        noise(3.0, seed=1),
        pause(0.9, -60.0),
        noise(2.0, seed=2),
        pause(0.4, None),
        noise(2.0, seed=3),
    ]
    sound = np.concatenate(parts)  # pauses from 3.0 to 3.9 s, and from 5.9 to 6.3 s
    assert longest_pause(sound, 0) == pytest.approx(3.45 * 16_000, abs=1_600)
    assert longest_pause(sound, 4 * 16_000) == pytest.approx(6.1 * 16_000, abs=1_600)
    assert longest_pause(sound, 7 * 16_000) is None
    two_long = np.concatenate(
        [noise(1.0, seed=1), pause(2.0, None), noise(1.0, seed=1), pause(1.5, None)]
    )
    assert longest_pause(two_long, 0) == pytest.approx(4.75 * 16_000, abs=1_600)


def test_a_breath_between_words_and_noise_all_through_are_no_pause() -> None:
    assert (
        longest_pause(np.concatenate([noise(3.0, seed=1), pause(0.2, None), noise(3.0, seed=2)]), 0)
        is None
    )
    noisy = np.concatenate([noise(3.0, seed=1), pause(1.0, None), noise(3.0, seed=2)])
    assert longest_pause(noisy + noise(7.0, seed=3) * 0.3, 0) is None
    assert longest_pause(noise(0.05, seed=1), 0) is None
