"""OpenVINO's graphs against torch's modules, on the same weights."""

import copy
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from corpora import noise
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.extras import MissingExtra
from distilwhisper.model import openvino
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.hardware import Hardware, cpu_has
from distilwhisper.model.openvino import (
    MODELS_KEPT,
    N_SPECIAL,
    _forget_oldest,
    accelerate,
    quantise,
)
from distilwhisper.model.silence import thin_silence
from distilwhisper.model.whisper import CrossCache, Decoder, Whisper, WhisperConfig
from distilwhisper.speech.audio import Samples
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import make_student

pytest.importorskip("openvino")

CPU = Hardware(device="cpu", dtype="float32", backend="openvino")
GREEDY = DecodingSettings(temperature=(0.0,))


@pytest.fixture(scope="module")
def rounded(tiny_model: Path) -> Whisper:
    """Torch's modules, whose decoder holds what is left of its weights in int8."""
    model = load_checkpoint(tiny_model, dtype=torch.float32).model
    _round_decoder(model.decoder)
    return model


def _round_decoder(decoder: Decoder) -> None:
    weight, scale = decoder.embed_tokens.weight.detach(), decoder.layer_norm.weight.detach().abs()
    common, scale = weight.mean(dim=0), scale.clamp(min=0.01 * scale.max())
    whole, step = quantise((weight - common) * scale)
    decoder.packed_projection = partial(F.linear, weight=whole * step / scale + common)
    for layer in decoder.layers:
        own, cross = layer.self_attn, layer.encoder_attn
        for linear in (own.q_proj, own.k_proj, own.v_proj, own.out_proj, cross.q_proj):
            _round(linear.weight)
        for linear in (cross.out_proj, layer.fc1, layer.fc2):
            _round(linear.weight)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Whisper:
    model = load_checkpoint(tiny_model, dtype=torch.float32).model
    accelerate(model)
    return model


def _round(weight: Tensor) -> None:
    whole, scale = quantise(weight.data)
    weight.data = whole * scale


@given(st.integers(1, 5), st.integers(1, 40), st.floats(1e-6, 1e6))
def test_a_weight_is_off_by_half_a_step_at_most(n_rows: int, n_columns: int, size: float) -> None:
    weight = size * torch.randn(n_rows, n_columns, generator=torch.Generator().manual_seed(n_rows))
    whole, scale = quantise(weight)
    assert whole.dtype == torch.int8
    assert ((whole * scale - weight).abs() <= 0.5001 * scale).all()
    assert (whole.abs().amax(dim=1) == 127).all()


def test_a_row_of_zeros_stays_one() -> None:
    whole, scale = quantise(torch.zeros(2, 3))
    assert not whole.any()
    assert scale.isfinite().all()


@pytest.mark.parametrize("n_frames", [3000, 2, 3, 701])
def test_the_encoder_hears_alike_for_any_number_of_frames(
    rounded: Whisper, engine: Whisper, n_frames: int
) -> None:
    mel = torch.randn(2, 80, n_frames, generator=torch.Generator().manual_seed(n_frames))
    with torch.inference_mode():
        # Sums of a few hundred float32 products in another order.
        torch.testing.assert_close(engine.encoder(mel), rounded.encoder(mel), rtol=1e-4, atol=1e-4)
        if (kept := thin_silence(n_frames // 20, -(-n_frames // 2))) is not None:
            mel[:, :, n_frames // 10 :] = 0.0
            found, wanted = (model.encoder(mel, kept) for model in (engine, rounded))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="at most 3000 mel frames, found 3001"):
            engine.encoder(torch.zeros(1, 80, 3001))


@pytest.mark.parametrize(
    ("features", "in_int8"),
    [("avx512_vnni", True), ("avx512_vnni amx_bf16", False), ("avx512_bf16", False)],
)
def test_the_encoder_multiplies_in_int8_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, features: str, in_int8: bool
) -> None:
    monkeypatch.setattr(openvino, "cpu_has", features.split().__contains__)
    assert openvino._Compiler(torch.bfloat16, None).encodes_in_int8 == in_int8
    assert not openvino._Compiler(torch.float32, None).encodes_in_int8
    assert openvino._Compiler(torch.float32, None, may_round=True).encodes_in_int8 == in_int8


@pytest.mark.skipif(not cpu_has("avx512_bf16"), reason="needs a CPU that multiplies bfloat16")
def test_an_encoder_in_int8_is_off_by_little_more_than_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, rounded: Whisper
) -> None:
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    errors = []
    for features, precision in (
        ("avx512_vnni amx_bf16", torch.bfloat16),
        ("avx512_vnni", torch.bfloat16),
        ("avx512_vnni", torch.float32),
    ):
        monkeypatch.setattr(openvino, "cpu_has", features.split().__contains__)
        model = load_checkpoint(tiny_model, dtype=torch.float32).model
        accelerate(model, precision=precision, may_round=True)
        with torch.inference_mode():
            wanted = rounded.encoder(mel)
            errors.append(float((model.encoder(mel) - wanted).norm() / wanted.norm()))
    in_bfloat16, in_both, in_int8 = errors
    # Of 127 steps a weight or an activation is off by half a one; errors of a row add up as noise.
    assert 0 < in_int8 < in_bfloat16 < in_both < 0.03


