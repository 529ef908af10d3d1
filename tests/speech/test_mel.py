import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilwhisper.speech.mel import log_mel, mel_filters, stack_windows, window_log_mel
from distilwhisper.speech.units import FRAMES_PER_WINDOW, WINDOW_SAMPLES


def seeded_noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) * 0.1


def speech_like(n: int) -> Tensor:
    """Bursts of a sweep, with true silence between and behind them."""
    times = torch.arange(n, dtype=torch.float64) / 16_000
    sweep = torch.sin(2 * math.pi * (100 + 300 * times) * times)
    return (0.3 * sweep * (times % 1 < 0.6) * (times < 0.7 * n / 16_000)).float()


SOUNDS: dict[str, Callable[[], Tensor]] = {
    "noise": lambda: seeded_noise(WINDOW_SAMPLES),
    "speech": lambda: speech_like(WINDOW_SAMPLES),
    "silence": lambda: torch.zeros(WINDOW_SAMPLES),
    "faint": lambda: seeded_noise(WINDOW_SAMPLES) * 1e-4,
    "click": lambda: torch.zeros(WINDOW_SAMPLES).index_fill(0, torch.tensor(7_777), 1.0),
    "two seconds and a bit": lambda: speech_like(32_123),
}


# --- references


@pytest.mark.reference
@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_equal_those_openai_ships(n_mels: int) -> None:
    from whisper.audio import mel_filters as reference_filters

    reference = reference_filters(torch.device("cpu"), n_mels).numpy()
    assert mel_filters(n_mels).shape == reference.shape
    # Theirs are float32; the largest filter weighs 0.03.
    assert np.abs(mel_filters(n_mels) - reference).max() < 1e-7


@pytest.mark.reference
@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("sound", SOUNDS)
def test_frames_equal_openai_whisper(n_mels: int, sound: str) -> None:
    from whisper.audio import log_mel_spectrogram

    samples = SOUNDS[sound]()
    reference = log_mel_spectrogram(samples, n_mels=n_mels)
    # Both in float32 over the same transform: found equal to 3e-7.
    torch.testing.assert_close(
        log_mel(samples[None], n_mels=n_mels)[0], reference, atol=1e-5, rtol=0
    )


@pytest.mark.reference
@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("sound", SOUNDS)
def test_frames_equal_transformers(n_mels: int, sound: str) -> None:
    from transformers import WhisperFeatureExtractor

    samples = SOUNDS[sound]()
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    reference = extractor(samples.numpy(), sampling_rate=16_000, return_tensors="np")
    windows = stack_windows([samples.numpy()])
    # Its batched path, also float32: found equal to 3e-7.
    np.testing.assert_allclose(
        log_mel(windows, n_mels=n_mels).numpy(), reference["input_features"], atol=1e-5, rtol=0
    )


# --- against ourselves


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_equals_its_rows_alone(dtype: torch.dtype) -> None:
    loudness = torch.tensor([[1.0], [1e-3], [0.0], [5.0]], dtype=dtype)
    batch = seeded_noise(4, 48_000, dtype=dtype) * loudness
    together = log_mel(batch, n_mels=80)
    alone = torch.cat([log_mel(row[None], n_mels=80) for row in batch])
    # Not always to the bit: a matrix product may be cut into other blocks.
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_float32_is_near_float64(n_mels: int) -> None:
    samples = speech_like(64_000)[None]
    exact = log_mel(samples.double(), n_mels=n_mels)
    assert exact.dtype == torch.float64
    found = log_mel(samples, n_mels=n_mels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=0)


