"""Early exit: leave the decoder at the first layer that is sure of its token.

After every layer the output projection is asked for the likeliest token. A row whose likeliest
token has at least the confidence asked for keeps that answer; its state goes on through the
remaining layers unchanged, only to leave their keys and values for the tokens to come. What is read
several tokens at a time, as prompts are, is read by all layers.

Source: arXiv:2311.00430, appendix D.4, table 20 (medium.en); arXiv:2207.07061, section 3, for the
states that are copied upwards.
"""

from functools import partial

import torch
from torch import Tensor, nn

from distilwhisper.model.whisper import CrossCache, Decoder, SelfCache
from distilwhisper.shapes import Float, Int


class EarlyExitDecoder(Decoder):
    """A decoder that leaves out the layers it does not need, token by token.

    Args:
        decoder: whose layers it shares.
        confidence: probability of the likeliest token, in (0, 1]; 1 uses nearly every layer.

    Raises:
        ValueError: the confidence is no probability above zero.
    """

    is_capturable = False

    def __init__(self, decoder: Decoder, confidence: float) -> None:
        if not 0 < confidence <= 1:
            raise ValueError(f"exit_confidence must lie in (0, 1], found {confidence:g}")
        nn.Module.__init__(self)
        for name, module in decoder.named_children():
            self.add_module(name, module)
        self.packed_projection = decoder.packed_projection
        self.engine = None
        self.confidence = confidence
        self.n_tokens = 0  # decoded one by one
        self.n_layers = 0  # used for them

    def forward(
        self,
        token_ids: Int[Tensor, "batch tokens"],
        cross: CrossCache,
        cache: SelfCache | None = None,
        *,
        n_keys: int | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the states of the layers that were sure; see :meth:`Decoder.forward`."""
        if cache is None or token_ids.shape[1] > 1:
            return super().forward(token_ids, cross, cache, n_keys=n_keys)
        step = self.begin(token_ids, cache, n_keys=n_keys)
        states = step.states
        is_open = torch.ones(len(states), dtype=torch.bool, device=states.device)
        self.n_tokens += len(states)
        for number, layer in enumerate(self.layers):
            if not is_open.any():
                normed = layer.self_attn_layer_norm(states)
                cache.write(number, *layer.self_attn.keys_values(normed), step)
                continue
            after = self.run_layer(number, states, step, partial(cross.attend, number), cache)
            states = torch.where(is_open[:, None, None], after, states)
            self.n_layers += int(is_open.sum())
            logits = self.project(self.layer_norm(states[:, 0]))
            is_open = is_open & (logits.float().softmax(dim=-1).amax(dim=-1) < self.confidence)
        return self.layer_norm(states)
