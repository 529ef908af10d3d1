"""Real weights on real speech: whisper-tiny.en on prompts of the Asterisk project."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rapidfuzz.distance import Levenshtein

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import ModelNotFound, resolve_model
from distilwhisper.speech.audio import Samples
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import make_student
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.wer import ErrorCounts, word_errors
from transcripts import assert_reliable

FLOAT32 = Hardware(device="cpu", dtype="float32")


def errors(references: list[str], hypotheses: list[str]) -> ErrorCounts:
    normalize = normalizer_for("en")
    pairs = zip(references, hypotheses, strict=True)
    return sum((word_errors(normalize(r), normalize(h)) for r, h in pairs), ErrorCounts())


def test_short_prompts_are_heard(tiny_en: Path, prompts: list[tuple[Samples, str]]) -> None:
    transcriber = Transcriber.from_model(str(tiny_en), hardware=FLOAT32)
    windows = transcriber.decode([samples for samples, _ in prompts])
    counts = errors([text for _, text in prompts], [window.text for window in windows])
    assert counts.wer < 0.05  # 1.1 % when this was written; one word is 1.1 %
    assert all(window.finished for window in windows)


@pytest.mark.slow
def test_a_long_recording_is_heard_whole(tiny_en: Path, prompts: list[tuple[Samples, str]]) -> None:
    """Over a minute in chunks of 15 s: a seam that lost or doubled a sentence would show."""
    pause = np.zeros(8_000, dtype=np.float32)
    ordered = [*prompts, *prompts[::-1]]
    samples = np.concatenate([piece for prompt, _ in ordered for piece in (prompt, pause)])
    settings = DecodingSettings(chunk_s=15.0)
    transcript = Transcriber.from_model(str(tiny_en), settings, FLOAT32).transcribe(samples)
    counts = errors([" ".join(text for _, text in ordered)], [transcript.text])
    assert counts.deletions <= 2
    assert counts.wer < 0.05
    times = [t for segment in transcript.segments for t in (segment.start, segment.end)]
    assert times[0] < 1
    assert len(samples) / 16_000 - 3 < times[-1] <= len(samples) / 16_000
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)


@pytest.mark.slow
@pytest.mark.parametrize(("chunk_s", "overlap_s"), [(30.0, 10.0), (15.0, 5.0)])
def test_nothing_is_lost_or_doubled_at_seams(
    tiny_en: Path,
    prompts: list[tuple[Samples, str]],
    chunk_s: float,
    overlap_s: float,
) -> None:
    """Utterances joined to minutes, against what the model hears in each alone."""
    settings = DecodingSettings(chunk_s=chunk_s, overlap_s=overlap_s)
    transcriber = Transcriber.from_model(str(tiny_en), settings, FLOAT32)
    alone = [window.text for window in transcriber.decode([samples for samples, _ in prompts])]
    heard_alone = list(zip([samples for samples, _ in prompts], alone, strict=True))
    pause = np.zeros(6_000, dtype=np.float32)
    ordered = [*heard_alone, *heard_alone[::-1], *heard_alone[1::2], *heard_alone[::2]]
    pieces: list[Samples] = []
    spoken: list[tuple[str, float]] = []  # words and about when they are said
    at_s = 0.0
    normalize = normalizer_for("en")
    for samples, text in ordered:
        words = normalize(text).split()
        length_s = len(samples) / 16_000
        spoken += [(w, at_s + (i + 0.5) * length_s / len(words)) for i, w in enumerate(words)]
        pieces += [samples, pause]
        at_s += length_s + len(pause) / 16_000
    heard = normalize(transcriber.transcribe(np.concatenate(pieces)).text).split()
    step_s = chunk_s - overlap_s
    edges_s = [k * step_s for k in range(1, int(at_s / step_s) + 1)]
    edges_s += [edge_s + overlap_s for edge_s in edges_s]
    at_seams = {"dropped": 0, "doubled": 0}
    words = [word for word, _ in spoken]
    for tag, first, stop, other, other_stop in Levenshtein.opcodes(words, heard):
        when_s = spoken[min(first, len(spoken) - 1)][1]
        if tag in ("equal", "replace") or min(abs(when_s - edge) for edge in edges_s) > 1.5:
            continue
        at_seams["dropped" if tag == "delete" else "doubled"] += max(
            stop - first, other_stop - other
        )
    assert at_seams == {"dropped": 0, "doubled": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"word_timestamps": True},
        {"word_timestamps": True, "chunk_s": 10.0},
        {"word_timestamps": True, "long_form": "sequential"},
        {"word_timestamps": True, "vad_filter": True},
        {"timestamps": False},
    ],
    ids=lambda settings: ", ".join(settings) or "plain",
)
def test_times_of_real_speech_can_be_relied_on(
    tiny_en: Path, prompts: list[tuple[Samples, str]], settings: dict[str, Any]
) -> None:
    if "vad_filter" in settings and importlib.util.find_spec("silero_vad") is None:
        pytest.skip("needs the extra vad")
    pieces: list[Samples] = []
    for number, (samples, _) in enumerate([*prompts, *prompts[::-1]]):
        pieces += [samples, np.zeros(9_000 * (number % 5), dtype=np.float32)]
    samples = np.concatenate(pieces)[: 75 * 16_000]
    transcriber = Transcriber.from_model(str(tiny_en), DecodingSettings(**settings), FLOAT32)
    transcript = transcriber.transcribe(samples)
    assert len(transcript.text.split()) > 80
    assert_reliable(transcript, len(samples) / 16_000)


@pytest.mark.slow
@pytest.mark.parametrize("vad_filter", [False, True])
def test_german_behind_silence_is_german(vad_filter: bool) -> None:
    cases = os.environ.get("DISTILWHISPER_CASES")
    if not cases:
        pytest.skip("needs the folder that DISTILWHISPER_CASES names")
    try:
        base = resolve_model("openai/whisper-base")
    except ModelNotFound as error:
        pytest.skip(str(error))
    settings = DecodingSettings(vad_filter=vad_filter)
    transcriber = Transcriber.from_model(str(base), settings, FLOAT32)
    transcript = transcriber.transcribe(Path(cases) / "sil40_de.ogg")
    assert transcript.language == "de"
    assert transcript.language_probability is not None
    assert transcript.language_probability > 0.9
    assert "auf der Spitze eines der Berge" in transcript.text


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("timestamps", [True, False])
def test_tokens_equal_transformers(
    tiny_en: Path, prompts: list[tuple[Samples, str]], timestamps: bool
) -> None:
    pieces = [samples for samples, _ in prompts[:3]]  # theirs is slow
    settings = DecodingSettings(timestamps=timestamps, temperature=(0.0,))
    assert_tokens_equal_transformers(tiny_en, pieces, settings)


@pytest.mark.reference
@pytest.mark.slow
def test_a_saved_student_says_the_same_in_transformers(
    tiny_en: Path, prompts: list[tuple[Samples, str]], tmp_path: Path
) -> None:
    make_student(str(tiny_en), tmp_path / "student", StudentSettings())
    # Untrained, it rambles.
    settings = DecodingSettings(timestamps=False, max_new_tokens=20, temperature=(0.0,))
    pieces = [samples for samples, _ in prompts[:2]]
    assert_tokens_equal_transformers(tmp_path / "student", pieces, settings)


@pytest.mark.reference
@pytest.mark.slow
def test_the_student_of_the_repository_says_the_same_in_transformers(
    base_2: Path, prompts: list[tuple[Samples, str]]
) -> None:
    settings = DecodingSettings(timestamps=False, language="en", temperature=(0.0,))
    assert_tokens_equal_transformers(base_2, [samples for samples, _ in prompts], settings)


def assert_tokens_equal_transformers(
    folder: Path, pieces: list[Samples], settings: DecodingSettings
) -> None:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    ours = Transcriber.from_model(str(folder), settings, FLOAT32).decode(pieces)
    processor = WhisperProcessor.from_pretrained(folder)
    theirs = WhisperForConditionalGeneration.from_pretrained(folder)
    limit = {"max_new_tokens": settings.max_new_tokens} if settings.max_new_tokens else {}
    spoken = {"language": settings.language, "task": "transcribe"} if settings.language else {}
    for samples, window in zip(pieces, ours, strict=True):
        features = processor(
            samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
        )
        with torch.inference_mode():
            ids = theirs.generate(
                features.input_features,
                attention_mask=features.attention_mask,
                return_timestamps=settings.timestamps,
                do_sample=False,
                num_beams=1,
                **limit,
                **spoken,
            )
        said = [i for i in ids[0].tolist() if i not in (*window.prompt_ids, 50256)]
        assert window.token_ids
        assert list(window.token_ids) == said
