"""Exports that appear whole or not at all, and what is told of them."""

import errno
import json
import os
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from corpora import bad_utterances, corpus, hearing_model, noise
from distilwhisper.cli import call
from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Utterance, read_manifest, write_manifest
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.exporting.check import CHECKED_DECODING, check_export
from distilwhisper.exporting.exporter import WRITERS, export_model
from distilwhisper.exporting.settings import DTYPES, ExportSettings, Target
from distilwhisper.extras import MissingExtra
from distilwhisper.model.delta import write_delta
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.layout import BadCheckpoint
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import make_student

FLOAT32 = Hardware("cpu", "float32")
CTRANSLATE2 = ExportSettings(to="ctranslate2", dtype="float32")


# ------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "openai", "dtype": "int8"}, "must be one of float16, float32 for openai, found"),
        ({"to": "onnx", "third_layer": True}, "third_layer is for ggml alone, found onnx"),
        (
            {"to": "ggml", "max_wer_increase": -1.0},
            "max_wer_increase must be a finite number from 0 on, found -1",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportSettings(**settings)


@pytest.mark.parametrize("to", WRITERS)
def test_a_folder_that_lacks_something_leaves_nothing(
    student: Path, tmp_path: Path, to: Target
) -> None:
    encoder_only = shutil.copytree(student, tmp_path / "encoder-only")
    weights = load_file(student / "model.safetensors")
    kept = {name: w for name, w in weights.items() if name.startswith("model.encoder")}
    save_file(kept, encoder_only / "model.safetensors")
    voiceless = shutil.copytree(student, tmp_path / "voiceless")
    for name in ("tokenizer.json", "vocab.json"):
        (voiceless / name).unlink()
    for model, message in (
        (encoder_only, "weights do not fit config.json: no model.decoder.embed_tokens.weight"),
        (voiceless, "no tokenizer.json, nor vocab.json with merges.txt to make it from"),
    ):
        with pytest.raises(BadCheckpoint, match=message):
            export_model(str(model), tmp_path / "out", ExportSettings(to=to))
    assert {path.name for path in tmp_path.iterdir()} == {"encoder-only", "voiceless"}


def test_a_place_that_holds_something_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="out: must be new or empty, and holds something"):
        export_model(str(tiny_model), tmp_path / "out", CTRANSLATE2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("to", WRITERS)
def test_a_full_disk_is_told_and_leaves_nothing(
    student: Path, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = resource.RLIMIT_FSIZE
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (100_000, before[1]))  # any larger file meets a full disk
    try:
        status = call(["export", str(student), str(tmp_path / "out"), "--to", to])
    finally:
        resource.setrlimit(kind, before)
    assert status == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"distilwhisper: error: {tmp_path}/out could not be written: ")
    assert os.strerror(errno.EFBIG) in last
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------
# What comes out