def test_rows_of_any_lengths_go_on_as_in_torch(rounded: Whisper, engine: Whisper) -> None:
    """Prompts of several tokens, then single tokens, over frames that some rows lack."""
    generator = torch.Generator().manual_seed(4)
    token_ids = torch.randint(0, 200, (3, 5), generator=generator)
    with torch.inference_mode():
        states = rounded.encoder(torch.randn(3, 80, 60, generator=generator))
        hidden = torch.arange(30) >= torch.tensor([30, 11, 29])[:, None, None, None]
        bias = torch.randn(3, 1, 1, 30, generator=generator).masked_fill(hidden, -torch.inf)
        outputs = []
        for model in (rounded, engine):
            cross = model.decoder.cross_cache(states)
            for given_bias in (None, bias):
                crossed = CrossCache(cross.keys, cross.values, given_bias)
                cache = model.decoder.self_cache(3, 20)
                outputs.append(model.decoder(token_ids, crossed, cache))
                cache.lengths += torch.tensor([5, 1, 3])  # the rest was padding
                outputs.append(model.decoder(token_ids[:, :1], crossed, cache))
                cache.lengths += 1
                outputs.append(model.decoder(token_ids[:, 1:4], crossed, cache, n_keys=15))
                outputs.append(cache.states)
    half = len(outputs) // 2
    for wanted, found in zip(outputs[:half], outputs[half:], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.equal(outputs[1], outputs[5])  # hidden frames are not seen


def test_logits_are_those_of_the_rounded_embedding(rounded: Whisper, engine: Whisper) -> None:
    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, wanted = (model.decoder.project(states) for model in (engine, rounded))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not cpu_has("avx512_bf16"), reason="needs a CPU that multiplies bfloat16")
def test_a_vocabulary_in_int4_has_the_likeliest_tokens_in_full() -> None:
    """Whatever the rows have in common, and of any row alone as among others."""
    generator = torch.Generator().manual_seed(2)
    config = WhisperConfig(
        vocab_size=N_SPECIAL + 4000,
        n_mels=80,
        width=256,
        encoder_layers=1,
        encoder_heads=4,
        encoder_ffn=16,
        decoder_layers=1,
        decoder_heads=4,
        decoder_ffn=16,
    )
    model = Whisper(config)
    # As in trained models: states are large in a place, where rows are alike.
    scale = torch.full((256,), 10.0).index_fill_(0, torch.tensor([17]), 40.0)
    weight = torch.randn(config.vocab_size, 256, generator=generator) / (10 * scale)
    weight[:, 17] -= 0.05
    weight[4000:] *= 0.5  # special tokens are never the likeliest here
    states = scale * torch.randn(60, 256, generator=generator)
    states[:, 17] -= 150
    model.decoder.embed_tokens.weight.data = weight
    model.decoder.layer_norm.weight.data = scale
    accelerate(model, precision=torch.bfloat16)
    with torch.inference_mode():
        wanted = states @ weight.T
        found = model.decoder.project(states).clone()
        alone = torch.cat([model.decoder.project(row[None]).clone() for row in states])
    assert torch.equal(found, alone)
    text = wanted[:, :4000]
    is_rough = (found[:, :4000] - text).abs() > 0.1
    assert is_rough.float().mean() > 0.3  # so that int4 would tell on what follows
    best = text.argmax(dim=1, keepdim=True)
    assert torch.equal(found[:, :4000].argmax(dim=1, keepdim=True), best)
    torch.testing.assert_close(found.gather(1, best), text.gather(1, best), rtol=1e-4, atol=1e-4)
    # Special tokens are in int8.
    assert (found[:, 4000:] - wanted[:, 4000:]).abs().mean() < 0.03


