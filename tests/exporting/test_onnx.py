"""The graphs that are built from weights, against torch's network, through onnxruntime."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from distilwhisper.exporting import sherpa
from distilwhisper.exporting.exporter import export_model
from distilwhisper.exporting.settings import ExportSettings, Target
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.layout import read_model_folder
from distilwhisper.model.whisper import Whisper
from distilwhisper.speech.audio import Samples

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from distilwhisper.exporting import graphs  # noqa: E402  it needs onnx

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # sums of float32 in another order
Arrays = dict[str, npt.NDArray[Any]]


def export(model: Path, dest: Path, to: Target = "onnx", dtype: str = "float32") -> Path:
    return export_model(str(model), dest, ExportSettings(to=to, dtype=dtype)).folder


def run(path: Path, **inputs: Any) -> dict[str, Tensor]:
    session = onnxruntime.InferenceSession(str(path))
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(None, {each.name: arrays[each.name] for each in session.get_inputs()})
    return {name: torch.from_numpy(value) for name, value in zip(names, outputs, strict=True)}


@pytest.fixture(scope="module")
def model(students: dict[int, Path]) -> Whisper:
    return load_checkpoint(students[51_866]).model


@pytest.fixture(scope="module")
def folder(students: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of large-v3's shape as graphs."""
    return export(students[51_866], tmp_path_factory.mktemp("onnx") / "out")


