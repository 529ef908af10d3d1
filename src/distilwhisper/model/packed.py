"""Weights laid out once for a CPU's bfloat16 products, which otherwise lay them out at every call.

Between two and five times faster for a token at a time. It also makes a token's numbers the same
to the bit in whatever company it is decoded: alone, in a batch, or among drafted ones. A CPU
without AVX-512 packs nothing: there, bfloat16 is emulated, slow, and promises no such thing.
"""

import torch
from torch import Tensor, nn

from distilwhisper.model.whisper import Whisper
from distilwhisper.shapes import Float


class PackedLinear(nn.Module):
    """A linear layer for inference only, its bfloat16 weight on the CPU in oneDNN's own layout."""

    def __init__(self, weight: Float[Tensor, "out in"], bias: nn.Parameter | None = None) -> None:
        super().__init__()
        # What inductor emits for a linear layer whose weights are frozen.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)
        # Counted among the parameters, as the plain weight was.
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = bias

    def forward(self, states: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """Return the product, and the bias added before anything is rounded."""
        shape = states.shape[:-1]
        rows = states.reshape(-1, states.shape[-1])
        # One row alone takes another path than two and more, with other roundings.
        pair = rows.expand(2, -1) if len(rows) == 1 else rows
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            pair, self.weight, self.bias, "none", [], ""
        )
        return product[: len(rows)].view(*shape, -1)


def can_pack(model: Whisper) -> bool:
    """Return whether packing works for a model and pays: bfloat16 weights, on such a CPU."""
    return model.device.type == "cpu" and model.dtype == torch.bfloat16 and cpu_packs_bfloat16()


def cpu_packs_bfloat16() -> bool:
    """Return whether oneDNN lays out bfloat16 weights on this CPU: with AVX-512 or newer.

    Elsewhere it refuses them, and torch emulates the products of plain weights.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(model: Whisper) -> None:
    """Pack all linear layers of a bfloat16 model on the CPU, which cannot be saved afterwards."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child.weight, child.bias))
    # Its method alone: as a module it would be counted beside the embedding.
    model.decoder.packed_projection = PackedLinear(model.decoder.embed_tokens.weight).forward
