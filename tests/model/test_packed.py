import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from corpora import noise
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.packed import (
    PackedLinear,
    can_pack,
    cpu_packs_bfloat16,
    pack,
)
from distilwhisper.model.whisper import Whisper
from searching import rows_of

needs_packing = pytest.mark.skipif(
    not cpu_packs_bfloat16(),
    reason="oneDNN packs bfloat16 weights on CPUs with AVX-512 or newer",
)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Whisper:
    return load_checkpoint(tiny_model, dtype=torch.bfloat16).model


@pytest.fixture(scope="module")
def packed(plain: Whisper) -> Whisper:
    model = copy.deepcopy(plain)
    pack(model)
    return model


@pytest.fixture(scope="module")
def encoder_states(plain: Whisper) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        return torch.randn(4, 100, 32, generator=generator).bfloat16()


def test_only_bfloat16_on_a_cpu_is_packed(tiny_model: Path, plain: Whisper) -> None:
    assert can_pack(plain) == cpu_packs_bfloat16()
    assert not can_pack(load_checkpoint(tiny_model, dtype=torch.float32).model)
    assert not can_pack(copy.deepcopy(plain).to("meta"))


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (2, 48), (7, 48), (3, 5, 48), (1, 1, 48)])
def test_a_packed_layer_gives_the_product(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 33, bias=bias).bfloat16()
    states = torch.randn(shape).bfloat16()
    with torch.inference_mode():
        found = PackedLinear(linear.weight, linear.bias)(states)
        exact = nn.functional.linear(
            states.double(), linear.weight.double(), linear.bias.double() if bias else None
        )
    assert found.dtype == torch.bfloat16
    # One rounding to bfloat16's 8 bits, of sums that were made in float32.
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


@needs_packing
@pytest.mark.parametrize("width", [32, 384])
def test_rows_alone_equal_rows_together_to_the_bit(width: int) -> None:
    torch.manual_seed(1)
    weight = torch.randn(2 * width, width).bfloat16()
    bias = nn.Parameter(torch.randn(2 * width).bfloat16())
    product = PackedLinear(weight, bias)
    rows = torch.randn(37, width).bfloat16()
    with torch.inference_mode():
        together = product(rows)
        for size in (1, 2, 3, 5, 16):
            parts = [product(part) for part in torch.split(rows, size)]
            assert torch.equal(torch.cat(parts), together)


@needs_packing
def test_every_linear_layer_is_packed_and_the_parameters_are_as_many(
    plain: Whisper, packed: Whisper
) -> None:
    assert not any(isinstance(module, nn.Linear) for module in packed.modules())
    n_linear = sum(isinstance(module, nn.Linear) for module in plain.modules())
    n_packed = sum(isinstance(module, PackedLinear) for module in packed.modules())
    assert n_packed == n_linear > 0
    assert packed.decoder.packed_projection is not None
    assert packed.n_parameters() == plain.n_parameters()


@needs_packing
def test_a_packed_model_says_what_the_plain_one_does(plain: Whisper, packed: Whisper) -> None:
    """As near to the float32 model as the plain bfloat16 one is, or nearly so."""
    exact = copy.deepcopy(plain).float()
    generator = torch.Generator().manual_seed(3)
    mel = torch.randn(2, 80, 200, generator=generator)
    token_ids = torch.randint(0, 200, (2, 9), generator=generator)
    with torch.inference_mode():
        wanted = exact(mel, token_ids)
        theirs = plain(mel.bfloat16(), token_ids).float()
        ours = packed(mel.bfloat16(), token_ids).float()
    allowed = (theirs - wanted).abs().max()
    assert allowed > 0
    assert (ours - wanted).abs().max() < 1.5 * allowed
    assert (ours - wanted).square().mean() < 1.5 * (theirs - wanted).square().mean()


@needs_packing
def test_a_token_is_the_same_to_the_bit_alone_and_among_others(
    packed: Whisper, encoder_states: Tensor
) -> None:
    """Rows alone equal a batch, and tokens one by one equal all of them in one pass."""
    decoder = packed.decoder
    token_ids = torch.arange(40, 64).view(4, 6)
    with torch.inference_mode():
        cross = decoder.cross_cache(encoder_states)
        cache = decoder.self_cache(4, 8)
        together = decoder.project(decoder(token_ids, cross, cache, n_keys=6))
        for row in range(4):
            own = rows_of(cross, torch.tensor([row]))
            alone = decoder.self_cache(1, 8)
            for at in range(6):
                token = token_ids[row : row + 1, at : at + 1]
                logits = decoder.project(decoder(token, own, alone, n_keys=6))
                alone.lengths += 1
                assert torch.equal(logits[0, 0], together[row, at])


def test_bfloat16_runs_on_every_cpu(tiny_model: Path) -> None:
    """Packed where the CPU packs, plain elsewhere."""
    hardware = Hardware(device="cpu", dtype="bfloat16")
    settings = DecodingSettings(max_new_tokens=4, temperature=(0.0,))
    transcriber = Transcriber.from_model(str(tiny_model), settings, hardware)
    model = transcriber.checkpoint.model
    assert any(isinstance(m, PackedLinear) for m in model.modules()) == cpu_packs_bfloat16()
    assert len(transcriber.decode([noise(0.2, seed=0)])) == 1