def test_autocast_does_not_coarsen_the_filters() -> None:
    samples = seeded_noise(1, 16_000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = log_mel(samples, n_mels=80)
    assert torch.equal(found, log_mel(samples, n_mels=80))


@settings(deadline=None, max_examples=12)
@given(n=st.integers(201, 5_000), gain=st.floats(-60, 0))
def test_shape_range_and_gain(n: int, gain: float) -> None:
    samples = seeded_noise(2, n, seed=n, dtype=torch.float64)
    frames = log_mel(samples, n_mels=80)
    assert frames.shape == (2, 80, n // 160)
    # Eight decades, scaled by four.
    assert (frames.amax((1, 2)) - frames.amin((1, 2)) <= 2.0 + 1e-9).all()
    # A gain in dB moves all frames alike, where the floor of 1e-10 is far away.
    moved = log_mel(samples * 10 ** (gain / 20), n_mels=80)
    if (frames.amin() + gain / 40) * 4 - 4 > -9.9:
        torch.testing.assert_close(moved, frames + gain / 40, atol=1e-6, rtol=0)


def test_silence_is_flat() -> None:
    frames = log_mel(torch.zeros(1, WINDOW_SAMPLES), n_mels=80)
    assert frames.shape == (1, 80, FRAMES_PER_WINDOW)
    assert torch.all(frames == -1.5)  # log10(1e-10), plus 4, over 4


def test_a_tone_lights_its_own_filter() -> None:
    times = torch.arange(16_000, dtype=torch.float64) / 16_000
    for hz in (200.0, 1_000.0, 4_000.0):
        frames = log_mel(torch.sin(2 * math.pi * hz * times)[None], n_mels=80)
        loudest = int(frames[0].mean(dim=1).argmax())
        assert mel_filters(80)[loudest, round(hz / 40)] > 0.0


def test_a_click_lights_its_own_frames() -> None:
    samples = torch.zeros(1, 16_000)
    samples[0, 1_600] = 1.0
    loud = log_mel(samples, n_mels=80)[0].amax(dim=0) > -0.9
    # Frames are centred on each 160th sample and reach 200 to both sides.
    assert loud.nonzero().flatten().tolist() == [9, 10, 11]


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_are_triangles_of_equal_area(n_mels: int) -> None:
    filters = mel_filters(n_mels)
    assert (filters >= 0.0).all()
    assert (filters.max(axis=1) > 0.0).all()  # none falls between two frequencies
    peaks = filters.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    # Bins are 40 Hz: the sum over a wide triangle comes near its area of 1.
    wide = filters[n_mels * 3 // 4 :]
    np.testing.assert_allclose(wide.sum(axis=1) * 40.0, 1.0, atol=0.05)


# --- windows and faults


def test_windows_are_padded_on_the_right() -> None:
    pieces = [np.ones(n, dtype=np.float32) for n in (0, 1, WINDOW_SAMPLES)]
    windows = stack_windows(pieces)
    assert windows.shape == (3, WINDOW_SAMPLES)
    assert windows.dtype == torch.float32
    assert windows.sum(dim=1).tolist() == [0.0, 1.0, WINDOW_SAMPLES]
    assert windows[1, 0] == 1.0


def test_no_pieces_are_no_windows() -> None:
    assert stack_windows([]).shape == (0, WINDOW_SAMPLES)


def test_a_piece_longer_than_the_window_is_refused() -> None:
    pieces = [np.zeros(n, dtype=np.float32) for n in (5, WINDOW_SAMPLES + 1)]
    with pytest.raises(ValueError, match="480000 samples, piece 1 has 480001"):
        stack_windows(pieces)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 201 samples, found 200"):
        log_mel(torch.zeros(1, 200), n_mels=80)
    assert log_mel(torch.zeros(1, 201), n_mels=80).shape == (1, 80, 1)


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 or float64, found torch\.bfloat16"):
        log_mel(torch.zeros(1, 400, dtype=torch.bfloat16), n_mels=80)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same_picture() -> None:
    samples = seeded_noise(2, 48_000)
    found = log_mel(samples.cuda(), n_mels=128)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), log_mel(samples, n_mels=128), atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_samples", [0, 1, 159, 160, 4001, 479_300, 479_999, 480_000])
def test_a_window_is_made_of_its_sound_alone(n_samples: int) -> None:
    samples = np.random.default_rng(n_samples).standard_normal(n_samples).astype(np.float32)
    found = window_log_mel(samples, n_mels=80, device=torch.device("cpu"))
    torch.testing.assert_close(found, log_mel(stack_windows([samples]), n_mels=80)[0])
