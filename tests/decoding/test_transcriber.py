from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import hearing_model, noise
from tiny_model import write_tiny_model

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import SAMPLE_RATE_HZ, WINDOW_SAMPLES

CPU = Hardware(device="cpu", dtype="float32")
SHORT = DecodingSettings(max_new_tokens=8, temperatures=(0.0,))


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    model = hearing_model(tmp_path_factory.mktemp("models") / "hearing")
    return Transcriber.from_model(str(model), SHORT, CPU)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    model = hearing_model(tmp_path_factory.mktemp("models") / "hearing", multilingual=True)
    return Transcriber.from_model(str(model), SHORT, CPU)


def test_every_piece_has_its_window_whatever_the_batch_size(english: Transcriber) -> None:
    pieces = [noise(0.4 + 0.3 * i, seed=i) for i in range(5)]
    together = english.decode(pieces)
    in_twos = replace(english, settings=replace(SHORT, batch_size=2)).decode(pieces)
    assert len({window.token_ids for window in together}) > 1
    assert [w.token_ids for w in in_twos] == [w.token_ids for w in together]
    assert all(len(window.token_ids) <= 8 for window in together)
    for window in together:
        assert window.text == english.tokenizer.decode(window.token_ids).strip()


def test_no_pieces_are_no_windows(english: Transcriber) -> None:
    assert english.decode([]) == []


def test_an_empty_piece_is_refused(english: Transcriber) -> None:
    with pytest.raises(ValueError, match="piece 1 must hold at least one sample"):
        english.decode([noise(0.5, seed=1), np.zeros(0, dtype=np.float32)])


def test_a_piece_longer_than_a_window_is_refused(english: Transcriber) -> None:
    with pytest.raises(ValueError, match=r"480,?000|30 s") as caught:
        english.decode([np.zeros(WINDOW_SAMPLES + 1, dtype=np.float32)])
    assert "480001" in str(caught.value).replace(",", "")


def test_a_recording_of_no_samples_is_refused(english: Transcriber) -> None:
    with pytest.raises(ValueError, match="at least one sample, found none"):
        english.transcribe(np.zeros(0, dtype=np.float32))


def test_a_recording_of_one_window_is_that_window(english: Transcriber) -> None:
    samples = noise(20.0, seed=4)
    cut = replace(english, settings=replace(SHORT, chunk_s=5, overlap_s=1))
    (window,) = english.decode([samples])
    transcript = cut.transcribe(samples)
    assert transcript.text == window.text
    assert {segment.seek for segment in transcript.segments} == {0}


def test_a_long_recording_is_covered_and_its_segments_are_in_order(english: Transcriber) -> None:
    cut = replace(english, settings=replace(SHORT, chunk_s=10, overlap_s=2, batch_size=2))
    done: list[float] = []
    samples = noise(41.3, seed=5)
    transcript = cut.transcribe(samples, on_progress=done.append)

    # Chunks of 10 s every 8 s, the last at the end; the join may leave nothing of one.
    seeks = [segment.seek for segment in transcript.segments]
    assert set(seeks) <= {0, 800, 1600, 2400, 3130}
    assert {0, 3130} <= set(seeks)
    assert seeks == sorted(seeks)
    assert [segment.id for segment in transcript.segments] == list(range(len(seeks)))
    assert sum(done) == pytest.approx(41.3)
    assert len(done) == 5
    for segment in transcript.segments:
        assert 0 <= segment.start_s <= segment.end_s <= 41.3
        assert segment.text == english.tokenizer.decode(segment.token_ids)
    for one, next_ in pairwise(transcript.segments):
        assert one.start_s <= next_.start_s
    assert transcript.text == "".join(s.text for s in transcript.segments).strip()
    assert transcript.language == "en"


def test_a_language_that_is_given_is_in_the_prompt(multilingual: Transcriber) -> None:
    tokenizer = multilingual.tokenizer
    piece = noise(0.5, seed=1)
    zh, de = multilingual.decode([piece, piece], languages=["zh", "german"])
    assert (zh.language, de.language) == ("zh", "de")
    assert zh.prompt_ids == (tokenizer.sot, tokenizer.languages["zh"], tokenizer.transcribe)
    assert de.prompt_ids == (tokenizer.sot, tokenizer.languages["de"], tokenizer.transcribe)


def test_the_settings_language_and_task_hold_where_a_piece_has_no_language(
    multilingual: Transcriber,
) -> None:
    settings = replace(SHORT, language="German", task="translate", timestamps=False)
    german = replace(multilingual, settings=settings)
    tokenizer = german.tokenizer
    own, none = german.decode([noise(0.5, seed=1)] * 2, languages=["zh", None])
    assert own.language == "zh"
    assert none.prompt_ids == (
        tokenizer.sot,
        tokenizer.languages["de"],
        tokenizer.translate,
        tokenizer.no_timestamps,
    )


