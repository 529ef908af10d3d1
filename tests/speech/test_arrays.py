from typing import Any

import numpy as np
import pytest
import torch

from distilwhisper.speech.arrays import to_samples

WAVE = 0.5 * np.sin(np.arange(4000) / 7, dtype=np.float32)


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (WAVE, 0.0),
        (WAVE.astype(np.float64), 0.0),
        (WAVE.astype(np.float16), 1e-3),
        (np.round(WAVE * 2**7).astype(np.int8), 2**-8),
        (np.round(WAVE * 2**15).astype(np.int16), 2**-16),
        (np.round(WAVE * 2**31).astype(np.int32), 1e-7),
        (np.round(WAVE.astype(np.float64) * 2**62).astype(np.int64) * 2, 1e-7),
        (np.round(WAVE * 2**7 + 2**7).astype(np.uint8), 2**-8),
        (np.round(WAVE * 2**15 + 2**15).astype(np.uint16), 2**-15),
        # Sixteen bits, held by a wider type.
        (np.round(WAVE * 2**15).astype(np.int32), 2**-16),
        (np.round(WAVE * 2**15).astype(np.int64), 2**-16),
        (np.round(WAVE * 2**15).astype(int).tolist(), 2**-16),
        (WAVE.tolist(), 0.0),
    ],
)
def test_numbers_of_any_type_are_scaled_by_it(array: Any, error: float) -> None:
    samples = to_samples(array, "it")
    assert samples.dtype == np.float32
    assert np.abs(samples - WAVE).max() <= error


def test_a_tensor_is_taken_whatever_numpy_knows_of_it() -> None:
    tensor = torch.from_numpy(WAVE)
    whole = (tensor * 2**15).round().to(torch.int16)
    for one in (tensor.clone().requires_grad_(), tensor.bfloat16(), whole):
        np.testing.assert_allclose(to_samples(one, "the audio"), WAVE, atol=2**-9)


@pytest.mark.parametrize(
    ("sound", "found"),
    [
        ({"array": WAVE, "sampling_rate": 16000}, "dict"),
        ((WAVE, 16000), "tuple"),
        ((x for x in WAVE), "generator"),
        (None, "NoneType"),
    ],
)
def test_what_holds_samples_but_is_none_is_named(sound: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"found {found}: give the array alone, and its rate as"):
        to_samples(sound, "the audio")


def test_of_samples_nothing_is_copied() -> None:
    assert to_samples(WAVE, "it") is WAVE


@pytest.mark.parametrize("scale", [np.float32(1), np.int16(2**14)])
def test_channels_are_averaged_whichever_way_they_lie(scale: Any) -> None:
    both = np.stack([WAVE, 0.5 * WAVE]) * scale
    stereo = both.astype(np.asarray(scale).dtype)
    mean = to_samples(stereo, "it")
    assert np.abs(mean - 0.75 * WAVE / (1 if scale == 1 else 2)).max() < 1e-4
    assert (to_samples(stereo.T, "it") == mean).all()
    assert (to_samples(WAVE[None], "it") == WAVE).all()
    assert (to_samples(WAVE[:, None], "it") == WAVE).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(0), "it must hold at least one sample, found none"),
        (np.array(0.5), r"it must be a row of samples.*found the shape \(\)"),
        (np.zeros((1, 2, 800)), r"found the shape \(1, 2, 800\)"),
        (np.zeros((80, 3000)), r"up to 8 channels of them, found the shape \(80, 3000\)"),
        (WAVE.astype(np.complex64), "integers or floats, found complex64"),
        (WAVE > 0, "integers or floats, found bool"),
        (np.array(["a.wav"]), "integers or floats, found <U5"),
        (np.append(WAVE, np.nan), "found NaN or infinity"),
        (WAVE * 32768, "floats of about .*found 163.*divide them by the full scale"),
    ],
)
def test_what_is_no_sound_is_named(array: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_samples(array, "it")


def test_sound_that_is_too_loud_is_sound() -> None:
    assert to_samples(3 * WAVE, "it").max() > 1


def test_of_channels_that_cancel_out_the_loudest_is_taken() -> None:
    inverted = np.stack([WAVE, np.float32(-0.9) * WAVE])
    assert (to_samples(inverted, "it") == WAVE).all()
    one_silent = np.stack([WAVE, 0 * WAVE])
    assert np.allclose(to_samples(one_silent, "it"), WAVE / 2)
