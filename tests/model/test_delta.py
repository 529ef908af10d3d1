"""A student as the difference from its teacher is the same model, or is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from distilwhisper.cli import call
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.delta import DELTA_FILE, write_delta
from distilwhisper.model.hub import ModelNotFound, resolve_model
from distilwhisper.model.layout import BadCheckpoint, read_model_folder, write_model_folder
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import make_student


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def teacher(folder: Path) -> Path:
    """A teacher whose weights are those of a published model: float16 numbers."""
    files = read_model_folder(folder)
    weights = {name: weight.half().float() for name, weight in files.weights.items()}
    dest = folder.with_name("teacher")
    write_model_folder(dest, replace(files, weights=weights), dtype=torch.float32)
    return dest


@pytest.fixture
def student(teacher: Path) -> Path:
    """Its student with one decoder layer, trained a little; numbers that float16 does not hold."""
    dest = teacher.with_name("student")
    made = make_student(str(teacher), teacher.with_name("init"), StudentSettings(decoder_layers=1))
    files = read_model_folder(teacher.with_name("init"))
    noise = torch.Generator().manual_seed(0)
    trained = {
        name: weight + 1e-2 * torch.randn(weight.shape, generator=noise)
        if ".decoder.layers." in name
        else weight
        for name, weight in files.weights.items()
    }
    generation_config = {**files.generation_config, "alignment_heads": [[0, 1]]}
    files = replace(files, weights=trained, generation_config=generation_config)
    write_model_folder(dest, files, dtype=torch.float32)
    assert made.model.config.decoder_layers == 1
    return dest


@pytest.fixture
def delta(student: Path, teacher: Path) -> Path:
    dest = student.with_name("students") / "small"
    write_delta(student, teacher, dest, teacher_name=str(teacher))
    return dest


def test_a_delta_holds_what_was_learnt_and_is_the_student_again(
    delta: Path, student: Path, teacher: Path
) -> None:
    stored, expected = load_file(delta / DELTA_FILE), read_model_folder(student)
    began = read_model_folder(student.with_name("init")).weights
    assert stored
    assert all(".decoder.layers.0." in name for name in stored)
    whole = resolve_model(str(delta))
    found = read_model_folder(whole)
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        if ".decoder.layers." not in name:
            assert torch.equal(found.weights[name], weight)
        elif weight.dim() != 2:
            assert torch.equal(found.weights[name], weight.half().float())
        else:  # half a step of int8, of what was added to the layer that it began as
            step = (weight - began[name]).abs().amax(1, keepdim=True) / 127
            assert ((found.weights[name] - weight).abs() <= 0.51 * step).all()
            assert stored[name].dtype == torch.int8
    assert found.generation_config == expected.generation_config
    assert found.tokenizer_json == expected.tokenizer_json
    assert load_checkpoint(whole).model.config == load_checkpoint(student).model.config


def test_a_delta_is_completed_once_and_then_needs_no_teacher(delta: Path, teacher: Path) -> None:
    whole = resolve_model(str(delta))
    teacher.rename(teacher.with_name("gone"))
    assert resolve_model(str(delta)) == whole


def test_a_changed_delta_is_another_model(delta: Path) -> None:
    before = resolve_model(str(delta))
    config = json.loads((delta / "generation_config.json").read_text())
    (delta / "generation_config.json").write_text(json.dumps({**config, "alignment_heads": []}))
    after = resolve_model(str(delta))
    assert after != before
    assert read_model_folder(after).generation_config["alignment_heads"] == []


def test_a_changed_teacher_is_refused_with_name_and_digests(delta: Path, teacher: Path) -> None:
    files = read_model_folder(teacher)
    name = "model.encoder.conv1.bias"
    changed = {**files.weights, name: files.weights[name] + 0.1}
    teacher.rename(teacher.with_name("before"))
    write_model_folder(teacher, replace(files, weights=changed), dtype=torch.float32)
    with pytest.raises(BadCheckpoint, match=rf"made for {teacher} with weights of digest .* found"):
        resolve_model(str(delta))


def test_a_teacher_is_known_in_any_number_format(delta: Path, teacher: Path) -> None:
    files = read_model_folder(teacher)
    teacher.rename(teacher.with_name("before"))
    write_model_folder(teacher, files, dtype=torch.float16)
    assert resolve_model(str(delta)).is_dir()


def test_a_missing_teacher_is_named(delta: Path, teacher: Path) -> None:
    teacher.rename(teacher.with_name("gone"))
    with pytest.raises(ModelNotFound, match=rf"small: needs its teacher, {teacher}"):
        resolve_model(str(delta))


@pytest.mark.parametrize("content", [b"", b"no tensors"])
def test_a_broken_delta_is_refused(delta: Path, content: bytes) -> None:
    (delta / DELTA_FILE).write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"not a safetensors file.*: fetch it again"):
        resolve_model(str(delta))


def _stored(delta: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(delta / DELTA_FILE, framework="pt") as file:
        return load_file(delta / DELTA_FILE), file.metadata()


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ("{", "its metadata must name the matrices"),
        ("[3]", "its metadata must name the matrices"),
        ('{"model.no": "model.decoder.embed_tokens.weight"}', "lacks 'model.no"),
    ],
)
def test_a_delta_of_other_matrices_is_refused(delta: Path, bases: str, message: str) -> None:
    weights, metadata = _stored(delta)
    save_file(weights, delta / DELTA_FILE, {**metadata, "bases": bases})
    with pytest.raises(BadCheckpoint, match=rf"{delta}.*{message}.*make the delta again"):
        resolve_model(str(delta))


def test_a_delta_that_lacks_a_weight_is_refused_and_leaves_no_model(delta: Path) -> None:
    weights, metadata = _stored(delta)
    del weights["model.decoder.layers.0.fc1.bias"]
    save_file(weights, delta / DELTA_FILE, metadata)
    teacher_layers = json.loads((delta / "config.json").read_text())["decoder_layers"] + 4
    for config in ({"decoder_layers": None}, {"decoder_layers": teacher_layers}):
        found = {**json.loads((delta / "config.json").read_text()), **config}
        (delta / "config.json").write_text(json.dumps(found))
        for _ in range(2):  # nothing is kept of the first time
            with pytest.raises(BadCheckpoint, match=f"{delta}: .*(decoder_layers|do not fit)"):
                resolve_model(str(delta))


def test_a_delta_that_names_no_teacher_is_refused(delta: Path) -> None:
    save_file(load_file(delta / DELTA_FILE), delta / DELTA_FILE)
    with pytest.raises(BadCheckpoint, match="must name its teacher"):
        resolve_model(str(delta))


def test_models_that_share_nothing_make_no_delta(student: Path, teacher: Path) -> None:
    files = read_model_folder(student)
    other = {name: weight + 1 for name, weight in files.weights.items()}
    write_model_folder(
        student.with_name("other"), replace(files, weights=other), dtype=torch.float32
    )
    with pytest.raises(BadCheckpoint, match="shares none"):
        write_delta(student.with_name("other"), teacher, student.with_name("d"), teacher_name="t")
    assert not student.with_name("d").exists()


def test_a_folder_that_holds_something_is_refused(student: Path, teacher: Path) -> None:
    with pytest.raises(FileExistsError, match="must be new or empty"):
        write_delta(student, teacher, teacher, teacher_name="t")


def test_the_command_writes_one(
    student: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "written"
    assert call(["delta", str(student), str(dest), "--teacher", str(teacher)]) == 0
    assert f"MB beside {teacher}" in capsys.readouterr().out
    assert resolve_model(str(dest)).is_dir()
