"""What is written for whisper.cpp, against a reader of the file, and their program."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.exporting.exporter import export_model
from distilwhisper.exporting.ggml import BLOCK, q5_0, q8_0, with_idle_layer
from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.checkpoint import build_network
from distilwhisper.model.layout import BadCheckpoint, read_model_folder
from openai_reference import openai_name_of
from tiny_model import write_tiny_model

FLOAT32, FLOAT16, Q5_0, Q8_0 = 0, 1, 6, 8


def export(model: Path, dest: Path, dtype: str, *, third_layer: bool = False) -> Path:
    settings = ExportSettings(to="ggml", dtype=dtype, third_layer=third_layer)
    export_model(str(model), dest, settings)
    return dest / "ggml-model.bin"


# ------------------------------------------------------------------------------------------------
# The format, written down a second time: how whisper.cpp reads it


@dataclass(frozen=True)
class GgmlFile:
    sizes: tuple[int, ...]
    filters: npt.NDArray[np.float32]
    tokens: list[bytes]
    kinds: dict[str, int]
    weights: dict[str, npt.NDArray[np.float32]]


def read_ggml(path: Path) -> GgmlFile:
    file = io.BytesIO(path.read_bytes())

    def integers(n: int) -> tuple[int, ...]:
        return struct.unpack(f"<{n}i", file.read(4 * n))

    assert file.read(4) == b"lmgg"
    sizes = integers(11)
    n_mels, n_frequencies = integers(2)
    filters = np.frombuffer(file.read(4 * n_mels * n_frequencies), "<f4")
    tokens = [file.read(integers(1)[0]) for _ in range(integers(1)[0])]
    kinds, weights = {}, {}
    while head := file.read(12):
        rank, n_bytes, kind = struct.unpack("<3i", head)
        shape = integers(rank)[::-1]
        name = file.read(n_bytes).decode()
        kinds[name] = kind
        weights[name] = read_values(file, kind, int(np.prod(shape))).reshape(shape)
    return GgmlFile(sizes, filters.reshape(n_mels, n_frequencies), tokens, kinds, weights)


def read_values(file: io.BytesIO, kind: int, n: int) -> npt.NDArray[np.float32]:
    if kind in (FLOAT32, FLOAT16):
        dtype = np.dtype("<f4" if kind == FLOAT32 else "<f2")
        return np.frombuffer(file.read(n * dtype.itemsize), dtype).astype(np.float32)
    n_bytes = {Q8_0: 34, Q5_0: 22}[kind]
    blocks = np.frombuffer(file.read(n // BLOCK * n_bytes), np.uint8).reshape(-1, n_bytes)
    return (dequantised_q8_0 if kind == Q8_0 else dequantised_q5_0)(blocks)


def scales(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return blocks[:, :2].copy().view("<f2").astype(np.float32)


def dequantised_q8_0(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return scales(blocks) * blocks[:, 2:].view(np.int8)


def dequantised_q5_0(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    fifth = blocks[:, 2:6].copy().view("<u4")  # bit i belongs to value i
    values = np.empty((len(blocks), BLOCK), np.float32)
    for i in range(BLOCK // 2):
        low, high = blocks[:, 6 + i] & 15, blocks[:, 6 + i] >> 4
        values[:, i] = low + 16 * ((fifth[:, 0] >> i) & 1) - 16.0
        values[:, i + 16] = high + 16 * ((fifth[:, 0] >> (i + 16)) & 1) - 16.0
    return scales(blocks) * values


# ------------------------------------------------------------------------------------------------


def test_every_weight_stands_under_the_name_that_whisper_cpp_looks_for(
    published: Path, tmp_path: Path
) -> None:
    files = read_model_folder(published)
    found = read_ggml(export(published, tmp_path / "out", "float16"))
    config = files.config
    assert found.sizes == (
        *(config["vocab_size"], 1500, 32, 4, 2),
        *(448, 32, 2, 2),
        *(config["num_mel_bins"], 1),
    )
    wanted = {openai_name_of(name): weight for name, weight in files.weights.items()}
    assert found.weights.keys() == wanted.keys()
    for name, weight in wanted.items():
        is_matrix = weight.ndim > 1 and "positional" not in name
        assert found.kinds[name] == (FLOAT16 if is_matrix else FLOAT32)
        values = weight.half().float() if is_matrix else weight
        np.testing.assert_array_equal(found.weights[name].reshape(values.shape), values.numpy())
    assert found.weights["encoder.conv1.bias"].shape == (32, 1)


def test_tokens_are_bytes_and_filters_are_whispers(published: Path, tmp_path: Path) -> None:
    found = read_ggml(export(published, tmp_path / "out", "float16"))
    config = read_model_folder(published).config
    assert len(found.tokens) == config["eos_token_id"]
    assert {token for token in found.tokens if len(token) == 1} == {bytes([b]) for b in range(256)}
    assert found.filters.shape == (config["num_mel_bins"], 201)
    whisper = pytest.importorskip("whisper")
    theirs = whisper.audio.mel_filters("cpu", config["num_mel_bins"]).numpy()
    np.testing.assert_allclose(found.filters, theirs, atol=1e-8)


@pytest.mark.parametrize(("dtype", "kind", "steps"), [("q8_0", Q8_0, 127), ("q5_0", Q5_0, 16)])
def test_a_quantised_weight_is_off_by_a_step_at_most(
    published: Path, tmp_path: Path, dtype: str, kind: int, steps: int
) -> None:
    files = read_model_folder(published)
    found = read_ggml(export(published, tmp_path / "out", dtype))
    assert found.sizes[-1] == 2000 + {"q8_0": 7, "q5_0": 8}[dtype]
    for name, weight in files.weights.items():
        theirs = openai_name_of(name)
        if weight.ndim == 2 and "positional" not in theirs:
            assert found.kinds[theirs] == kind
            blocks = weight.reshape(-1, BLOCK).numpy()
            step = np.abs(blocks).max(axis=1, keepdims=True) / steps
            off = np.abs(found.weights[theirs].reshape(-1, BLOCK) - blocks)
            assert (off <= 1.01 * step).all()  # the largest of the other sign is one step off
        else:
            assert found.kinds[theirs] in (FLOAT32, FLOAT16)


@given(st.integers(0, 1000), st.floats(0.01, 1000))
def test_blocks_are_read_back(seed: int, size: float) -> None:
    blocks = size * np.random.default_rng(seed).standard_normal((3, BLOCK)).astype(np.float32)
    blocks[1] = 0
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    for quantised, read, steps in (
        (q8_0(blocks), dequantised_q8_0(q8_0(blocks)), 127),
        (q5_0(blocks), dequantised_q5_0(q5_0(blocks)), 16),
    ):
        assert len(quantised) == 3
        assert (np.abs(read - blocks) <= 1.01 * largest / steps).all()
        assert not read[1].any()


def test_rows_that_are_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    model = write_tiny_model(
        tmp_path / "model", vocab_size=51_864, width=48, encoder_ffn=192, decoder_ffn=192
    )
    with pytest.raises(BadCheckpoint, match="d_model must be a multiple of 32 for q8_0, found 48"):
        export(model, tmp_path / "out", "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_float32_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match=r"found float32; whisper\.cpp ends the whole process"):
        ExportSettings(to="ggml", dtype="float32")


def test_an_idle_layer_changes_nothing(tiny_model: Path) -> None:
    files = read_model_folder(tiny_model)
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(1, 80, 3000, generator=generator)
    tokens = torch.tensor([[5, 6, 7]])
    logits = [build_network(each)(mel, tokens) for each in (files, with_idle_layer(files))]
    assert torch.equal(*logits)


def test_a_student_whose_segments_whisper_cpp_cannot_time_says_so(
    published: Path, tmp_path: Path
) -> None:
    for third_layer in (False, True):
        settings = ExportSettings(to="ggml", third_layer=third_layer)
        exported = export_model(str(published), tmp_path / f"{third_layer}", settings)
        warned = any("--third-layer" in note for note in exported.notes)
        is_v3 = read_model_folder(published).config["vocab_size"] == 51_866
        assert warned == (not third_layer and not is_v3)
        card = (exported.folder / "README.md").read_text()
        assert ("--third-layer" in card) == warned


@pytest.mark.reference
@pytest.mark.parametrize(
    ("dtype", "third_layer"), [("float16", False), ("q8_0", True), ("q5_0", False)]
)
def test_their_program_runs_it_and_leaves_timestamps_out_of_two_layers_alone(
    published: Path,
    tmp_path: Path,
    dtype: str,
    third_layer: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pywhispercpp = pytest.importorskip("pywhispercpp.model")
    path = export(published, tmp_path / "out", dtype, third_layer=third_layer)
    model = pywhispercpp.Model(str(path), n_threads=1, greedy={"best_of": 1}, temperature_inc=0.0)
    assert "failed to load" not in capfd.readouterr().err
    model.transcribe(np.zeros(16_000, np.float32), single_segment=True, max_tokens=4)
    is_v3 = read_model_folder(published).config["vocab_size"] == 51_866
    forced = "forcing no_timestamps" in capfd.readouterr().err
    assert forced == (not third_layer and not is_v3)
