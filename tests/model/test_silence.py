"""Frames of silence that stand for others."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corpora import noise
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.silence import MARGIN_FRAMES, MEANS_PER_BLOCK, STRIDE, thin_silence

N_FRAMES = 1500


@given(st.integers(1, N_FRAMES), st.sampled_from([N_FRAMES, 700, 1499]))
def test_what_is_kept_stands_for_every_frame(n_sound: int, n_frames: int) -> None:
    kept = thin_silence(n_sound, n_frames)
    if kept is None:
        assert n_frames - n_sound < MARGIN_FRAMES + STRIDE * MEANS_PER_BLOCK
        return
    assert kept.n_means % MEANS_PER_BLOCK == 0
    assert kept.n_whole >= n_sound + MARGIN_FRAMES
    assert kept.bias.exp().sum().item() == pytest.approx(n_frames, rel=1e-5)
    positions = torch.arange(n_frames, dtype=torch.float64)[:, None]
    places = kept.read(torch.zeros(1, 1, 2 * n_frames), positions)[1][:, 0]
    assert places[: kept.n_whole].tolist() == list(range(kept.n_whole))
    means = positions[kept.n_whole :, 0].view(-1, STRIDE).mean(dim=1)
    torch.testing.assert_close(places[kept.n_whole :], means)


@pytest.mark.parametrize(("n_sound", "n_kept"), [(1, 300), (300, 600), (1200, 1320), (1480, None)])
def test_the_more_silence_the_fewer_frames(n_sound: int, n_kept: int | None) -> None:
    kept = thin_silence(n_sound, N_FRAMES)
    assert (None if kept is None else len(kept)) == n_kept


def test_what_is_not_kept_is_not_read(tiny_model: Path) -> None:
    """The states before the layers are those of the whole window, the silence's averaged."""
    encoder = load_checkpoint(tiny_model, dtype=torch.float32).model.encoder
    mel = torch.full((1, 80, 2 * N_FRAMES), -0.5)
    n_sound = 400
    mel[:, :, : 2 * n_sound] = torch.randn(80, 2 * n_sound, generator=torch.Generator())
    kept = thin_silence(n_sound, N_FRAMES)
    assert kept is not None
    cut = mel.clone()
    n_read = kept.read(mel, encoder.embed_positions.weight)[0].shape[2]
    assert 2 * n_sound < n_read < 2 * N_FRAMES
    cut[:, :, n_read:] = torch.nan
    with torch.inference_mode():
        whole, thinned = encoder.begin(mel)[0], encoder.begin(cut, kept)[0]
    torch.testing.assert_close(thinned[: kept.n_whole], whole[: kept.n_whole])
    means = whole[kept.n_whole :].view(kept.n_means, STRIDE, -1).mean(dim=1)
    # The last frame of all has no neighbour, which the convolutions take for another mel.
    torch.testing.assert_close(thinned[kept.n_whole : -1], means[:-1])


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
        torch.testing.assert_close(thinned, whole[:, : len(kept)], rtol=1e-4, atol=1e-4)
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


@pytest.mark.parametrize(
    ("hardware", "n_kept"),
    [
        (Hardware("cpu", backend="torch"), 360),
        (Hardware("cpu", "float32", "torch"), N_FRAMES),
        (Hardware("cpu", "float32", "openvino"), 360),
    ],
)
def test_silence_is_thinned_unless_numbers_of_torch_are_asked_for(
    tiny_model: Path, hardware: Hardware, n_kept: int
) -> None:
    if hardware.backend == "openvino":
        pytest.importorskip("openvino")
    decoder = Transcriber.from_model(str(tiny_model), hardware=hardware)
    window = decoder.window(noise(1.0, seed=1))
    decoder.encode([window])
    assert len(window.states[decoder.checkpoint.model.encoder]) == n_kept


def test_windows_of_thinned_silence_have_the_same_text_in_any_company(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilwhisper.model.hardware.cpu_has", lambda _: False)
    settings = DecodingSettings(temperature=(0.0,), max_new_tokens=12)
    decoder = Transcriber.from_model(str(tiny_model), settings, Hardware("cpu"))
    assert decoder.checkpoint.model.decoder.engine is None
    pieces = [noise(length_s, seed=seed) for seed, length_s in enumerate((0.5, 29.0, 9.0))]
    for piece, together in zip(pieces, decoder.decode(pieces), strict=True):
        (alone,) = decoder.decode([piece])
        assert alone.token_ids == together.token_ids
        assert alone.logprobs == pytest.approx(together.logprobs, abs=1e-5)
