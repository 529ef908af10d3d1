from pathlib import Path

import pytest
import torch

from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.training.forcing import encoder_states, forced_states


@pytest.mark.parametrize("n_tokens", [1, 5, 15, 16, 20])  # a head is 16 wide
def test_states_are_those_of_the_decoder_with_its_caches(tiny_model: Path, n_tokens: int) -> None:
    """In float64, where both ways to attend to the encoder round to the same 12 digits."""
    model = load_checkpoint(tiny_model).model.double()
    decoder = model.decoder
    random = torch.Generator().manual_seed(0)
    heard = torch.randn(2, 7, 32, generator=random, dtype=torch.float64)
    inputs = torch.randint(model.config.vocab_size, (2, n_tokens), generator=random)
    found = forced_states(decoder, heard, inputs)
    torch.testing.assert_close(found.final, decoder(inputs, decoder.cross_cache(heard)))
    torch.testing.assert_close(decoder.layer_norm(found.layers[-1]), found.final)
    assert len(found.layers) == 4


@pytest.mark.parametrize("n_tokens", [5, 20])
def test_activations_that_are_made_again_give_the_same_gradients(
    tiny_model: Path, n_tokens: int
) -> None:
    model = load_checkpoint(tiny_model).model.requires_grad_(True)
    random = torch.Generator().manual_seed(0)
    mel = torch.randn(2, 80, 30, generator=random)
    inputs = torch.randint(model.config.vocab_size, (2, n_tokens), generator=random)
    found = []
    for checkpointed in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            heard = encoder_states(model.encoder, mel, checkpointed=checkpointed)
            states = forced_states(model.decoder, heard, inputs, checkpointed=checkpointed)
        states.final.float().square().sum().backward()
        found.append({n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None})
    plain, again = found
    assert plain.keys() == again.keys()
    assert any(name.startswith("encoder.layers.") for name in plain)
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name
