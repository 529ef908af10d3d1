import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from distilwhisper.model.checkpoint import count_parameters, load_checkpoint
from distilwhisper.model.roofline import window_s
from distilwhisper.model.whisper import WhisperConfig
from distilwhisper.stages.layers import StudentSettings, layer_blocks, named_layers, spaced_layers
from distilwhisper.stages.student import build_student, describe_student, make_student
from tiny_model import write_tiny_model

LARGE_V2 = WhisperConfig(
    vocab_size=51865,
    n_mels=80,
    width=1280,
    encoder_layers=32,
    encoder_heads=20,
    encoder_ffn=5120,
    decoder_layers=32,
    decoder_heads=20,
    decoder_ffn=5120,
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


def test_fewer_encoder_layers_are_spaced_likewise(tmp_path: Path) -> None:
    teacher = load_checkpoint(write_tiny_model(tmp_path / "deep", encoder_layers=5))
    student = build_student(teacher, StudentSettings(encoder_layers=3))
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    assert student.model.config.encoder_layers == 3
    for place, source in enumerate((0, 2, 4)):
        for name in ("self_attn.q_proj.weight", "fc2.bias"):
            found = ours[f"encoder.layers.{place}.{name}"]
            assert torch.equal(found, theirs[f"encoder.layers.{source}.{name}"])
    again = StudentSettings(encoder_layers=6)
    with pytest.raises(ValueError, match=r"keeps 1 to 5 .* found 6"):
        build_student(teacher, again)


@given(st.integers(1, 64), st.data())
def test_blocks_are_equal_and_hold_every_layer_once(n_layers: int, data: st.DataObject) -> None:
    n_blocks = data.draw(st.integers(1, n_layers))
    blocks = layer_blocks(n_layers, n_blocks)
    assert [number for block in blocks for number in block] == list(range(n_layers))
    assert len(blocks) == n_blocks
    sizes = {len(block) for block in blocks}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_merged_layers_are_the_mean_of_their_blocks(tiny_model: Path) -> None:
    teacher = load_checkpoint(tiny_model)
    student = build_student(teacher, StudentSettings(decoder_layers=2, merge_layers=True))
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    for name in ("encoder_attn.k_proj.weight", "fc1.bias"):
        for place, (a, b) in enumerate(((0, 1), (2, 3))):
            pair = [theirs[f"decoder.layers.{source}.{name}"] for source in (a, b)]
            found = ours[f"decoder.layers.{place}.{name}"]
            torch.testing.assert_close(found, (pair[0] + pair[1]) / 2)


def test_a_student_can_begin_as_another_student(tiny_model: Path, tmp_path: Path) -> None:
    make_student(str(tiny_model), tmp_path / "three", StudentSettings(decoder_layers=3))
    settings = StudentSettings(layers=(-1,), start=str(tmp_path / "three"))
    made = make_student(str(tiny_model), tmp_path / "one", settings)
    last = load_checkpoint(tiny_model).model.decoder.layers[-1].fc1.weight
    assert torch.equal(made.model.decoder.layers[0].fc1.weight, last)
    assert made.model.config.decoder_layers == 1
    finer = write_tiny_model(tmp_path / "finer", n_mels=128)
    with pytest.raises(ValueError, match=r"finer must have its teacher's n_mels 80, found 128"):
        make_student(str(tiny_model), tmp_path / "x", StudentSettings(start=str(finer)))


def test_settings_that_make_no_sense_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"decoder_layers .* 0; encoder_layers .* 0; layers must"):
        StudentSettings(decoder_layers=0, encoder_layers=0, layers=())
    with pytest.raises(ValueError, match="merge_layers takes all layers"):
        StudentSettings(layers=(0,), merge_layers=True)
    with pytest.raises(ValueError, match=r"decoder_layers must be left out .* 4 and 3 layers"):
        StudentSettings(decoder_layers=4, layers=(0, 1, -1))
    assert StudentSettings(decoder_layers=3, layers=(0, 1, -1)).decoder_sources(6) == [
        [0],
        [1],
        [5],
    ]


def test_a_description_counts_parameters_and_predicts_the_speed(tiny_model: Path) -> None:
    """distil-large-v2 in the paper: 756 M of 1,550 M parameters, 5.8 times as fast at batch 1."""
    teacher = LARGE_V2
    student = replace(teacher, decoder_layers=2)
    assert count_parameters(student) == pytest.approx(756e6, rel=0.01)
    assert count_parameters(teacher) == pytest.approx(1550e6, rel=0.01)
    said = describe_student(student, teacher)
    assert said.startswith("32 of 32 encoder layers, 2 of 32 decoder layers; 756.2 M parameters")
    assert "49 % of the teacher's; predicted speed-up 6.1, 4.1, 3.8 at batch 1, 16, 64" in said
    model = load_checkpoint(tiny_model).model
    assert count_parameters(model.config) == model.n_parameters()


def test_the_roofline_is_the_published_arithmetic() -> None:
    """RTFx at batch 64 and ms at batch 1, for 110 tokens on an H100."""
    for config, rtfx, ms in (
        (LARGE_V2, 2217, 71.0),
        (replace(LARGE_V2, decoder_layers=2), 8350, 11.7),
    ):
        assert 30 / window_s(config, batch=64) == pytest.approx(rtfx, rel=0.01)
        assert 1000 * window_s(config, batch=1) == pytest.approx(ms, rel=0.01)


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
