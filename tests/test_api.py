"""The front door: every name, every kind of audio, and the way from speech to a student."""

import inspect
import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distilwhisper as dw
from corpora import corpus, hearing_model, noise
from distilwhisper.model.layout import read_json_object
from distilwhisper.speech.arrays import to_samples
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.units import samples_to_seconds, seconds_to_samples
from tiny_model import write_tiny_model

SHORT = {"max_new_tokens": 8, "temperature": 0.0}

# A change here is a decision: others build on these names.
NAMES = """
Comparison DecodingSettings DistilwhisperError EngineSettings EvaluateSettings ExportSettings
FilterSettings Hardware ImportSettings LabelSettings Model PlanSettings Recipe Segment
StudentSettings SubtitleSettings TrainingSettings Transcript Word __version__ distil evaluate
export filter import_data import_model label load_model make_student plan_recipe read_facts
read_recipe resolve_model run_recipe write_delta write_report
"""
OWN_PARAMETERS = {
    "load_model": "name device dtype backend draft",
    "Model.transcribe": "self audio sampling_rate audio_track channel strict progress",
    "Model.stream": "self audio sampling_rate audio_track channel strict",
    "label": "manifest teacher out engine retry_failed force progress",
    "filter": "manifest labels out second_labels figures force progress",
    "distil": "manifest labels verdicts teacher out validation force progress",
    "evaluate": "model manifests against noise out force progress",
    "export": "model dest to dtype third_layer check max_wer_increase progress",
}
SETTINGS: dict[str, list[type]] = {
    "Model.transcribe": [dw.DecodingSettings],
    "Model.stream": [dw.DecodingSettings],
    "label": [dw.LabelSettings, dw.DecodingSettings],
    "filter": [dw.FilterSettings],
    "distil": [dw.StudentSettings, dw.TrainingSettings],
    "evaluate": [dw.EvaluateSettings, dw.DecodingSettings],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dw.Model:
    folder = hearing_model(tmp_path_factory.mktemp("models") / "hearing")
    return dw.load_model(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dw.Model:
    """Ends by itself, as labels must."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    return dw.load_model(
        hearing_model(folder, multilingual=True, end=1.6), device="cpu", dtype="float32"
    )


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    write_wav(tmp_path / "one.wav", noise(1.5, seed=1))
    return tmp_path / "one.wav"


def function(name: str) -> Any:
    owner, _, method = name.partition(".")
    return getattr(getattr(dw, owner), method) if method else getattr(dw, name)


# Names


def test_the_names_are_decided() -> None:
    assert sorted(dw.__all__) == sorted(NAMES.split())
    assert all(getattr(dw, name) is not None for name in dw.__all__)
    assert set(dw.__all__) <= set(dir(dw))
    with pytest.raises(AttributeError, match="nothing_such"):
        dw.nothing_such  # noqa: B018


@pytest.mark.parametrize("name", OWN_PARAMETERS)
def test_the_parameters_are_decided(name: str) -> None:
    wanted = OWN_PARAMETERS[name].split()
    for kind in SETTINGS.get(name, []):
        wanted += [f.name for f in fields(kind) if f.name not in (*wanted, "decoding")]
    assert list(inspect.signature(function(name)).parameters) == wanted


def test_importing_the_package_imports_nothing_else() -> None:
    program = "import sys, distilwhisper; print({'torch', 'numpy', 'tyro'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_a_package_that_is_used_prints_nothing(wav: Path, model: dw.Model) -> None:
    program = (
        "import distilwhisper as dw; "
        f"dw.load_model({str(model.folder)!r}).transcribe({str(wav)!r}, max_new_tokens=8)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_what_is_odd_is_logged_and_noted(
    tmp_path: Path, model: dw.Model, caplog: pytest.LogCaptureFixture
) -> None:
    write_wav(tmp_path / "long.wav", noise(3.0, seed=2))
    whole = (tmp_path / "long.wav").read_bytes()
    with caplog.at_level(logging.WARNING, logger="distilwhisper"):
        result = model.transcribe(whole[: len(whole) // 2], **SHORT)
    assert any("cut short" in note for note in result.notes)
    assert any("the audio: " in r.message and "cut short" in r.message for r in caplog.records)
    caplog.clear()
    (tmp_path / "half.wav").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING, logger="distilwhisper"):
        list(model.stream(tmp_path / "half.wav", **SHORT))
    assert any(r.message.startswith(f"{tmp_path / 'half.wav'}: ") for r in caplog.records)


# Audio


def test_every_kind_of_audio_gives_the_same(wav: Path, model: dw.Model) -> None:
    wanted = model.transcribe(str(wav), **SHORT)
    samples = load_samples(wav)
    with wav.open("rb") as file:
        kinds: list[Any] = [wav, wav.read_bytes(), io.BytesIO(wav.read_bytes()), samples]
        kinds += [(samples * 32768).astype(np.int16), np.stack([samples, samples])]
        assert [model.transcribe(kind, **SHORT) for kind in [*kinds, file]] == [wanted] * 7
    assert wanted.text
    assert wanted.duration == pytest.approx(1.5)


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
@pytest.mark.parametrize("is_file", [False, True])
def test_a_duration_is_the_recordings_though_its_end_is_silent(
    wav: Path, model: dw.Model, tmp_path: Path, long_form: str, is_file: bool
) -> None:
    silence = np.zeros(seconds_to_samples(70.3), dtype=np.float32)
    for name, samples in (
        ("speech", np.concatenate([load_samples(wav), silence])),
        ("silence", silence),
    ):
        sound: Any = samples
        if is_file:
            sound = tmp_path / f"{name}.wav"
            write_wav(sound, samples)
        found = model.transcribe(sound, long_form=long_form, **SHORT)
        assert found.duration == samples_to_seconds(len(samples))


def test_the_duration_of_clips_ends_with_the_last(wav: Path, model: dw.Model) -> None:
    assert model.transcribe(wav, clip_timestamps=[0.2, 0.7], **SHORT).duration == 0.7


def test_samples_of_another_rate_are_resampled(model: dw.Model) -> None:
    slow, fast = (
        (0.1 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)).astype(np.float32)
        for rate in (16_000, 48_000)
    )
    resampled = to_samples(fast, "fast", sampling_rate=48_000)
    assert len(resampled) == pytest.approx(len(slow), abs=20)
    inner = slice(1000, 30_000)
    assert np.abs(resampled[inner] - slow[inner]).max() < 2e-3
    assert model.transcribe(fast, sampling_rate=48_000, **SHORT).duration == pytest.approx(
        2, abs=0.01
    )
    with pytest.raises(ValueError, match="sampling_rate must lie in"):
        model.transcribe(fast, sampling_rate=10)


def test_what_cannot_be_read_is_raised(tmp_path: Path, model: dw.Model) -> None:
    with pytest.raises(FileNotFoundError):
        model.transcribe(tmp_path / "none.wav")
    with pytest.raises(dw.DistilwhisperError, match="the audio: "):
        model.transcribe(b"no sound at all, whatever is done with it")
    with pytest.raises(ValueError, match="at least one sample"):
        model.transcribe(np.zeros(0))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sampling_rate": 8_000}, "sampling_rate is that of samples, found a file"),
        ({"channel": -1}, "channel must be .* found -1"),
        ({"audio_track": -1}, "audio_track must be a language or a number from 0, found -1"),
        ({"suppress_tokens": [99_999_999]}, "suppress_tokens must be ids .* found 99999999"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    wav: Path, model: dw.Model, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        model.transcribe(wav, **options)


def test_values_of_another_type_are_refused(tmp_path: Path, model: dw.Model) -> None:
    # Where nothing checks types, as in a program of others.
    wrong = {
        "dw.load_model('none', dtype='int8')": "dtype must be one of auto, .*, found 'int8'",
        "dw.load_model('none', backend='onnx')": "backend must be one of auto, .*, found 'onnx'",
        "dw.EngineSettings('slurm')": "engine must be one of local, ray, found 'slurm'",
        "dw.DecodingSettings(task='sing')": "task must be one of .*, found 'sing'",
        "dw.ImportSettings(cut='ends')": "cut must be one of vad, found 'ends'",
        "model.transcribe('a', channel='middle')": "channel must be left, right, .*'middle'",
        "model.transcribe(open('text'))": "the audio must be a binary file, found one of text",
    }
    (tmp_path / "text").write_text("no sound")
    program = f"import distilwhisper as dw\nmodel = dw.load_model({str(model.folder)!r})\n"
    for call in wrong:
        program += f"try:\n    {call}\nexcept ValueError as error:\n    print(error)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    for line, why in zip(done.stdout.splitlines(), wrong.values(), strict=True):
        assert re.match(why, line)


def test_clips_behind_the_end_are_named(wav: Path, model: dw.Model) -> None:
    result = model.transcribe(wav, clip_timestamps=[60.0, 70.0], **SHORT)
    assert result.notes == ("clip_timestamps begin at 60 s, and the sound ends at 1.50 s",)


def test_an_unknown_option_names_the_nearest(wav: Path, model: dw.Model) -> None:
    with pytest.raises(ValueError, match=r"beamsize: .* nearest is beam_size"):
        model.transcribe(wav, beamsize=2)
    with pytest.raises(ValueError, match=r"verbose: there is no such key; there are .*beam_size"):
        model.transcribe(wav, verbose=True)


def test_a_file_that_was_read_to_its_end_is_no_empty_one(wav: Path, model: dw.Model) -> None:
    file = io.BytesIO(wav.read_bytes())
    model.transcribe(file, **SHORT)
    with pytest.raises(ValueError, match=r"at its end, .* seek\(0\) first"):
        model.transcribe(file, **SHORT)


# Transcription


def test_a_student_that_was_trained_without_prompts_warns_of_one(
    wav: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_model(tmp_path / "student")
    rules = read_json_object(folder / "generation_config.json")
    for trained, is_warned in ((None, False), (True, False), (False, True)):
        known = {} if trained is None else {"trained_with_prompts": trained}
        (folder / "generation_config.json").write_text(json.dumps(rules | known))
        model = dw.load_model(folder)
        for prompt in ({"initial_prompt": "the"}, {"hotwords": "the"}, {}):
            caplog.clear()
            model.transcribe(wav, **prompt, **SHORT)
            warned = any("was trained without prompts" in r.message for r in caplog.records)
            assert warned == (is_warned and bool(prompt))


def test_a_model_in_another_process_is_loaded_there(wav: Path, model: dw.Model) -> None:
    other = pickle.loads(pickle.dumps(model))
    assert other == model
    assert other.transcribe(wav, **SHORT) == model.transcribe(wav, **SHORT)


def test_a_call_has_settings_of_its_own(wav: Path, model: dw.Model) -> None:
    plain = model.transcribe(wav, **SHORT)
    timed = model.transcribe(wav, word_timestamps=True, **SHORT)
    assert all(segment.words is None for segment in plain.segments)
    assert all(segment.words for segment in timed.segments)
    assert model.transcribe(wav, **SHORT) == plain


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_segments_come_as_they_are_known(long_form: str, model: dw.Model) -> None:
    sound = noise(75.0, seed=3)
    options = {**SHORT, "long_form": long_form}
    streamed = list(model.stream(sound, **options))
    whole = model.transcribe(sound, **options)
    assert [segment.text for segment in streamed] == [segment.text for segment in whole.segments]
    assert len(streamed) > 2


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_clips_are_transcribed_and_nothing_else(long_form: str, model: dw.Model) -> None:
    sound = noise(50.0, seed=4)
    options = {**SHORT, "long_form": long_form}
    clipped = model.transcribe(sound, clip_timestamps=(5.0, 9.0, 40.0), **options)
    for segment in clipped.segments:
        assert 5 <= segment.start < segment.end <= 9.1 or 40 <= segment.start < segment.end <= 50
    first = model.transcribe(sound[5 * 16_000 : 9 * 16_000], **options)
    last = model.transcribe(sound[40 * 16_000 :], **options)
    assert clipped.text == f"{first.text}{last.text}"
    assert not model.transcribe(sound, clip_timestamps=(60.0, 70.0), **options).segments


def test_tokens_are_suppressed_on_demand(wav: Path, model: dw.Model) -> None:
    plain = model.transcribe(wav, **SHORT)
    written = [
        i for s in plain.segments for i in s.token_ids if i < model.transcriber.tokenizer.eot
    ]
    other = model.transcribe(wav, suppress_tokens=(-1, written[0]), **SHORT)
    assert written[0] not in [i for s in other.segments for i in s.token_ids]
    assert model.transcribe(wav, **SHORT) == plain


# From speech to a student


def test_from_speech_to_a_student(tmp_path: Path, teacher: dw.Model) -> None:
    manifest = corpus(tmp_path / "speech", 24)
    labels = dw.label(manifest, teacher=teacher, out=tmp_path / "labels", language="en")
    kept = dw.filter(manifest, labels, max_wer=1000.0, out=tmp_path / "verdicts")
    assert os.fspath(labels) == str(tmp_path / "labels")
    assert kept.kept.count >= 20

    def distil(**options: Any) -> dw.Model:
        return dw.distil(
            manifest,
            labels,
            kept,
            teacher=teacher,
            out=tmp_path / "run",
            decoder_layers=1,
            steps=4,
            batch_size=4,
            micro_batch_size=4,
            **options,
        )

    student = distil()
    assert student.folder == tmp_path / "run" / "student"
    assert student.transcriber.checkpoint.model.config.decoder_layers == 1
    made = (tmp_path / "run" / "student" / "model.safetensors").stat().st_mtime_ns
    distil()
    assert (tmp_path / "run" / "student" / "model.safetensors").stat().st_mtime_ns == made
    trained = {u["id"] for u in rows(tmp_path / "run" / "data" / "train.jsonl")}
    held_out = {u["id"] for u in rows(tmp_path / "run" / "data" / "validation.jsonl")}
    assert held_out
    assert not trained & held_out
    found = dw.evaluate(student, manifest, against=[teacher], language="en", **SHORT)
    assert [cell.model for cell in found.cells] == ["student", "teacher"]
    assert "against teacher" in str(found).splitlines()[1]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
