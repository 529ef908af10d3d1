"""Frames of silence that stand for others."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corpora import noise
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.windows import WindowDecoder
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.hardware import Backend
from distilwhisper.model.openvino import accelerate
from distilwhisper.model.silence import FRAMES_PER_BLOCK, MARGIN_FRAMES, thin_silence
from distilwhisper.text.tokens import Tokenizer

N_FRAMES = 1500


@given(st.integers(1, N_FRAMES), st.sampled_from([N_FRAMES, 700, 1499]))
def test_what_is_kept_stands_for_every_frame(n_sound: int, n_frames: int) -> None:
    kept = thin_silence(n_sound, n_frames)
    if kept is None:
        return
    places, counts = kept.places, kept.bias.exp()[0, 0, 0]
    assert len(places) == len(counts) < n_frames
    assert len(places) % FRAMES_PER_BLOCK == 0
    assert (places.diff() > 0).all()
    assert places[-1] < n_frames
    n_whole = int((counts == 1).sum())
    assert places[:n_whole].tolist() == list(range(n_whole))
    assert n_whole >= n_sound + MARGIN_FRAMES
    assert counts.sum().item() == pytest.approx(n_frames, rel=1e-5)


@pytest.mark.parametrize(("n_sound", "n_kept"), [(1, 448), (300, 640), (1200, 1344), (1480, None)])
def test_the_more_silence_the_fewer_frames(n_sound: int, n_kept: int | None) -> None:
    kept = thin_silence(n_sound, N_FRAMES)
    assert (None if kept is None else len(kept.places)) == n_kept


def test_frames_that_are_alike_can_stand_for_each_other(tiny_model: Path) -> None:
    """Without places in time, silence is one frame over and over: nothing changes for the sound."""
    model = copy.deepcopy(load_checkpoint(tiny_model, dtype=torch.float32).model)
    model.encoder.embed_positions.weight.zero_()
    n_sound = 200
    mel = torch.zeros(1, 80, 2 * N_FRAMES)
    mel[:, :, : 2 * n_sound] = torch.randn(80, 2 * n_sound, generator=torch.Generator())
    kept = thin_silence(n_sound, N_FRAMES)
    assert kept is not None
    token_ids = torch.tensor([[5, 9, 2]])
    with torch.inference_mode():
        whole, thinned = model.encoder(mel), model.encoder(mel, kept)
        torch.testing.assert_close(thinned, whole[:, kept.places], rtol=1e-4, atol=1e-4)
        states = [
            model.decoder(token_ids, cross)
            for cross in (
                model.decoder.cross_cache(whole),
                model.decoder.cross_cache(thinned, kept),
                model.decoder.cross_cache(thinned),
            )
        ]
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(states[2], states[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("backend", "n_kept"), [("torch", N_FRAMES), ("openvino", 512)])
def test_silence_is_thinned_where_time_is_short(
    tiny_model: Path, backend: Backend, n_kept: int
) -> None:
    checkpoint = load_checkpoint(tiny_model, dtype=torch.float32)
    if backend == "openvino":
        pytest.importorskip("openvino")
        accelerate(checkpoint.model)
    decoder = WindowDecoder(checkpoint, Tokenizer.from_folder(tiny_model), DecodingSettings())
    window = decoder.window(noise(1.0, seed=1))
    decoder.encode([window])
    assert window.encoder_states is not None
    assert len(window.encoder_states) == n_kept
