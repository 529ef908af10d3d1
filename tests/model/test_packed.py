import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.packed import PackedLinear, PackedWeight, can_pack, pack
from distilwhisper.model.whisper import Whisper

needs_mkldnn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="needs torch built with oneDNN",
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
    wanted = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    assert can_pack(plain) == wanted
    assert not can_pack(load_checkpoint(tiny_model, dtype=torch.float32).model)
    assert not can_pack(copy.deepcopy(plain).to("meta"))


@needs_mkldnn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (2, 48), (7, 48), (3, 5, 48), (1, 1, 48)])
def test_a_packed_layer_gives_the_product(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 33, bias=bias).bfloat16()
    states = torch.randn(shape).bfloat16()
    with torch.inference_mode():
        found = PackedLinear(linear)(states)
        exact = nn.functional.linear(
            states.double(), linear.weight.double(), linear.bias.double() if bias else None
        )
    assert found.dtype == torch.bfloat16
    # One rounding to bfloat16's 8 bits, of sums that were made in float32.
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


@needs_mkldnn
@pytest.mark.parametrize("width", [32, 384])
def test_rows_alone_equal_rows_together_to_the_bit(width: int) -> None:
    torch.manual_seed(1)
    product = PackedWeight(torch.randn(2 * width, width).bfloat16())
    bias = torch.randn(2 * width).bfloat16()
    rows = torch.randn(37, width).bfloat16()
    with torch.inference_mode():
        together = product(rows, bias)
        for size in (1, 2, 3, 5, 16):
            parts = [product(part, bias) for part in torch.split(rows, size)]
            assert torch.equal(torch.cat(parts), together)


@needs_mkldnn
def test_every_linear_layer_is_packed_and_the_parameters_are_as_many(
    plain: Whisper, packed: Whisper
) -> None:
    assert not any(isinstance(module, nn.Linear) for module in packed.modules())
    n_linear = sum(isinstance(module, nn.Linear) for module in plain.modules())
    n_packed = sum(isinstance(module, PackedLinear) for module in packed.modules())
    assert n_packed == n_linear > 0
    assert packed.decoder.packed_projection is not None
    assert packed.n_parameters() == plain.n_parameters()


@needs_mkldnn
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


@needs_mkldnn
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
            own = cross.select(torch.tensor([row]))
            alone = decoder.self_cache(1, 8)
            for at in range(6):
                token = token_ids[row : row + 1, at : at + 1]
                logits = decoder.project(decoder(token, own, alone, n_keys=6))
                alone.lengths += 1
                assert torch.equal(logits[0, 0], together[row, at])
