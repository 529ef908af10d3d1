"""Real weights on real speech with long pauses in it, and on a sentence said many times."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import ModelNotFound
from distilwhisper.speech.audio import Samples, load_samples
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.speech.units import seconds_to_samples
from distilwhisper.text.normalize import normalizer_for

pytestmark = pytest.mark.slow
FLOAT32 = Hardware(device="cpu", dtype="float32")
PAUSES_S = (1.0, 4.0, 12.0, 26.0, 40.0, 60.0)
LEVELS_DB = (None, -60.0, -40.0)


def words(text: str) -> list[str]:
    return normalizer_for("en")(text).split()


def n_lost(reference: str, hypothesis: str) -> int:
    steps = Levenshtein.opcodes(words(reference), words(hypothesis))
    shorter = [(s.src_end - s.src_start) - (s.dest_end - s.dest_start) for s in steps]
    return sum(n for n in shorter if n > 0)


def pause(seconds: float, level_db: float | None) -> Samples:
    steady = np.random.default_rng(0).standard_normal(seconds_to_samples(seconds))
    gain = 0.0 if level_db is None else 10 ** (level_db / 20)
    return (gain * steady).astype(np.float32)


@pytest.fixture(scope="module")
def english(tiny_en: Path) -> Transcriber:
    return Transcriber.from_model(str(tiny_en), hardware=FLOAT32)


@pytest.mark.parametrize("timestamps", [True, False])
def test_chunks_lose_no_more_at_a_pause_than_window_after_window(
    english: Transcriber, prompts: list[tuple[Samples, str]], timestamps: bool
) -> None:
    spoken = [prompts[i] for i in (1, 3, 7, 4, 2)]
    recordings, texts = [], []
    for number, seconds in enumerate(PAUSES_S):
        front = spoken[: 1 + number % 3]  # the pause begins elsewhere in a chunk each time
        back = spoken[1 + number % 3 :]
        silence = pause(seconds, LEVELS_DB[number % 3])
        pieces = [*(s for s, _ in front), silence, *(s for s, _ in back)]
        recordings.append(HeldRecording(np.concatenate(pieces)))
        texts.append(" ".join(text for _, text in spoken))
    lost = {}
    for long_form in ("sequential", "chunked"):
        timed = timestamps or long_form == "sequential"
        settings = DecodingSettings(long_form=long_form, timestamps=timed)
        found = dict(replace(english, settings=settings).transcribe_all(recordings))
        lost[long_form] = [n_lost(text, found[n].text) for n, text in enumerate(texts)]  # type: ignore[union-attr]
    for sequential, chunked in zip(lost["sequential"], lost["chunked"], strict=True):
        assert chunked <= sequential + 1, lost


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_a_sentence_said_twelve_times_is_written_twelve_times(
    english: Transcriber, prompts: list[tuple[Samples, str]], long_form: str
) -> None:
    samples, text = prompts[4]
    settings = DecodingSettings(long_form=long_form)  # type: ignore[arg-type]
    recording = np.concatenate([samples, pause(0.4, None)] * 12)
    transcript = replace(english, settings=settings).transcribe(recording)
    assert n_lost(" ".join([text] * 12), transcript.text) == 0
    assert len(words(transcript.text)) == 12 * len(words(text))
    assert {segment.temperature for segment in transcript.segments} == {0.0}


def case(name: str) -> Samples:
    folder = os.environ.get("DISTILWHISPER_CASES")
    if folder is None:
        pytest.skip("needs DISTILWHISPER_CASES, the folder of odd files")
    return load_samples(Path(folder) / name)


def test_both_utterances_around_a_pause_are_whole(english: Transcriber) -> None:
    for settings in (DecodingSettings(), DecodingSettings(timestamps=False)):
        text = replace(english, settings=settings).transcribe(case("pause26.ogg")).text.lower()
        assert "by a similar process" in text
        assert "the invention of movable metal letters" in text
        assert "may justly be considered as the invention of the art of printing" in text


def test_a_sentence_behind_much_silence_is_whole() -> None:
    samples = case("sil40_de.ogg")
    try:
        base = Transcriber.from_model(
            "openai/whisper-base", DecodingSettings(language="de"), FLOAT32
        )
    except ModelNotFound as error:
        pytest.skip(str(error))
    text = base.transcribe(samples).text
    assert text.startswith("Die Höhle befindet sich auf der Spitze")
    assert "völlig isoliert" in text


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_repetition_is_written_as_often_as_it_is_said(english: Transcriber, long_form: str) -> None:
    settings = DecodingSettings(long_form=long_form)  # type: ignore[arg-type]
    text = replace(english, settings=settings).transcribe(case("rep12.ogg")).text
    assert words(text).count("immediate") == words(text).count("printed") == 12
