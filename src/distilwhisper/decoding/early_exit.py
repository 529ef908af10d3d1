"""Early exit: leave the decoder at the first layer that is sure of its token.

After every layer the output projection is asked what it would say. A row whose likeliest token
has at least the confidence asked for keeps that answer; its state goes on through the remaining
layers unchanged, only to leave their keys and values for the tokens to come.

Source: arXiv:2311.00430, appendix D.4, table 20 (medium.en); arXiv:2207.07061, section 3, for the
states that are copied upwards.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distilwhisper.model.whisper import CrossCache, Decoder, SelfCache


def exit_early(
    decoder: Decoder,
    token_ids: Int[Tensor, " batch"],
    cross: CrossCache,
    cache: SelfCache,
    *,
    confidence: float,
    n_keys: int,
) -> tuple[Float[Tensor, "batch vocab"], Int[Tensor, " batch"]]:
    """Return the logits of one token per row, and how many layers each row took to be sure.

    Args:
        decoder: its final norm and projection judge every layer.
        token_ids: said last.
        cross: of the same rows.
        cache: written to behind each row's length, at every layer.
        confidence: probability of the likeliest token, in (0, 1]; 1 uses nearly every layer.
        n_keys: how far into the cache to look.

    Raises:
        ValueError: the confidence is no probability above zero.
    """
    if not 0 < confidence <= 1:
        raise ValueError(f"exit_confidence must lie in (0, 1], found {confidence:g}")
    step = decoder.begin(token_ids[:, None], cache, n_keys=n_keys)
    states = step.states
    n_layers = torch.zeros_like(token_ids)
    is_open = torch.ones_like(token_ids, dtype=torch.bool)
    for number in range(len(decoder.layers)):
        if not is_open.any():
            decoder.skip_layer(number, states, step, cache)
            continue
        after = decoder.run_layer(number, states, step, cross, cache)
        states = torch.where(is_open[:, None, None], after, states)
        n_layers += is_open
        logits = decoder.project(decoder.layer_norm(states[:, 0]))
        if number < len(decoder.layers) - 1:
            surest = logits.float().softmax(dim=-1).amax(dim=-1)
            is_open = is_open & (surest < confidence)
    return logits, n_layers