@pytest.mark.slow
def test_beams_and_word_times_are_the_same_in_any_company(tiny_model: Path) -> None:
    pieces = [noise(0.5, seed=seed) for seed in range(2)]
    short = replace(GREEDY, max_new_tokens=6, context_margin_s=1.0)
    for settings in (
        replace(short, beam_size=2),
        replace(short, word_timestamps=True),
    ):
        transcriber = Transcriber.from_model(str(tiny_model), settings, CPU)
        together = transcriber.decode(pieces)
        assert [transcriber.decode([p])[0].token_ids for p in pieces] == [
            window.token_ids for window in together
        ]
    assert transcriber.transcribe(pieces[0]).segments is not None


def test_a_second_start_compiles_nothing_and_hears_the_same(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mel = torch.randn(1, 80, 60, generator=torch.Generator().manual_seed(1))
    token_ids = torch.tensor([[3, 1, 4, 1, 5]])

    def logits(seed: int | None = None) -> Tensor:
        model = load_checkpoint(tiny_model, dtype=torch.float32).model
        if seed is not None:  # of no effect where the graphs are not made of these weights
            torch.manual_seed(seed)
            for name, weight in (
                *model.encoder.named_parameters(),
                *model.decoder.layers.named_parameters(),
            ):
                if name != "embed_positions.weight":  # which is read, as token embeddings are
                    weight.data.normal_()
        accelerate(model, folder=tiny_model)
        with torch.inference_mode():
            return model(mel, token_ids)

    first = logits()
    (kept,) = (tmp_path / "distilwhisper" / "openvino").iterdir()
    os.utime(kept, (0, 0))
    assert torch.equal(logits(seed=1), first)
    assert kept.stat().st_mtime > 0, "what is in use would be forgotten as the oldest"
    for graph in kept.iterdir():
        graph.write_bytes(graph.read_bytes()[:1000])  # by a machine that lost its power
    with caplog.at_level("WARNING"):
        assert torch.equal(logits(), first)
    assert "cannot be read as a compiled graph, and is made again" in caplog.text
    assert torch.equal(logits(seed=1), first)
    (tiny_model / "model.safetensors").touch()
    assert not torch.equal(logits(seed=1), first)


def test_few_models_are_kept_compiled(tmp_path: Path) -> None:
    for number in range(MODELS_KEPT + 2):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), (number, number))
    _forget_oldest(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(map(str, range(2, MODELS_KEPT + 2)))


@pytest.mark.parametrize(
    ("asked", "feature", "picked"),
    [
        ({}, "amx_bf16", "openvino"),
        ({}, "avx2", "openvino"),
        ({}, "sse4_2", "torch"),
        ({"dtype": "float32"}, "avx2", "torch"),
        ({"dtype": "float32"}, "amx_bf16", "torch"),
        ({"dtype": "float32", "backend": "openvino"}, "avx2", "openvino"),
        ({"backend": "torch"}, "amx_bf16", "torch"),
    ],
)
def test_auto_takes_openvino_where_it_is_faster_and_no_numbers_are_asked_for(
    asked: dict[str, Any], feature: str, picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilwhisper.model.hardware.cpu_has", lambda name: name == feature)
    hardware = Hardware(device="cpu", **asked)
    assert hardware.picked().backend == picked
    assert f", {picked}, " in hardware.describe()
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert Hardware(device="cpu").pick_backend() == "torch"


def test_a_model_elsewhere_or_of_other_numbers_is_refused(tiny_model: Path) -> None:
    model = load_checkpoint(tiny_model, dtype=torch.float32).model
    with pytest.raises(ValueError, match="found bfloat16 on cpu"):
        accelerate(copy.deepcopy(model).bfloat16())
    with pytest.raises(ValueError, match="float32 on meta: take device=cpu"):
        accelerate(copy.deepcopy(model).to("meta"))
    with pytest.raises(ValueError, match="found device cpu and dtype float16"):
        Transcriber.from_model(str(tiny_model), GREEDY, replace(CPU, dtype="float16"))


def test_a_missing_package_names_the_extra(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"distilwhisper\[openvino\]"):
        Transcriber.from_model(str(tiny_model), GREEDY, CPU)


def test_a_draft_in_bfloat16_is_left_to_torch(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums that are rounded to bfloat16 depend on how many tokens are decoded at once."""
    model = str(tiny_model)
    with pytest.raises(ValueError, match="a draft with backend openvino needs dtype float32"):
        Transcriber.from_model(model, None, Hardware("cpu", "bfloat16", "openvino"), draft=model)
    monkeypatch.setattr("distilwhisper.model.hardware.cpu_has", {"avx512_bf16"}.__contains__)
    made = Transcriber.from_model(model, None, Hardware("cpu"), draft=model)
    assert made.checkpoint.model.decoder.engine is None
    # Where nothing is rounded to bfloat16, nothing is to int8 either.
    monkeypatch.setattr("distilwhisper.model.hardware.cpu_has", {"avx2"}.__contains__)
    made_with = []
    monkeypatch.setattr(
        "distilwhisper.decoding.transcriber.accelerate", lambda _, **how: made_with.append(how)
    )
    for draft in (None, model):
        Transcriber.from_model(model, None, Hardware("cpu"), draft=draft)
    assert [(how["precision"], how["may_round"]) for how in made_with] == [
        (torch.float32, True),
        *[(torch.float32, False)] * 2,
    ]


# Real weights


@pytest.mark.slow
def test_real_speech_is_heard_alike_in_any_company(
    tiny_en: Path, prompts: list[tuple[Samples, str]], tmp_path: Path
) -> None:
    """Alone, in a batch, and with a draft that is sometimes right."""
    pieces = [samples for samples, _ in prompts[:6]]
    make_student(str(tiny_en), tmp_path / "student", StudentSettings(decoder_layers=2))
    settings = replace(GREEDY, batch_size=1)
    own = Hardware(device="cpu", backend="openvino")  # in this CPU's own numbers
    exact = replace(own, dtype="float32")
    for draft, hardware in ((None, own), (str(tmp_path / "student"), exact)):
        wanted = Transcriber.from_model(str(tiny_en), settings, hardware).decode(pieces)
        transcriber = Transcriber.from_model(
            str(tiny_en), replace(settings, batch_size=4), hardware, draft=draft
        )
        found = transcriber.decode(pieces)
        assert [w.token_ids for w in found] == [w.token_ids for w in wanted]
        assert (0 < transcriber.counts.acceptance < 1) == (draft is not None)


@pytest.mark.slow
def test_real_speech_becomes_the_tokens_of_torch_in_float32(
    tiny_en: Path, prompts: list[tuple[Samples, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With timestamps, by the same rounded weights; in words, by the weights as they are."""
    monkeypatch.setattr("distilwhisper.decoding.windows.thin_silence", lambda *_: None)
    pieces = [samples for samples, _ in prompts[:6]]
    by_torch = Transcriber.from_model(
        str(tiny_en), GREEDY, Hardware(device="cpu", dtype="float32", backend="torch")
    )
    plain = by_torch.decode(pieces)
    native = Transcriber.from_model(str(tiny_en), GREEDY, Hardware("cpu", backend="openvino"))
    assert [w.text.lower() for w in native.decode(pieces)] == [w.text.lower() for w in plain]
    _round_decoder(by_torch.checkpoint.model.decoder)
    wanted, found = (
        transcriber.decode(pieces)
        for transcriber in (by_torch, Transcriber.from_model(str(tiny_en), GREEDY, CPU))
    )
    assert [w.token_ids for w in found] == [w.token_ids for w in wanted]
    assert [w.avg_logprob for w in found] == pytest.approx(
        [w.avg_logprob for w in wanted], abs=1e-3
    )
