"""A network's inference as OpenVINO graphs: an optional engine for CPUs, beside torch's.

The graphs are built from the loaded weights, layer by layer, and put behind the modules' own doors
(``Encoder.forward``, ``Decoder.forward``, ``cross_cache`` and ``project``): whatever decodes need
not know of them. Compiled graphs are kept on disk, and a later start reads no weights but those
that embed tokens and places. The torch weights stay: word times and training open the network up.

The encoder computes more than it reads, and is as fast as its products: in bfloat16 where the CPU
has it, those of its linear layers in int8 where that is faster still (VNNI without AMX). A step of
the decoder takes the time to read its weights, and some microseconds an operation. The weights are
held in int8, one scale per row, cross keys and values in bfloat16 where the CPU has it. Where
products may be rounded, the vocabulary, which was half of all bytes, is held in int4, and the
tokens that may be the likeliest are multiplied once more in float32.
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from distilwhisper.extras import needed_by
from distilwhisper.model.hardware import cpu_has, dtype_name
from distilwhisper.model.hub import cache_folder
from distilwhisper.model.silence import KeptFrames
from distilwhisper.model.whisper import (
    CrossCache,
    Decoder,
    DecoderLayer,
    DecoderStep,
    Encoder,
    EncoderLayer,
    SelfCache,
    Whisper,
)
from distilwhisper.shapes import Float

if TYPE_CHECKING:
    import openvino

INT8_MAX = 127
N_SPECIAL = 1609  # Whisper's last tokens, at most: special ones and timestamps, never in int4
INT4_MAX = 7.5  # of -8 to 7, so that both ends are used
INT4_GROUP = 128  # numbers of a row that share a scale
# How far below the likeliest, in nats, a token of text may be by int4 and still be multiplied in
# full. Of 3,940 tokens by three models the likeliest in float32 was never more than 1.8 below.
NEAR = 3.0
MODELS_KEPT = 8  # whose compiled graphs stay on disk

_log = logging.getLogger(__name__)


def accelerate(
    model: Whisper,
    *,
    precision: torch.dtype = torch.float32,
    may_round: bool = False,
    folder: Path | None = None,
) -> None:
    """Let OpenVINO run a float32 model's encoder and decoder on the CPU.

    Args:
        model: in float32 on the CPU; its weights must not change afterwards.
        precision: of the products; float32, or bfloat16 where the CPU multiplies it.
        may_round: products to int8, even in float32, where the CPU has AVX-512 VNNI.
        folder: where the weights were read from; the graphs compiled from it are kept for the next
            time. None: nothing is kept.

    Raises:
        MissingExtra: OpenVINO is not installed; the message names the extra.
        ValueError: the model is elsewhere or in another dtype.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise ValueError(
            "backend openvino needs float32 weights on the CPU, found "
            f"{dtype_name(model.dtype)} on {model.device}: take device=cpu"
        )
    compiler = _Compiler(precision, folder, may_round=may_round)
    model.decoder.engine = DecoderEngine(model.decoder, compiler)
    if model.encoder.engine is None:  # a draft may share its model's
        model.encoder.engine = _EncoderEngine(model.encoder, compiler)


