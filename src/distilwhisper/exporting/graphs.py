"""The network's pieces as nodes of ONNX graphs, made from the weights without any tracing.

Both ONNX targets are built of them. In int8, matrices are held with one scale per column, and
products are of whole numbers: each input is rounded by its own largest value, as it comes. The
convolutions, positions, norms and biases stay in float32.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from distilwhisper.extras import needed_by
from distilwhisper.model.whisper import Attention, Decoder, DecoderLayer, Whisper

OPSET = 17
FLOAT, INT64, BOOL = 1, 7, 9  # as ONNX numbers them

_LARGEST_FILE_BYTES = 1_800_000_000  # of protocol buffers: 2 GiB

Axes = Sequence[str | int]
Matrix: TypeAlias = tuple[str, str | None]  # and the scales of its columns, in int8


class Graph:
    """A graph that is being built; values go by their names.

    Raises:
        MissingExtra: the package onnx is not installed.
    """

    def __init__(self, *, int8: bool) -> None:
        with needed_by("exporting to ONNX", extra="export"):
            import onnx
        self._onnx = onnx
        self._int8 = int8
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: int, axes: Axes) -> str:
        """Add an input; an axis of no fixed size has a name."""
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, kind, axes))
        return name

    def output(self, name: str, value: str, axes: Axes) -> None:
        """Let a value come out under a name."""
        make = self._onnx.helper
        self._nodes.append(make.make_node("Identity", [value], [name]))
        self._outputs.append(make.make_tensor_value_info(name, FLOAT, axes))

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node, whose inputs are values, or what never changes; return its output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, n_outputs: int, *inputs: Any, **attributes: Any) -> list[str]:
        """Add a node; return its outputs."""
        names = [f"{kind}_{len(self._nodes)}_{i}" for i in range(n_outputs)]
        values = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self._nodes.append(self._onnx.helper.make_node(kind, values, names, **attributes))
        return names

    def constant(self, values: Any) -> str:
        """Add what never changes, and has more than one use."""
        if isinstance(values, Tensor):
            values = values.detach().contiguous().numpy()
        name = f"constant_{len(self._weights)}"
        self._weights.append(self._onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def size(self, value: str, axis: int) -> str:
        """Return the size of an axis, as a list of one number."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def linear(self, states: str, linear: nn.Linear) -> str:
        """Multiply with a layer's weight, and add its bias."""
        made = self.product(states, self.matrix(linear.weight.T))
        return made if linear.bias is None else self.op("Add", made, linear.bias)

    def matrix(self, weight: Tensor) -> Matrix:
        """Add a matrix, (inputs, outputs), with the scales of its columns in int8."""
        if not self._int8:
            return self.constant(weight), None
        largest = weight.abs().amax(dim=0)
        scale = torch.where(largest == 0, 1.0, largest / 127)
        return self.constant((weight / scale).round().to(torch.int8)), self.constant(scale)

    def product(self, states: str, matrix: Matrix) -> str:
        """Multiply with a matrix."""
        weight, scale = matrix
        if scale is None:
            return self.op("MatMul", states, weight)
        rounded, step, zero = self.ops("DynamicQuantizeLinear", 3, states)
        made = self.op("Cast", self.op("MatMulInteger", rounded, weight, zero), to=FLOAT)
        return self.op("Mul", made, self.op("Mul", step, scale))

    def columns(self, matrix: Matrix, ids: str) -> str:
        """Return columns of a matrix, (batch, ids, inputs)."""
        weight, scale = matrix
        found = self.op("Transpose", self.op("Gather", weight, ids, axis=1), perm=[1, 2, 0])
        if scale is None:
            return found
        scales = self.op("Unsqueeze", self.op("Gather", scale, ids), [-1])
        return self.op("Mul", self.op("Cast", found, to=FLOAT), scales)

    def norm(self, states: str, norm: nn.LayerNorm) -> str:
        """Normalise the last axis."""
        return self.op("LayerNormalization", states, norm.weight, norm.bias, epsilon=norm.eps)

    def gelu(self, states: str) -> str:
        """Return the exact GELU."""
        bent = self.op("Erf", self.op("Mul", states, np.float32(math.sqrt(0.5))))
        gate = self.op("Add", bent, np.float32(1))
        return self.op("Mul", self.op("Mul", states, np.float32(0.5)), gate)

    def heads(self, states: str, attention: Attention) -> str:
        """Split the last axis into heads: (batch, heads, states, head_dim)."""
        shape = [0, 0, attention.heads, attention.q_proj.in_features // attention.heads]
        return self.op("Transpose", self.op("Reshape", states, shape), perm=[0, 2, 1, 3])

    def attend(
        self, states: str, attention: Attention, keys: str, values: str, mask: str | None = None
    ) -> str:
        """Attend from states to keys and values that are split into heads."""
        width = attention.q_proj.in_features
        queries = self.heads(self.linear(states, attention.q_proj), attention)
        queries = self.op("Mul", queries, np.float32((width // attention.heads) ** -0.5))
        scores = self.op("MatMul", queries, self.op("Transpose", keys, perm=[0, 1, 3, 2]))
        if mask is not None:
            scores = self.op("Add", scores, mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        joined = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, width])
        return self.linear(joined, attention.out_proj)

    def feed_forward(self, states: str, layer: Any) -> str:
        """Add what a layer's feed-forward block makes of the states."""
        inner = self.linear(self.norm(states, layer.final_layer_norm), layer.fc1)
        return self.op("Add", states, self.linear(self.gelu(inner), layer.fc2))

    def save(self, path: Path, *, metadata: Mapping[str, object] | None = None) -> None:
        """Write the graph; what one file cannot hold goes into a second one beside it."""
        make = self._onnx.helper
        graph = make.make_graph(self._nodes, path.stem, self._inputs, self._outputs, self._weights)
        model = make.make_model(graph, opset_imports=[make.make_opsetid("", OPSET)], ir_version=8)
        make.set_model_props(model, {k: str(v) for k, v in (metadata or {}).items()})
        n_bytes = sum(len(weight.raw_data) for weight in self._weights)
        is_large, beside = n_bytes > _LARGEST_FILE_BYTES, f"{path.name}_data"
        self._onnx.save(model, path, save_as_external_data=is_large, location=beside)


def encode(graph: Graph, model: Whisper, name: str, batch: str) -> str:
    """Return the encoder states of frames, an input of some name, with a batch axis of another."""
    sizes, encoder = model.config, model.encoder
    states = graph.input(name, FLOAT, [batch, sizes.n_mels, 2 * sizes.max_frames])
    for conv in (encoder.conv1, encoder.conv2):
        strides = [int(conv.stride[0])]
        made = graph.op("Conv", states, conv.weight, conv.bias, pads=[1, 1], strides=strides)
        states = graph.gelu(made)
    states = graph.op("Transpose", states, perm=[0, 2, 1])
    states = graph.op("Add", states, encoder.embed_positions.weight)
    for layer in encoder.layers:
        own = layer.self_attn
        normed = graph.norm(states, layer.self_attn_layer_norm)
        keys, values = (
            graph.heads(graph.linear(normed, linear), own) for linear in (own.k_proj, own.v_proj)
        )
        states = graph.op("Add", states, graph.attend(normed, own, keys, values))
        states = graph.feed_forward(states, layer)
    return graph.norm(states, encoder.layer_norm)


def decode(
    graph: Graph,
    decoder: Decoder,
    ids: str,
    n_past: str | None,
    keys_values: Callable[[int, DecoderLayer, str], list[str]],
) -> str:
    """Return the logits of tokens.

    How many tokens came before, ``n_past``, is a list of one number; None: none. Given a layer's
    number, the layer and its normed states, ``keys_values`` returns keys and values that it attends
    to, split into heads: two of the tokens so far, two of the sound.
    """
    embedding = graph.matrix(decoder.embed_tokens.weight.T)
    first, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
    stop = graph.size(ids, 1)
    begin = first
    if n_past is not None:
        stop = graph.op("Add", stop, n_past)
        begin = graph.op("Squeeze", n_past)
    stop = graph.op("Squeeze", stop)
    positions = graph.op("Range", begin, stop, one)
    so_far = graph.op("Unsqueeze", graph.op("Range", first, stop, one), [0])
    visible = graph.op("LessOrEqual", so_far, graph.op("Unsqueeze", positions, [1]))
    mask = graph.op("Where", visible, np.float32(0), np.finfo(np.float32).min)
    placed = graph.op("Gather", decoder.embed_positions.weight, positions)
    states = graph.op("Add", graph.columns(embedding, ids), placed)
    for number, layer in enumerate(decoder.layers):
        normed = graph.norm(states, layer.self_attn_layer_norm)
        keys, values, *sound = keys_values(number, layer, normed)
        attended = graph.attend(normed, layer.self_attn, keys, values, mask)
        states = graph.op("Add", states, attended)
        normed = graph.norm(states, layer.encoder_attn_layer_norm)
        states = graph.op("Add", states, graph.attend(normed, layer.encoder_attn, *sound))
        states = graph.feed_forward(states, layer)
    return graph.product(graph.norm(states, decoder.layer_norm), embedding)