def test_a_transcript_names_its_language_by_its_code(multilingual: Transcriber) -> None:
    german = replace(multilingual, settings=replace(SHORT, language="German"))
    assert german.transcribe(noise(0.5, seed=1)).language == "de"
    assert multilingual.transcribe(noise(0.5, seed=1), language="german").language == "de"


@pytest.fixture(scope="module")
def detecting(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    """A random model that takes quiet noise and loud noise for two languages."""
    model = tmp_path_factory.mktemp("models") / "detecting"
    write_tiny_model(model, seed=4, std=0.3, multilingual=True)
    return Transcriber.from_model(str(model), SHORT, CPU)


QUIET, LOUD = 0.3 * noise(3.0, seed=0), 1.3 * noise(8.0, seed=1)


def test_a_language_is_detected_where_none_is_given(detecting: Transcriber) -> None:
    windows = detecting.decode([QUIET, LOUD])
    quiet, loud = (window.language for window in windows)
    assert quiet != loud
    for window in windows:
        assert window.prompt_ids[1] == detecting.tokenizer.languages[window.language]
    # The others keep theirs, and a detected one stays in its place.
    mixed = detecting.decode([QUIET, QUIET, LOUD], languages=["en", None, None])
    assert [window.language for window in mixed] == ["en", quiet, loud]


def test_a_recordings_language_is_that_of_its_first_window(detecting: Transcriber) -> None:
    samples = np.zeros(40 * SAMPLE_RATE_HZ, dtype=np.float32)
    samples[: len(QUIET)], samples[-len(LOUD) :] = QUIET, LOUD
    cut = replace(detecting, settings=replace(SHORT, chunk_s=10, overlap_s=0, batch_size=1))
    ten_s = 10 * SAMPLE_RATE_HZ
    first, last = detecting.decode([samples[:ten_s], samples[-ten_s:]])
    assert first.language != last.language
    transcript = cut.transcribe(samples)
    assert transcript.language == first.language
    # All chunks are decoded in it, not each in a language of its own.
    given = cut.transcribe(samples, language=first.language)
    assert transcript == given


def test_an_unknown_language_names_the_nearest(tiny_multilingual_model: Path) -> None:
    settings = DecodingSettings(language="germn")
    with pytest.raises(ValueError, match='found "germn", nearest is "german"'):
        Transcriber.from_model(str(tiny_multilingual_model), settings, CPU)


def test_an_english_only_model_takes_no_other_language(tiny_model: Path) -> None:
    assert Transcriber.from_model(str(tiny_model), DecodingSettings(language="english"), CPU)
    with pytest.raises(ValueError, match='English only and no "de"'):
        Transcriber.from_model(str(tiny_model), DecodingSettings(language="de"), CPU)


def test_languages_are_checked_by_utterance(multilingual: Transcriber) -> None:
    multilingual.check_languages({"a": "de", "b": None, "c": "chinese"})
    with pytest.raises(ValueError, match=r"utterance 'b'.*\"fr\""):
        multilingual.check_languages({"a": "de", "b": "fr"})


def test_an_english_only_model_cannot_translate(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="English-only and cannot translate"):
        Transcriber.from_model(str(tiny_model), DecodingSettings(task="translate"), CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_s": 31.0}, r"chunk_s must lie in \[1, 30\], found 31"),
        ({"chunk_s": 0.5}, r"chunk_s must lie in \[1, 30\], found 0.5"),
        ({"chunk_s": float("nan")}, "chunk_s must lie"),
        ({"chunk_s": 10.0, "overlap_s": 10.0}, r"at most 8, .*chunk_s \(10\), found 10"),
        ({"overlap_s": -1.0}, "overlap_s must be at least 0.*found -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, found 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecodingSettings(**settings)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cudda", "device must be auto, cpu, cuda or cuda:N, found 'cudda'"),
        ("mps", "device must be auto, cpu, cuda or cuda:N, found 'mps'"),
        ("cuda:99", r"device cuda:99 must be there, found \d+ GPUs"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hardware(device=device).pick_device()


def test_devices_and_dtypes_are_picked_as_asked() -> None:
    assert CPU.pick_device() == torch.device("cpu")
    assert CPU.pick_dtype() == torch.float32
    assert Hardware().pick_device().type in ("cpu", "cuda")
    assert CPU.describe() == "cpu, float32"
    assert CPU.pick_training_dtype() == torch.float32
    with pytest.raises(ValueError, match="bfloat16 or float32, found dtype float16"):
        replace(CPU, dtype="float16").pick_training_dtype()


def test_the_overlap_is_a_third_of_a_chunk_unless_said_otherwise() -> None:
    assert DecodingSettings().shared_s == 10.0
    assert DecodingSettings(chunk_s=15.0).shared_s == 5.0
    assert DecodingSettings(overlap_s=0.0).shared_s == 0.0
