"""What is written for CTranslate2, against this package's reader and their own converter."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.exporting.check import CHECKED_DECODING
from distilwhisper.exporting.exporter import export_model
from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.ctranslate2 import read_ctranslate2
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.layout import read_json_object, read_model_folder, write_model_folder
from distilwhisper.speech.audio import Samples
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.wer import ErrorCounts, word_errors
from tiny_model import write_tiny_model

FLOAT32 = Hardware("cpu", "float32")


def export(model: Path, dest: Path, dtype: str) -> Path:
    return export_model(str(model), dest, ExportSettings(to="ctranslate2", dtype=dtype)).folder


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("multilingual", [False, True])
def test_what_is_written_is_read_back_bit_by_bit(
    tmp_path: Path, dtype: str, multilingual: bool
) -> None:
    model = write_tiny_model(tmp_path / "model", multilingual=multilingual)
    original = read_model_folder(model)
    found = read_ctranslate2(export(model, tmp_path / "out", dtype))
    assert found.weights.keys() == original.weights.keys()
    for name, weight in original.weights.items():
        assert torch.equal(found.weights[name], weight.to(getattr(torch, dtype))), name
    assert found.tokenizer_json == original.tokenizer_json
    for key in ("suppress_tokens", "begin_suppress_tokens", "alignment_heads", "eos_token_id"):
        assert found.generation_config[key] == original.generation_config[key]
    for key in ("encoder_attention_heads", "decoder_layers", "num_mel_bins", "vocab_size"):
        assert found.config[key] == original.config[key]


@pytest.mark.parametrize("dtype", ["int8", "int8_float16"])
def test_a_quantised_weight_is_off_by_half_a_step_at_most(
    tiny_model: Path, tmp_path: Path, dtype: str
) -> None:
    original = read_model_folder(tiny_model).weights
    found = read_ctranslate2(export(tiny_model, tmp_path / "out", dtype)).weights
    for name, weight in original.items():
        matrix = weight.ndim > 1 and "embed_positions" not in name
        if matrix:
            rows, theirs = weight.flatten(1), found[name].float().flatten(1)
            step = rows.abs().amax(dim=1, keepdim=True) / 127
            assert ((rows - theirs).abs() <= 0.501 * step).all()
        else:
            kept = torch.float16 if dtype == "int8_float16" else torch.float32
            assert torch.equal(found[name], weight.to(kept))


def test_faster_whisper_finds_what_it_would_ask_the_hub_for(
    published: Path, tmp_path: Path
) -> None:
    files = read_model_folder(published)
    folder = export(published, tmp_path / "out", "float32")
    assert (folder / "tokenizer.json").read_text() == files.tokenizer_json
    extractor = read_json_object(folder / "preprocessor_config.json")
    assert extractor["feature_size"] == files.config["num_mel_bins"]
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    assert len(vocabulary) == files.config["vocab_size"]
    assert vocabulary[files.config["eos_token_id"]] == "<|endoftext|>"
    languages = read_json_object(folder / "config.json")["lang_ids"]
    assert len(languages) == {51_864: 0, 51_865: 99, 51_866: 100}[len(vocabulary)]


@pytest.mark.parametrize("named", [None, [[5, 0]]])
def test_heads_that_the_decoder_lacks_are_not_passed_on(
    tiny_model: Path, tmp_path: Path, named: list[list[int]] | None
) -> None:
    files = read_model_folder(tiny_model)
    files.generation_config["alignment_heads"] = named
    write_model_folder(tmp_path / "model", files, dtype=torch.float32)
    settings = ExportSettings(to="ctranslate2")
    exported = export_model(str(tmp_path / "model"), tmp_path / "out", settings)
    heads = read_json_object(tmp_path / "out" / "config.json")["alignment_heads"]
    assert heads == [[2, 0], [2, 1], [3, 0], [3, 1]]  # the upper half of four layers
    (note,) = exported.notes
    assert "distilwhisper heads MODEL" in note
    assert note in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.reference
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int8_float16"])
def test_model_bin_is_that_of_their_own_converter(
    student: Path, tmp_path: Path, dtype: str
) -> None:
    pytest.importorskip("ctranslate2")
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(student)).convert(str(tmp_path / "theirs"), quantization=dtype)
    ours = export(student, tmp_path / "ours", dtype)
    assert (ours / "model.bin").read_bytes() == (tmp_path / "theirs" / "model.bin").read_bytes()
    for name in ("config.json", "vocabulary.json"):
        found = json.loads((ours / name).read_text())
        assert found == json.loads((tmp_path / "theirs" / name).read_text())


def in_faster_whisper(folder: Path) -> Callable[..., list]:
    """Return what gives the segments of sound, by faster-whisper itself."""
    faster_whisper = pytest.importorskip("faster_whisper")
    model = faster_whisper.WhisperModel(str(folder), device="cpu", local_files_only=True)

    def segments(samples: Samples, **options: object) -> list:
        found, _ = model.transcribe(samples, beam_size=1, temperature=0.0, language="en", **options)
        return list(found)

    return segments


@pytest.mark.reference
@pytest.mark.slow
def test_faster_whisper_writes_what_the_original_does_on_its_frames(
    tiny_en: Path, prompts: list, tmp_path: Path, on_zero_frames: Callable[[Samples], str]
) -> None:
    """And makes as few errors as the original on its own."""
    segments = in_faster_whisper(export(tiny_en, tmp_path / "out", "float32"))
    ours = Transcriber.from_model(str(tiny_en), CHECKED_DECODING, FLOAT32)
    normalize = normalizer_for("en")
    theirs, original = ErrorCounts(), ErrorCounts()
    for samples, reference in prompts:
        text = "".join(s.text for s in segments(samples, without_timestamps=True)).strip()
        assert text == on_zero_frames(samples)
        (window,) = ours.decode([samples])
        theirs += word_errors(normalize(reference), normalize(text))
        original += word_errors(normalize(reference), normalize(window.text))
    assert theirs.errors <= original.errors + 1


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_en", "base_2"])
def test_word_times_in_faster_whisper_are_ours(
    name: str, prompts: list, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    segments = in_faster_whisper(export(model, tmp_path / "out", "float32"))
    settings = DecodingSettings(word_timestamps=True, temperature=(0.0,), language="en")
    ours = Transcriber.from_model(str(model), settings, FLOAT32)
    off = []
    for samples, _ in prompts:
        their_words = [w for s in segments(samples, word_timestamps=True) for w in s.words]
        our_words = ours.transcribe(samples).words
        if [w.word.strip() for w in their_words] == [w.text.strip() for w in our_words]:
            pairs = zip(their_words, our_words, strict=True)
            off += [abs(w.end - o.end) for w, o in pairs]
    assert len(off) > 40
    assert np.quantile(off, 0.9) <= 0.2
