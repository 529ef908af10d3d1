"""Every way of decoding writes what it wrote when its outputs were stored.

A random network of fixed weights decodes seeded noise; whisper-tiny.en, where it is installed,
decodes speech. Nothing is sampled, and along the stored texts of the random network the likeliest
token leads by LEAST_LEAD or more, so that the roundings of another machine do not change them.

    PYTHONPATH=tests python tests/decoding/test_stored_outputs.py    # stores them anew
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from corpora import hearing_model, noise
from distilwhisper.decoding import rules, search
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import DecodedWindow
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import resolve_model
from distilwhisper.speech.audio import Samples, load_samples
from distilwhisper.text.transcript import Segment
from tiny_model import write_tiny_model

ASSETS = Path(__file__).parent.parent / "assets"
STORED, SPEECH = ASSETS / "decoding", ASSETS / "speech"
FLOAT32 = Hardware(device="cpu", dtype="float32", backend="torch")
LEAST_LEAD = 1e-4  # of logits that are about 10; roundings differ by 1e-5
SAME_TIME_S = 0.021  # an encoder frame

GREEDY = DecodingSettings(max_new_tokens=24, temperature=(0.0,), logprob_threshold=None)
CUT = {"chunk_s": 12.0, "overlap_s": 4.0}
PIECES: Mapping[str, dict[str, Any]] = {
    "short": {},
    "batch of 2": {"batch_size": 2},
    "no timestamps": {"timestamps": False},
    "prompt": {"initial_prompt": "the tea", "hotwords": "in there"},
    "little context": {"context_margin_s": 1.0},
    "more tokens": {"suppress_tokens": (3, 9)},
    "beams": {"beam_size": 3},
    "thresholds": {"logprob_threshold": -1.0},
}
RECORDINGS: Mapping[str, dict[str, Any]] = {
    "chunked": CUT,
    "chunked, thresholds": {**CUT, "logprob_threshold": -1.0},
    "chunked, no timestamps": {**CUT, "timestamps": False},
    "chunked, word times": {**CUT, "word_timestamps": True},
    "chunked, beams": {**CUT, "beam_size": 3},
    "clips": {**CUT, "clip_timestamps": (3.0, 9.5, 20.0)},
    "sequential": {"long_form": "sequential"},
    "sequential, word times": {"long_form": "sequential", "word_timestamps": True},
    "sequential, previous text": {
        "long_form": "sequential",
        "condition_on_previous_text": True,
        "initial_prompt": "the tea",
    },
    "sequential, clips": {"long_form": "sequential", "clip_timestamps": (3.0, 9.5, 20.0)},
}
OF_SPEECH: Mapping[str, dict[str, Any]] = {
    "chunked, word times": {"word_timestamps": True, "chunk_s": 15.0, "overlap_s": 5.0},
    "chunked, beams": {"beam_size": 3, "overlap_s": 10.0},
    "chunked, no timestamps": {"timestamps": False, "overlap_s": 10.0},
    "sequential": {
        "long_form": "sequential",
        "condition_on_previous_text": True,
        "word_timestamps": True,
    },
}


def of_window(window: DecodedWindow) -> dict[str, Any]:
    return {
        "prompt": list(window.prompt_ids),
        "tokens": list(window.token_ids),
        "finished": window.finished,
        "language": window.language,
        "detected": window.detected_language,
        "avg_logprob": window.avg_logprob,
        "no_speech_prob": window.no_speech_prob,
    }


def of_segment(segment: Segment) -> dict[str, Any]:
    return {
        "tokens": list(segment.token_ids),
        "seek": segment.seek,
        "times": [segment.start, segment.end],
        "language": segment.language,
        "words": [[word.text, word.start, word.end] for word in segment.words or ()],
    }


def of_recording(transcriber: Transcriber, sound: Samples) -> dict[str, Any]:
    transcript = transcriber.transcribe(sound)
    return {
        "language": transcript.language,
        "segments": [of_segment(one) for one in transcript.segments],
    }


def outputs_of_noise(folder: Path) -> dict[str, Any]:
    pieces = [noise(0.7 + 3.1 * i, seed=i) for i in range(6)]
    sound = noise(41.3, seed=5)
    english = Transcriber.from_model(str(hearing_model(folder / "english")), GREEDY, FLOAT32)
    several = hearing_model(folder / "several", multilingual=True)
    multilingual = Transcriber.from_model(str(several), GREEDY, FLOAT32)
    # The model itself guesses right always, another one hardly ever.
    write_tiny_model(folder / "other", seed=1, std=0.6, decoder_layers=3)
    made: dict[str, Any] = {}
    for name, settings in PIECES.items():
        windows = replace(english, settings=replace(GREEDY, **settings)).decode(pieces)
        made[name] = [of_window(one) for one in windows]
    for draft in ("english", "other"):
        drafted = Transcriber.from_model(
            str(folder / "english"), GREEDY, FLOAT32, draft=str(folder / draft)
        )
        made[f"draft {draft}"] = [of_window(one) for one in drafted.decode(pieces)]
        counts = drafted.counts
        made[f"draft {draft}"] += [[counts.tokens, counts.drafted, counts.accepted]]
    packed = english.decode_packed((piece, "en") for piece in pieces)
    made["packed"] = [of_window(window) for _, window in sorted(packed, key=lambda one: one[0])]
    made["languages"] = [of_window(one) for one in multilingual.decode(pieces)]
    for name, settings in RECORDINGS.items():
        one = replace(english, settings=replace(GREEDY, **settings))
        made[name] = of_recording(one, sound)
    for name in ("chunked, word times", "sequential"):
        one = replace(english, settings=replace(GREEDY, **RECORDINGS[name]))
        made[f"{name}, streamed"] = [of_segment(segment) for segment in one.stream(sound)]
    for name, settings in (
        ("chunked, detected", CUT),
        ("chunked, mixed", {**CUT, "multilingual": True}),
        ("sequential, mixed", {"long_form": "sequential", "multilingual": True}),
    ):
        one = replace(multilingual, settings=replace(GREEDY, **settings))
        made[name] = of_recording(one, sound)
    return made


def outputs_of_speech(tiny_en: Path, sounds: Sequence[Samples]) -> dict[str, Any]:
    pause = np.zeros(8_000, dtype=np.float32)
    sound = np.concatenate([piece for samples in sounds for piece in (samples, pause)])
    made: dict[str, Any] = {}
    model = Transcriber.from_model(str(tiny_en), DecodingSettings(temperature=(0.0,)), FLOAT32)
    made["short"] = [of_window(one) for one in model.decode(sounds)]
    for name, settings in OF_SPEECH.items():
        one = replace(model, settings=replace(model.settings, **settings))
        made[name] = of_recording(one, sound)
    return made


def assert_same(new: Any, stored: Any, where: str) -> None:
    """Texts are the same; times by a frame, and logarithms of probabilities by a hundredth."""
    assert type(new) is type(stored) or {type(new), type(stored)} == {int, float}, where
    if isinstance(stored, dict):
        assert new.keys() == stored.keys(), where
        for key in stored:
            assert_same(new[key], stored[key], f"{where}: {key}")
    elif isinstance(stored, list):
        assert len(new) == len(stored), where
        for number, (one, other) in enumerate(zip(new, stored, strict=True)):
            assert_same(one, other, f"{where}, {number}")
    elif isinstance(stored, float):
        assert new == pytest.approx(stored, abs=SAME_TIME_S, nan_ok=True), where
    else:
        assert new == stored, where


def test_noise_is_decoded_as_it_was(tmp_path: Path) -> None:
    stored = json.loads((STORED / "noise.json").read_text())
    assert_same(outputs_of_noise(tmp_path), stored, "noise")


@pytest.mark.slow
def test_speech_is_decoded_as_it_was(tiny_en: Path) -> None:
    stored = json.loads((STORED / "speech.json").read_text())
    sounds = [load_samples(path) for path in sorted(SPEECH.glob("*.g722"))]
    assert_same(outputs_of_speech(tiny_en, sounds), stored, "speech")


def store(name: str, made: dict[str, Any]) -> None:
    lines = []
    for case, outputs in made.items():
        text = json.dumps(outputs, default=float)
        rounded = json.loads(text, parse_float=lambda digits: round(float(digits), 4))
        lines.append(f"  {json.dumps(case)}: {json.dumps(rounded)}")
    (STORED / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    leads: list[float] = []
    choose = rules.best

    def watched(scores: Tensor) -> Tensor:
        first, second = scores.topk(2).values.T
        leads.extend((first - second)[first > second].tolist())
        return choose(scores)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "best", watched)
        patch.setattr(search, "best", watched)
        store("noise.json", outputs_of_noise(Path(folder)))
    print(f"{len(leads)} tokens lead by {min(leads):.2g} or more")
    sounds = [load_samples(path) for path in sorted(SPEECH.glob("*.g722"))]
    store("speech.json", outputs_of_speech(resolve_model("openai/whisper-tiny.en"), sounds))


if __name__ == "__main__":
    main()