class _Compiler:
    """Compiles graphs for this CPU, or reads those compiled before.

    All arguments are as for :func:`accelerate`.
    """

    def __init__(
        self, precision: torch.dtype, folder: Path | None, *, may_round: bool = False
    ) -> None:
        with needed_by("backend openvino", extra="openvino"):
            import openvino
            import openvino.opset15 as ops
        self.openvino: ModuleType = openvino
        self.ops: ModuleType = ops
        self.dtype = precision
        types = self.openvino.Type
        self.element_type = types.bf16 if precision == torch.bfloat16 else types.f32
        has_vnni = cpu_has("avx512_vnni")
        self.rounds = precision == torch.bfloat16 or (may_round and has_vnni)
        self.encodes_in_int8 = self.rounds and has_vnni and not cpu_has("amx_bf16")
        self.for_frames = {  # options of graphs that work on all frames
            "INFERENCE_PRECISION_HINT": self.element_type,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 256 if self.encodes_in_int8 else 0,
        }
        self._core = self.openvino.Core()
        self._kept = None if folder is None else self._place(folder)
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # others may need these cores
        }

    def compile(
        self, name: str, build: Callable[[], tuple[Sequence[Any], Sequence[Any]]], **options: Any
    ) -> "_Graph":
        """Return a graph.

        Args:
            name: of it, among a model's.
            build: returns its outputs and inputs; called if it was not compiled before.
            options: of OpenVINO's plugin.
        """
        options = self._options | options
        compiled = self._read(name, options)
        if compiled is None:
            outputs, inputs = build()
            network = self.openvino.Model(list(outputs), list(inputs), name)
            compiled = self._core.compile_model(network, "CPU", options)
            self._write(name, compiled)
        return _Graph(self.openvino, compiled.create_infer_request())

    def _place(self, folder: Path) -> Path:
        """Return where a model's graphs lie: for these files, this code, OpenVINO and CPU."""
        files = sorted(path for path in folder.iterdir() if path.is_file())
        facts = [
            *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files),
            Path(__file__).read_bytes(),
            self.openvino.get_version(),
            self._core.get_property("CPU", "FULL_DEVICE_NAME"),
            sorted(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
            self.dtype,
            self.rounds,
        ]
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        return cache_folder() / "openvino" / f"{folder.name}-{digest}"

    def _read(self, name: str, options: dict[str, Any]) -> Any:
        if self._kept is None:
            return None
        try:
            compiled = self._core.import_model((self._kept / name).read_bytes(), "CPU", options)
            with suppress(OSError):  # where others made the files
                self._kept.touch()  # what is in use is not the oldest
            return compiled
        except FileNotFoundError:
            return None
        except RuntimeError:  # OpenVINO's, whatever is wrong with a file
            path = self._kept / name
            _log.warning("openvino: %s cannot be read as a compiled graph, and is made again", path)
            return None

    def _write(self, name: str, compiled: Any) -> None:
        """Keep a graph for the next time, if there is a place to write to."""
        if self._kept is None:
            return
        try:
            self._kept.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._kept, delete=False) as file:
                file.write(compiled.export_model().getbuffer())
            Path(file.name).replace(self._kept / name)
            _forget_oldest(self._kept.parent)
        except OSError as error:
            _log.warning("openvino: compiled graphs are not kept: %s", error)


