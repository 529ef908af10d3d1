"""Encoder and decoder as training needs them: whole label sequences at once, layer by layer."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distilwhisper.model.whisper import Attention, Decoder, Encoder, FrameStates, Mel, TokenStates
from distilwhisper.shapes import Bool, Float, Int


class ForcedStates(NamedTuple):
    """What a decoder makes of the tokens that it is given."""

    final: Float[Tensor, "*tokens width"]  # after the last norm: what is projected
    layers: list[Float[Tensor, "*tokens width"]]  # after each layer

    def at(self, mask: Bool[Tensor, "batch tokens"]) -> "ForcedStates":
        """Return the states of some of the tokens, row after row."""
        return ForcedStates(self.final[mask], [layer[mask] for layer in self.layers])


def encoder_states(encoder: Encoder, mel: Mel, *, checkpointed: bool) -> FrameStates:
    """Return what the encoder returns; see :func:`forced_states` for ``checkpointed``."""
    if not checkpointed:
        return encoder(mel)
    states = encoder.begin(mel)
    for layer in encoder.layers:
        states = checkpoint(layer, states, use_reentrant=False)
    return encoder.layer_norm(states)


def forced_states(
    decoder: Decoder,
    encoded: FrameStates,
    inputs: Int[Tensor, "batch tokens"],
    *,
    checkpointed: bool = False,
) -> ForcedStates:
    """Return the states of token sequences, each token seeing those before it.

    Where it is ``checkpointed``, no activations inside a layer are kept for the backward pass,
    which makes them again; the gradients are the same.
    """
    step = decoder.begin(inputs)
    states, layers = step.states, []
    attend = partial(attend_to_encoder, encoded=encoded)
    for number in range(len(decoder.layers)):
        run = partial(decoder.run_layer, number, step=step, attend=attend)
        states = checkpoint(run, states, use_reentrant=False) if checkpointed else run(states)
        layers.append(states)
    return ForcedStates(decoder.layer_norm(states), layers)


def attend_to_encoder(
    attention: Attention, states: TokenStates, encoded: FrameStates
) -> TokenStates:
    """Attend from tokens to encoder states, whichever way takes fewer products.

    Projecting 1,500 frames to keys and values costs more than all else in a decoder layer. With
    fewer tokens than a head is wide, it is cheaper to move the key's weights to the query and the
    value's behind the sum, and to compare the encoder states themselves: the same by associativity.
    """
    batch, n_tokens, width = states.shape
    heads = attention.heads
    size = width // heads
    if n_tokens >= size:
        return attention(states, *attention.keys_values(encoded))
    queries = attention.q_proj(states).view(batch, n_tokens, heads, size) * size**-0.5
    by_head = attention.k_proj.weight.view(heads, size, width)
    queries = torch.einsum("bthd,hdw->bhtw", queries, by_head).flatten(1, 2)
    weights = (queries @ encoded.transpose(1, 2)).softmax(dim=-1)
    sums = (weights @ encoded).view(batch, heads, n_tokens, width)
    by_head = attention.v_proj.weight.view(heads, size, width)
    values = torch.einsum("bhtw,hdw->bthd", sums, by_head).flatten(2)
    # Weights sum to one, so the bias of a weighted mean of values is the bias.
    return attention.out_proj(values + attention.v_proj.bias)
