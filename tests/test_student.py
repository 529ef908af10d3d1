import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.student import (
    StudentSettings,
    build_student,
    make_student,
    named_layers,
    spaced_layers,
)


@pytest.mark.parametrize(
    ("n_layers", "n_kept", "expected"),
    [
        (32, 2, [0, 31]),  # the paper's student
        (32, 1, [31]),
        (32, 4, [0, 10, 20, 31]),
        (24, 4, [0, 7, 15, 23]),
        (4, 4, [0, 1, 2, 3]),
        (1, 1, [0]),
    ],
)
def test_spaced_layers(n_layers: int, n_kept: int, expected: list[int]) -> None:
    assert spaced_layers(n_layers, n_kept) == expected


@given(st.integers(1, 64), st.data())
def test_spaced_layers_are_spread_and_hold_both_ends(n_layers: int, data: st.DataObject) -> None:
    n_kept = data.draw(st.integers(1, n_layers))
    layers = spaced_layers(n_layers, n_kept)
    assert len(layers) == len(set(layers)) == n_kept
    assert layers == sorted(layers)
    assert layers[-1] == n_layers - 1
    gaps = [b - a for a, b in pairwise(layers)]
    assert not gaps or (layers[0] == 0 and max(gaps) - min(gaps) <= 1)


def test_negative_layers_count_from_the_end() -> None:
    assert named_layers(4, [0, -1]) == [0, 3]
    assert named_layers(4, [-4, 2]) == [0, 2]


@pytest.mark.parametrize(
    ("layers", "message"),
    [([0, 4], r"lie in \[-4, 3\].*found 4"), ([-5], "found -5"), ([3, -1], "differ.*3, 3")],
)
def test_a_wrong_layer_is_refused(layers: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_layers(4, layers)


def test_too_many_layers_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"keeps 1 to 4 .* found 5"):
        spaced_layers(4, 5)


def test_a_student_holds_its_teachers_weights(tiny_model: Path) -> None:
    teacher = load_checkpoint(tiny_model)
    student = build_student(teacher, StudentSettings(layers=(0, -1)))
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    last = teacher.model.config.decoder_layers - 1
    assert student.model.config.decoder_layers == 2
    for name, weight in ours.items():
        source = name.replace("decoder.layers.1.", f"decoder.layers.{last}.")
        assert torch.equal(weight, theirs[source]), name
        assert weight.data_ptr() != theirs[source].data_ptr(), name
    assert "alignment_heads" not in student.generation_config


def test_a_full_student_says_what_its_teacher_says(tiny_model: Path) -> None:
    teacher = load_checkpoint(tiny_model)
    n_layers = teacher.model.config.decoder_layers
    student = build_student(teacher, StudentSettings(decoder_layers=n_layers))
    mel = torch.randn(1, teacher.model.config.n_mels, 3000)
    token_ids = torch.randint(teacher.model.config.vocab_size, (1, 6))
    with torch.no_grad():
        assert torch.equal(teacher.model(mel, token_ids), student.model(mel, token_ids))


def test_a_student_on_disk_is_a_model_folder(tiny_model: Path, tmp_path: Path) -> None:
    made = make_student(str(tiny_model), tmp_path / "student", StudentSettings())
    again = load_checkpoint(tmp_path / "student")
    assert json.loads((tmp_path / "student/config.json").read_text())["decoder_layers"] == 2
    for name, weight in made.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight)
    stored = load_file(tmp_path / "student/model.safetensors")
    assert not any(name.startswith("model.decoder.layers.2") for name in stored)
    with pytest.raises(FileExistsError, match="name another DEST"):
        make_student(str(tiny_model), tmp_path / "student", StudentSettings())


@pytest.mark.reference
def test_a_student_loads_in_transformers_and_says_the_same(
    tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import WhisperForConditionalGeneration

    make_student(str(tiny_model), tmp_path / "student", StudentSettings())
    ours = load_checkpoint(tmp_path / "student").model
    theirs = WhisperForConditionalGeneration.from_pretrained(tmp_path / "student").eval()
    mel = torch.randn(1, ours.config.n_mels, 3000)
    token_ids = torch.randint(ours.config.vocab_size, (1, 6))
    with torch.no_grad():
        expected = theirs(mel, decoder_input_ids=token_ids).logits
        torch.testing.assert_close(ours(mel, token_ids), expected, atol=1e-4, rtol=0)
