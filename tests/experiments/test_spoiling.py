import numpy as np
import pytest
from experiments.spoiling import Spoiler, add_noise, first_half

from distilwhisper.corpus.records import Utterance
from distilwhisper.text.wer import word_errors

TEXTS = [
    "the cat sat on the mat and then it slept",
    "one two three four five six seven eight nine ten",
    "rain",
    "Rain!",
]
UTTERANCES = [Utterance(str(i), "a.wav", text=text) for i, text in enumerate(TEXTS)]
SPOILER = Spoiler(UTTERANCES, 0.2)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(5))
def test_so_many_words_are_other_ones(seed: int) -> None:
    for utterance, n_wrong in zip(UTTERANCES, (2, 2, 1, 1), strict=True):
        spoilt = SPOILER.other_words(utterance, generator(seed))
        errors = word_errors((utterance.text or "").lower(), spoilt.lower())
        assert (errors.substitutions, errors.insertions, errors.deletions) == (n_wrong, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_so_many_words_are_gone(seed: int) -> None:
    for utterance, n_gone in zip(UTTERANCES, (2, 2, 1, 1), strict=True):
        spoilt = SPOILER.words_gone(utterance, generator(seed))
        errors = word_errors(utterance.text or "", spoilt)
        assert (errors.substitutions, errors.insertions, errors.deletions) == (0, 0, n_gone)


@pytest.mark.parametrize("seed", range(8))
def test_another_text_says_something_else(seed: int) -> None:
    spoilt = SPOILER.other_text(UTTERANCES[2], generator(seed))
    assert spoilt in TEXTS[:2]  # "Rain!" is the same words


def test_without_another_text_there_is_nothing_to_take() -> None:
    with pytest.raises(ValueError, match=r"'2' must differ from 'rain', found nothing else"):
        Spoiler(UTTERANCES[2:], 0.2).other_text(UTTERANCES[2], generator())


def test_characters_are_words_where_these_are_not_spaced() -> None:
    utterance = Utterance("z", "a.wav", text="今天天气很好吗呢啊", language="zh")
    spoilt = Spoiler([utterance], 0.2).words_gone(utterance, generator())
    assert len(spoilt) == 7
    assert " " not in spoilt


def test_noise_has_the_power_asked_for_and_stays_within_bounds() -> None:
    samples = (0.9 * np.sin(np.arange(16_000) / 5)).astype(np.float32)
    mixed = add_noise(samples, generator(), 0.0)
    assert np.abs(mixed).max() == pytest.approx(1.0, abs=1e-6)
    gain = float(mixed @ samples / (samples @ samples))  # of the speech in the mixture
    noise = mixed - gain * samples
    assert 10 * np.log10(gain**2 * np.mean(samples**2) / np.mean(noise**2)) == pytest.approx(
        0.0, abs=0.2
    )
    silence = np.zeros(100, dtype=np.float32)
    assert add_noise(silence, generator(), 0.0) is silence


def test_half_is_left() -> None:
    samples = np.arange(10, dtype=np.float32)
    assert first_half(samples).tolist() == [0, 1, 2, 3, 4]
    assert first_half(samples[:1]).tolist() == [0]