def test_a_delta_is_exported_as_the_whole_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    student = make_student(str(tiny_model), tmp_path / "student", StudentSettings())
    assert student.model.config.decoder_layers == 2
    write_delta(tmp_path / "student", tiny_model, tmp_path / "delta", teacher_name=str(tiny_model))
    for name in ("student", "delta"):
        settings = ExportSettings(to="ctranslate2", dtype="float16")  # as a delta's weights are
        export_model(str(tmp_path / name), tmp_path / f"{name}-out", settings)
    made = [tmp_path / f"{name}-out" / "model.bin" for name in ("student", "delta")]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_the_command_says_where_and_the_card_how(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(["export", str(tiny_model), str(out), "--to", "ctranslate2"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: faster-whisper\n")
    assert "# tiny for faster-whisper\n\nExported to ctranslate2, weights in float16" in card
    assert "Not checked on any speech" in card


# ------------------------------------------------------------------------------------------------
# The check


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "hearing"
    return hearing_model(folder, multilingual=True, end=1.6)


def test_a_check_counts_what_the_exported_model_does_otherwise(model: Path, tmp_path: Path) -> None:
    """The exported model is the original itself, but for one more word each time it is u001."""
    write_wav(tmp_path / "long.wav", noise(31.0, seed=9))
    more = [
        *bad_utterances(tmp_path),
        Utterance(id="long", audio="long.wav", text="too long"),
        Utterance(id="wordless", audio="u000.wav"),
    ]
    manifest = read_manifest(corpus(tmp_path, 3, more=more))
    original = Transcriber.from_model(str(model), CHECKED_DECODING, FLOAT32)
    second = noise(manifest.utterances[1].duration_s or 0.0, seed=1)

    def exported(samples: Samples, language: str) -> str:
        (window,) = original.decode([samples])
        assert language == window.language
        return f"{window.text} otherwise" if len(samples) == len(second) else window.text

    check = check_export(original, exported, manifest, sizes=(2_000_000, 500_000))
    assert (check.n_utterances, check.n_long, check.n_equal) == (3, 1, 2)
    assert check.failed.keys() == {"missing", "corrupt", "beyond"}
    errors, words = check.original.errors, sum(len(u.text.split()) for u in manifest.utterances[:3])
    assert errors.words == words
    assert check.exported.errors.insertions == errors.insertions + 1
    assert check.wer_increase == pytest.approx(1 / words)
    assert check.fault(99 / words)
    assert check.fault(100 / words) is None
    n_more = len(original.tokenizer.encode(" otherwise"))
    assert check.n_tokens - check.n_tokens_equal == n_more
    assert "| utterances as the original's |  | 2 of 3 |" in check.table()
    assert "| size, MB | 2.0 | 0.5 |" in check.table()
    assert check.describe().startswith("`manifest.jsonl`: 3 utterances, 1 over 30 s left out, 3 un")


def test_an_export_that_is_too_much_worse_fails_and_is_kept_with_its_card(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ctranslate2")
    manifest = read_manifest(corpus(tmp_path / "set", 3))
    original = Transcriber.from_model(str(model), CHECKED_DECODING, FLOAT32)
    own = [
        replace(u, text=original.decode([samples])[0].text)
        for u, samples in load_utterances(manifest, manifest.utterances)
    ]
    write_manifest(tmp_path / "set" / "own.jsonl", own)
    arguments = ["export", str(model), str(tmp_path / "out"), "--to", "ctranslate2"]
    arguments += ["--dtype", "int8", "--check", str(tmp_path / "set" / "own.jsonl")]
    # Rounded to eight bits, random weights soon say something else.
    assert call([*arguments, "--max-wer-increase", "1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "points more errors than the original, 1 are allowed" in err
    assert ": take a finer dtype, check more speech, or allow more" in err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Failed its check: " in card
    assert "| WER, % | 0.00 |" in card
    for as_json in (False, True):
        shutil.rmtree(tmp_path / "out")
        options = ["--json"] if as_json else []
        assert call([*arguments, "--max-wer-increase", "1000", *options]) == 0
        out = capsys.readouterr().out
        if as_json:
            check = json.loads(out)["check"]
            assert check["original"]["wer"] == 0 < check["exported"]["wer"] == check["wer_increase"]
        else:
            assert "| WER, % | 0.00 |" in out
        assert "Failed" not in (tmp_path / "out" / "README.md").read_text()


def test_a_set_with_nothing_to_check_on_is_refused(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    bad = bad_utterances(tmp_path / "set")
    write_manifest(tmp_path / "set" / "bad.jsonl", bad)
    with pytest.raises(ValueError, match=r"bad\.jsonl: a set to check an export on must hold"):
        export_model(
            str(model), tmp_path / "out", CTRANSLATE2, check=tmp_path / "set" / "bad.jsonl"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(("to", "package"), [("ctranslate2", "ctranslate2"), ("openai", "whisper")])
def test_a_check_without_the_other_program_is_refused_before_any_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Target, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match="checking needs packages that are not installed: pip"):
        export_model(
            str(model), tmp_path / "out", ExportSettings(to=to), check=tmp_path / "none.jsonl"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # openai-whisper's vocabulary file
@pytest.mark.parametrize(
    ("to", "dtype"),
    [(to, dtype) for to, dtypes in DTYPES.items() for dtype in dtypes if to in WRITERS],
)
def test_real_speech_comes_out_as_from_the_original(
    tiny_en: Path, spoken: Path, tmp_path: Path, to: Target, dtype: str
) -> None:
    pytest.importorskip(WRITERS[to].CHECKED_BY[0])
    settings = ExportSettings(to=to, dtype=dtype, max_wer_increase=2.5)  # two words of 91
    check = export_model(str(tiny_en), tmp_path / "out", settings, check=spoken).check
    assert check is not None
    assert check.n_utterances == 8
    assert check.original.errors.wer < 0.05
    if dtype in ("float32", "float16"):
        # whisper.cpp puts a word more into one of the prompts; why is not known. sherpa-onnx pads
        # other frames: test_sherpa_onnx_writes_what_the_original_does_on_its_frames.
        assert check.n_equal >= {"ggml": 7, "sherpa": 6}.get(to, 8)


@pytest.mark.parametrize("to", ["onnx", "sherpa"])
def test_graphs_without_the_package_that_writes_them_leave_nothing(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Target
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r'onnx: pip install "distilwhisper\[export\]"'):
        export_model(str(student), tmp_path / "out", ExportSettings(to=to))
    assert list(tmp_path.iterdir()) == []