@pytest.fixture(scope="module")
def int8_folder(students: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(students[51_866], tmp_path_factory.mktemp("onnx") / "out", dtype="int8")


@pytest.fixture(scope="module")
def mel() -> Tensor:
    return torch.randn(2, 128, 3000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def states(model: Whisper, mel: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.encoder(mel)


IDS = torch.tensor([[50258, 50259, 50360, 9, 77], [50258, 50261, 50360, 4, 50000]])
N_FIRST = 3  # tokens of the first call; the others come one at a time


def logits(model: Whisper, states: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.decoder.project(model.decoder(IDS, model.decoder.cross_cache(states)))


def pasts(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.replace("present", "past_key_values"): value
        for name, value in outputs.items()
        if name.startswith("present")
    }


def test_the_encoder_is_torchs(folder: Path, mel: Tensor, states: Tensor) -> None:
    found = run(folder / "onnx" / "encoder_model.onnx", input_features=mel)
    torch.testing.assert_close(found["last_hidden_state"], states, **CLOSE)


def test_the_merged_decoder_is_torchs_with_and_without_a_past(
    folder: Path, model: Whisper, states: Tensor
) -> None:
    wanted = logits(model, states)
    path = folder / "onnx" / "decoder_model_merged.onnx"
    empty = torch.zeros(2, 2, 0, 16)
    past = {
        f"past_key_values.{number}.{side}.{part}": empty
        for number in range(2)
        for side in ("decoder", "encoder")
        for part in ("key", "value")
    }
    at = 0
    for n_new in (N_FIRST, 1, 1):
        inputs = {
            "input_ids": IDS[:, at : at + n_new],
            "encoder_hidden_states": states,
            "use_cache_branch": [at > 0],
        }
        found = run(path, **inputs, **past)
        torch.testing.assert_close(found["logits"], wanted[:, at : at + n_new], **CLOSE)
        past = pasts(found)
        at += n_new
        assert past["past_key_values.1.decoder.value"].shape == (2, 2, at, 16)
        assert past["past_key_values.1.encoder.key"].shape == (2, 2, 1500, 16)


def test_two_decoders_are_the_merged_one(folder: Path, model: Whisper, states: Tensor) -> None:
    wanted = logits(model, states)
    first = run(
        folder / "onnx" / "decoder_model.onnx",
        input_ids=IDS[:, :N_FIRST],
        encoder_hidden_states=states,
    )
    torch.testing.assert_close(first["logits"], wanted[:, :N_FIRST], **CLOSE)
    rest = run(
        folder / "onnx" / "decoder_with_past_model.onnx", input_ids=IDS[:, N_FIRST:], **pasts(first)
    )
    torch.testing.assert_close(rest["logits"], wanted[:, N_FIRST:], **CLOSE)
    assert {name.split(".")[2] for name in pasts(rest)} == {"decoder"}


def test_transformers_js_finds_names_and_axes(folder: Path) -> None:
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "decoder_model_merged.onnx"))
    shapes = {each.name: each.shape for each in session.get_inputs()}
    assert shapes.pop("use_cache_branch") == [1]
    assert {shape[0] for shape in shapes.values()} == {"batch_size"}
    assert shapes["past_key_values.0.encoder.key"][1:] == [2, "past_encoder_sequence_length", 16]
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (folder / name).is_file()
    assert not (folder / "model.safetensors").exists()


def test_int8_is_near_and_a_quarter(
    folder: Path, int8_folder: Path, model: Whisper, mel: Tensor, states: Tensor
) -> None:
    small, large = (
        path / "onnx" / f"decoder_model{suffix}.onnx"
        for path, suffix in ((int8_folder, "_quantized"), (folder, ""))
    )
    assert small.stat().st_size < 0.32 * large.stat().st_size  # scales are a fourth of a 32-row
    found = run(int8_folder / "onnx" / "encoder_model_quantized.onnx", input_features=mel)
    close = torch.nn.functional.cosine_similarity(found["last_hidden_state"], states, dim=-1)
    assert close.mean() > 0.99
    found = run(small, input_ids=IDS, encoder_hidden_states=states)
    close = torch.nn.functional.cosine_similarity(found["logits"], logits(model, states), dim=-1)
    assert close.mean() > 0.99


def test_what_one_file_cannot_hold_goes_into_a_second(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_LARGEST_FILE_BYTES", 10_000)
    path = export(student, tmp_path / "out") / "onnx" / "encoder_model.onnx"
    assert path.with_name("encoder_model.onnx_data").is_file()
    assert path.stat().st_size < 50_000
    mel = torch.zeros(1, 80, 3000)
    with torch.inference_mode():
        wanted = load_checkpoint(student).model.encoder(mel)
    found = run(path, input_features=mel)["last_hidden_state"]
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_sherpas_decoder_writes_its_cache_in_place(published: Path, tmp_path: Path) -> None:
    model = load_checkpoint(published).model
    mel = torch.randn(1, model.config.n_mels, 3000, generator=torch.Generator().manual_seed(1))
    out = export(published, tmp_path / "out", "sherpa")
    crosses = run(out / "encoder.onnx", mel=mel)
    assert crosses["n_layer_cross_k"].shape == (2, 1, 1500, 32)
    with torch.inference_mode():
        wanted = logits(model, model.encoder(mel).expand(2, -1, -1))[:1]
    caches = {f"in_n_layer_self_{part}_cache": torch.zeros(2, 1, 448, 32) for part in "kv"}
    at = 0
    for n_new in (N_FIRST, 1, 1):
        inputs = {"tokens": IDS[:1, at : at + n_new], "offset": [at]}
        found = run(out / "decoder.onnx", **inputs, **caches, **crosses)
        torch.testing.assert_close(found["logits"], wanted[:, at : at + n_new], **CLOSE)
        caches = {f"in{name[3:]}": v for name, v in found.items() if name.startswith("out")}
        at += n_new
        assert not caches["in_n_layer_self_k_cache"][:, :, at:].any()


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # their vocabulary file is never closed
def test_sherpas_metadata_is_what_its_own_exporter_writes(published: Path, tmp_path: Path) -> None:
    import onnx

    whisper = pytest.importorskip("whisper")
    out = export(published, tmp_path / "out", "sherpa")
    files = read_model_folder(published)
    found = {prop.key: prop.value for prop in onnx.load(out / "encoder.onnx").metadata_props}
    is_multilingual = files.config["vocab_size"] > 51_864
    theirs = whisper.tokenizer.get_tokenizer(
        is_multilingual, num_languages=files.config["vocab_size"] - 51_765 - is_multilingual
    )
    for name in ("sot", "eot", "sot_prev", "sot_lm", "no_speech", "no_timestamps"):
        assert int(found[name]) == getattr(theirs, name), name
    for name in ("transcribe", "translate"):
        assert int(found[name]) == getattr(theirs, name), name
    assert int(found["is_multilingual"]) == is_multilingual
    assert (int(found["n_mels"]), int(found["n_vocab"])) == (
        files.config["num_mel_bins"],
        files.config["vocab_size"],
    )
    if is_multilingual:
        assert found["sot_sequence"].split(",") == [str(i) for i in theirs.sot_sequence]
        codes, ids = (found[f"all_language_{name}"].split(",") for name in ("codes", "tokens"))
        paired = zip(theirs.all_language_codes, map(str, theirs.all_language_tokens), strict=True)
        assert dict(zip(codes, ids, strict=True)) == dict(paired)
    lines = (out / "tokens.txt").read_text().splitlines()
    assert len(lines) == files.config["eos_token_id"]
    token, number = lines[65].split()
    assert (base64.b64decode(token), number) == (b"b", "65")


@pytest.mark.reference
@pytest.mark.slow
def test_sherpa_onnx_writes_what_the_original_does_on_its_frames(
    tiny_en: Path, prompts: list, tmp_path: Path, on_zero_frames: Callable[[Samples], str]
) -> None:
    pytest.importorskip("sherpa_onnx")
    out = export(tiny_en, tmp_path / "out", "sherpa")
    recognise = sherpa.recogniser(out, read_model_folder(tiny_en))
    for samples, _ in prompts:
        assert recognise(samples, "en").strip() == on_zero_frames(samples)