class _Graph:
    """A compiled graph that reads and writes torch's memory."""

    def __init__(self, module: ModuleType, request: "openvino.InferRequest") -> None:
        self._module = module
        self._request = request
        self._given: dict[int, Any] = {}  # arrays of its own, and tensors that are held for it
        self._written: dict[int, Tensor] = {}

    def __call__(
        self, *inputs: Tensor, held: Sequence[Tensor] = (), out: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Return the outputs, which the next call overwrites; those of ``out`` are written to.

        The first inputs are copied. Those that are ``held`` are large, and read where they are.
        """
        for number, tensor in enumerate(inputs):
            array, ours = tensor.numpy(), self._given.get(number)
            if ours is not None and ours.shape == array.shape:
                ours[...] = array
            else:
                self._given[number] = ours = array.copy()
                self._request.set_input_tensor(
                    number, self._module.Tensor(ours, shared_memory=True)
                )
        for number, tensor in enumerate(held, start=len(inputs)):
            if tensor is not self._given.get(number):
                self._given[number] = whole = tensor.contiguous()
                self._request.set_input_tensor(number, self._shared(whole))
        for number, tensor in enumerate(out):
            if tensor is not self._written.get(number):
                self._written[number] = tensor
                self._request.set_output_tensor(number, self._shared(tensor))
        self._request.infer()
        if out:
            return list(out)
        return [torch.from_numpy(tensor.data) for tensor in self._request.output_tensors]

    def _shared(self, tensor: Tensor) -> "openvino.Tensor":
        if tensor.dtype != torch.bfloat16:
            return self._module.Tensor(tensor.numpy(), shared_memory=True)
        bits = tensor.view(torch.int16).numpy()
        return self._module.Tensor(bits, list(tensor.shape), self._module.Type.bf16)


class _EncoderEngine:
    def __init__(self, encoder: Encoder, compiler: _Compiler) -> None:
        self._positions = encoder.embed_positions.weight
        build = partial(_encoder, encoder, compiler)
        self._graph = compiler.compile("encoder", build, **compiler.for_frames)

    def __call__(
        self, mel: Float[Tensor, "batch n_mels frames"], kept: KeptFrames | None
    ) -> Tensor:
        kept = kept or KeptFrames(-(-mel.shape[2] // 2), 0)
        mel, places = kept.read(mel, self._positions)
        return self._graph(mel, kept.sources, places, kept.bias)[0].clone()


class DecoderEngine:
    """What does a decoder's work in its place, for inference."""

    def __init__(self, decoder: Decoder, compiler: _Compiler) -> None:
        self.cross_dtype = compiler.dtype
        self._heads = decoder.layers[0].self_attn.heads
        self._n_layers = len(decoder.layers)
        width = decoder.embed_tokens.weight.shape[1]
        # These make a token's numbers the same in any company, to the bit.
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            # Activations go through int8 where weights do: a product of int8 is exact in any order.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32 if compiler.rounds else 0,
            # Fused attention turns all keys around at every step.
            "SNIPPETS_MODE": "DISABLE",
        }
        parts = (decoder, compiler, width)
        self._embedding = decoder.embed_tokens.weight.detach().numpy()
        self._states = self._new = self._logits = torch.empty(0)  # where graphs write
        # Added to the scores of places: minus infinity from the row's number on.
        n_places = decoder.embed_positions.num_embeddings
        self._hidden = torch.full((n_places, n_places), -torch.inf).triu()
        self._hidden = torch.cat([self._hidden, torch.zeros(1, n_places)])
        self._n_in_int4 = max(len(self._embedding) - N_SPECIAL, 0) if compiler.rounds else 0
        build = partial(_projection, *parts, self._n_in_int4)
        # This graph first: building it takes the most memory.
        self._projection = compiler.compile("vocabulary", build, **options)
        self._layers = compiler.compile("decoder", partial(_decoder_layers, *parts), **options)
        build = partial(_cross_projection, *parts)
        self._cross = compiler.compile("cross", build, **compiler.for_frames)

    def __call__(self, step: DecoderStep, cross: CrossCache, cache: SelfCache) -> Tensor:
        """Return the states behind the last layer, and write to the cache."""
        n_rows, n_tokens, width = step.states.shape
        if self._states.shape != step.states.shape:
            self._states = torch.empty_like(step.states)
            n_parts, size = 2 * self._n_layers, width // self._heads
            self._new = torch.empty(n_rows, n_parts * self._heads, n_tokens, size)
        self._layers(
            step.states,
            self._penalty(step, cache.capacity),
            held=[
                _ALL_ALIKE if cross.bias is None else cross.bias,
                *cache.tensors,
                *cross.tensors,
            ],
            out=[self._states, self._new],
        )
        by_layer = self._new.view(n_rows, self._n_layers, 2, self._heads, n_tokens, -1)
        step.write(cache.states, by_layer.movedim((2, 1), (0, 1)))
        return self._states.clone()

    def _penalty(self, step: DecoderStep, capacity: int) -> Tensor:
        """Hide from each token the cache behind its row's end, and the new tokens behind itself."""
        n_rows, n_tokens = step.positions.shape
        past = self._hidden[step.positions[:, 0], :capacity][:, None, None]
        new = self._hidden[1 : n_tokens + 1, :n_tokens].expand(n_rows, 1, n_tokens, n_tokens)
        return torch.cat([past.expand(n_rows, 1, n_tokens, capacity), new], dim=3)

    def cross_keys_values(
        self, encoder_states: Float[Tensor, "batch frames width"], out: list[Tensor] | None
    ) -> list[Tensor]:
        """Return the tensors of a cross cache; those of ``out``, written to, if there are some."""
        if out is None:
            batch, n_frames, width = encoder_states.shape
            shape = (batch, self._heads, n_frames, width // self._heads)
            out = [torch.empty(shape, dtype=self.cross_dtype) for _ in range(2 * self._n_layers)]
        self._cross(encoder_states, out=out)
        return out

    def project(self, states: Float[Tensor, "*positions width"]) -> Tensor:
        """Return the logits, which the next call overwrites."""
        flat = states.reshape(-1, states.shape[-1])
        if len(self._logits) != len(flat):
            self._logits = torch.empty(len(flat), len(self._embedding))
        self._projection(flat, out=[self._logits])
        if self._n_in_int4:
            values = self._logits.numpy()
            near = values[:, : self._n_in_int4] > values.max(axis=1, keepdims=True) - NEAR
            rows, ids = np.divmod(np.flatnonzero(near), self._n_in_int4)
            values[rows, ids] = (flat.numpy()[rows] * self._embedding[ids]).sum(axis=1)
        return self._logits.view(*states.shape[:-1], -1)


_ALL_ALIKE = torch.zeros(1, 1, 1, 1)


_Ends: TypeAlias = tuple[list[Any], list[Any]]  # outputs and inputs of a graph


def _encoder(encoder: Encoder, compiler: _Compiler) -> _Ends:
    ops, net = compiler.ops, _Network(compiler)
    mel = ops.parameter([-1, encoder.conv1.in_channels, -1], np.float32)
    states = net.gelu(net.conv(mel, encoder.conv1))
    states = net.gelu(net.conv(states, encoder.conv2))
    states = ops.transpose(states, [0, 2, 1])
    sources = ops.parameter([-1], np.int64)
    positions = ops.parameter([-1, encoder.conv2.out_channels], np.float32)
    bias = ops.parameter([1, 1, 1, -1], np.float32)
    states = ops.add(ops.gather(states, sources, ops.constant(1)), positions)
    for layer in encoder.layers:
        states = net.encoder_layer(states, layer, bias, int8=compiler.encodes_in_int8)
    return [net.norm(states, encoder.layer_norm)], [mel, sources, positions, bias]


def _projection(decoder: Decoder, compiler: _Compiler, width: int, n_in_int4: int) -> _Ends:
    ops, net = compiler.ops, _Network(compiler)
    states = ops.parameter([-1, width], np.float32)
    weight, scale = decoder.embed_tokens.weight.detach(), decoder.layer_norm.weight.detach().abs()
    # Rounding loses least where numbers are of one size. All rows of the embedding are alike in a
    # few columns, where they are large; and states are large where the last norm's weight is.
    common, scale = weight.mean(dim=0, keepdim=True), scale.clamp(min=0.01 * scale.max())
    scaled = ops.multiply(states, net.constant(1 / scale))
    special = (weight[n_in_int4:] - common).mul_(scale)
    logits = net.product(scaled, special, int8=True)
    if n_in_int4:
        text = (weight[:n_in_int4] - common).mul_(scale)
        logits = ops.concat([net.product_in_int4(scaled, text), logits], 1)
    logits = ops.add(logits, net.product(states, common, int8=False))
    return [logits], [states]


def _decoder_layers(decoder: Decoder, compiler: _Compiler, width: int) -> _Ends:
    """The layers as one graph: states, two penalties, four lists of keys and values.

    Each operation takes some microseconds, whatever it computes: there are as few as can be.
    """
    ops, net = compiler.ops, _Network(compiler)
    n_layers, heads = len(decoder.layers), decoder.layers[0].self_attn.heads
    states = ops.parameter([-1, -1, width], np.float32)
    penalty = ops.parameter([-1, 1, -1, -1], np.float32)
    cross_bias = ops.parameter([-1, 1, 1, -1], np.float32)
    shape = [-1, heads, -1, width // heads]
    past = [ops.parameter(shape, np.float32) for _ in range(2 * n_layers)]
    cross = [ops.parameter(shape, net.cached) for _ in range(2 * n_layers)]
    inputs = [states, penalty, cross_bias, *past, *cross]
    shape_of_states = ops.shape_of(states)
    lengths = ops.concat([net.size(past[0], 2), ops.constant([-1])], 0)
    # The beams of a window look at its one row of frames as if they were tokens of one row.
    by_window = ops.concat([net.size(cross[0], 0), ops.constant([-1, heads, width // heads])], 0)
    scores_of = partial(ops.matmul, transpose_a=False, transpose_b=True)  # queries and keys
    mix = partial(ops.matmul, transpose_a=False, transpose_b=False)  # weights and values
    new = []
    for number, layer in enumerate(decoder.layers):
        attention = layer.self_attn
        parts = (_scaled(attention.q_proj, heads), attention.k_proj, attention.v_proj)
        made = net.linear(net.norm(states, layer.self_attn_layer_norm), *parts, int8=True)
        queries, keys, values = net.split(made, heads, n=3)
        new += [keys, values]
        past_keys, past_values = past[number::n_layers]
        scores = [scores_of(queries, past_keys), scores_of(queries, keys)]
        weights = ops.softmax(ops.add(ops.concat(scores, 3), penalty), 3)
        of_past, of_new = ops.variadic_split(weights, ops.constant(3), lengths).outputs()
        mixed = ops.add(mix(of_past, past_values), mix(of_new, values))
        mixed = net.merge(mixed, shape_of_states)
        states = ops.add(states, net.linear(mixed, attention.out_proj, int8=True))
        attention = layer.encoder_attn
        normed = net.norm(states, layer.encoder_attn_layer_norm)
        made = net.linear(normed, _scaled(attention.q_proj, heads), int8=True)
        made = net.rounded(ops.reshape(made, by_window, False))
        cross_keys, cross_values = cross[number::n_layers]
        scores = scores_of(ops.transpose(made, [0, 2, 1, 3]), cross_keys)
        weights = ops.softmax(ops.add(net.exact(scores), cross_bias), 3)
        mixed = net.exact(mix(net.rounded(weights), cross_values))
        mixed = net.merge(mixed, shape_of_states)
        states = ops.add(states, net.linear(mixed, attention.out_proj, int8=True))
        states = net.feed_forward(states, layer, int8=True)
    return [net.norm(states, decoder.layer_norm), ops.concat(new, 1)], inputs


def _cross_projection(decoder: Decoder, compiler: _Compiler, width: int) -> _Ends:
    net = _Network(compiler)
    states = compiler.ops.parameter([-1, -1, width], np.float32)
    layers = [layer.encoder_attn for layer in decoder.layers]
    parts = [layer.k_proj for layer in layers] + [layer.v_proj for layer in layers]
    made = [net.linear(states, part, int8=compiler.encodes_in_int8) for part in parts]
    return [net.rounded(net.split(each, layers[0].heads)[0]) for each in made], [states]


class _Network:
    """The parts of Whisper, as OpenVINO's operations."""

    def __init__(self, compiler: _Compiler) -> None:
        self.ops = compiler.ops
        self.module = compiler.openvino
        self.cached = compiler.element_type  # of cross keys and values, and of products with them

    def constant(self, weight: Tensor) -> Any:
        return self.ops.constant(weight.detach().numpy(), shared_memory=True)

    def size(self, node: Any, axis: int) -> Any:
        """A tensor's length along an axis, as a vector of one."""
        shape = self.ops.shape_of(node)
        return self.ops.gather(shape, self.ops.constant([axis]), self.ops.constant(0))

    def gelu(self, states: Any) -> Any:
        return self.ops.gelu(states, "erf")

    def norm(self, states: Any, norm: nn.LayerNorm) -> Any:
        axes = self.ops.constant([-1])
        centred = self.ops.mvn(states, axes, True, norm.eps, "INSIDE_SQRT")
        scaled = self.ops.multiply(centred, self.constant(norm.weight))
        return self.ops.add(scaled, self.constant(norm.bias))

    def conv(self, states: Any, conv: nn.Conv1d) -> Any:
        assert conv.bias is not None
        made = self.ops.convolution(
            states, self.constant(conv.weight), list(conv.stride), [1], [1], [1]
        )
        return self.ops.add(made, self.constant(conv.bias[None, :, None]))

    def product(self, states: Any, weight: Tensor, *, int8: bool) -> Any:
        """``states @ weight.T``."""
        if not int8:
            return self.ops.matmul(states, self.constant(weight), False, True)
        rounded, scale = quantise(weight.detach())
        whole = self.ops.convert(self.ops.constant(rounded.numpy()), np.float32)
        scaled = self.ops.multiply(whole, self.constant(scale))
        return self.ops.matmul(states, scaled, False, True)

    def product_in_int4(self, states: Any, weight: Tensor) -> Any:
        """As :meth:`product`, with a scale for each group of a row's numbers."""
        n_rows, width = weight.shape
        size = INT4_GROUP if width % INT4_GROUP == 0 else width
        groups = weight.view(n_rows, -1, size)
        rounded, scale = quantise(groups, most=INT4_MAX)
        rounded.clamp_(max=7)
        held = self.module.Tensor(self.module.Type.i4, list(groups.shape))  # two in a byte
        held.data[:] = (rounded[..., ::2] & 15 | rounded[..., 1::2] << 4).flatten().numpy()
        whole = self.ops.convert(self.module.op.Constant(held), np.float32)
        scaled = self.ops.multiply(whole, self.constant(scale))
        rows = self.ops.reshape(scaled, self.ops.constant([n_rows, width]), False)
        return self.ops.matmul(states, rows, False, True)

    def linear(self, states: Any, *layers: nn.Linear, int8: bool) -> Any:
        """One product for several layers of the same input, side by side."""
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([_bias(layer) for layer in layers])
        made = self.product(states, weight, int8=int8)
        return self.ops.add(made, self.constant(bias)) if bool(bias.any()) else made

    def split(self, states: Any, heads: int, n: int = 1) -> list[Any]:
        """By head, of each of ``n`` parts that lie side by side."""
        shape = self.ops.constant([0, 0, n * heads, -1])
        by_head = self.ops.transpose(self.ops.reshape(states, shape, True), [0, 2, 1, 3])
        return list(self.ops.split(by_head, self.ops.constant(1), n).outputs())

    def merge(self, states: Any, shape: Any) -> Any:
        """The heads of each token side by side, in the shape of all states."""
        return self.ops.reshape(self.ops.transpose(states, [0, 2, 1, 3]), shape, False)

    def rounded(self, node: Any) -> Any:
        """A node in the numbers of cross keys and values."""
        return self.ops.convert(node, self.cached)

    def exact(self, node: Any) -> Any:
        return self.ops.convert(node, np.float32)

    def feed_forward(self, states: Any, layer: EncoderLayer | DecoderLayer, *, int8: bool) -> Any:
        normed = self.norm(states, layer.final_layer_norm)
        inner = self.gelu(self.linear(normed, layer.fc1, int8=int8))
        return self.ops.add(states, self.linear(inner, layer.fc2, int8=int8))

    def encoder_layer(self, states: Any, layer: EncoderLayer, bias: Any, *, int8: bool) -> Any:
        normed, attention = self.norm(states, layer.self_attn_layer_norm), layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        made = [self.linear(normed, part, int8=int8) for part in parts]
        inputs = [self.split(part, attention.heads)[0] for part in made]
        mixed = self.ops.scaled_dot_product_attention(*inputs, bias)
        mixed = self.merge(mixed, self.ops.shape_of(states))
        states = self.ops.add(states, self.linear(mixed, attention.out_proj, int8=int8))
        return self.feed_forward(states, layer, int8=int8)


def quantise(
    weight: Float[Tensor, "*rows in"], *, most: float = INT8_MAX
) -> tuple[Tensor, Float[Tensor, "*rows 1"]]:
    """Return a weight as whole numbers of int8, ``most`` for a row's largest, and their scales."""
    size = torch.linalg.vector_norm(weight, torch.inf, dim=-1, keepdim=True)
    scale = size.clamp(min=1e-12) / most
    return (weight / scale).round_().to(torch.int8), scale


def _scaled(queries: nn.Linear, heads: int) -> nn.Linear:
    """A projection to queries that are ready for their product with keys."""
    scaled, scale = deepcopy(queries), (queries.out_features // heads) ** -0.5
    for weight in scaled.parameters():
        weight.data *= scale
    return scaled


def _bias(layer: nn.Linear) -> Tensor:
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(len(layer.weight))
    return bias.detach()


def _forget_oldest(folder: Path) -> None:
    """Keep the graphs of few models: they are large, and soon made again."""
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in kept[:-MODELS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
