"""The Whisper network, written for explicit caches.

Module names are those of the Hugging Face layout, so that a state dict is a checkpoint without
any renaming (only the "model." prefix is added on disk). Everything a decoder remembers between
steps stands in two objects that the caller owns:

    CrossCache   keys and values of the encoder states: made once per window, never changed
    SelfCache    keys and values of the tokens so far: every row has a length of its own, so rows
                 may start from prompts of different lengths, and a row can be rolled back alone

Source: arXiv:2212.04356, section 2.2; names after ``openai/whisper: whisper/model.py``.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilwhisper.model.hardware import cpu_has
from distilwhisper.model.silence import FrameBias, KeptFrames
from distilwhisper.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from distilwhisper.model.openvino import DecoderEngine

MANY_QUERIES = 256  # from here on, attention on a CPU goes head by head

Mel: TypeAlias = Float[Tensor, "batch n_mels mel_frames"]
FrameStates: TypeAlias = Float[Tensor, "batch frames width"]
TokenStates: TypeAlias = Float[Tensor, "batch tokens width"]
Queries: TypeAlias = Float[Tensor, "batch heads tokens head_dim"]
HeadStates: TypeAlias = Float[Tensor, "batch heads keys head_dim"]  # keys, or values


@dataclass(frozen=True)
class WhisperConfig:
    """The sizes of a Whisper network; the rest of a checkpoint's config does not shape it."""

    vocab_size: int
    n_mels: int
    width: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int
    max_frames: int = 1500  # encoder positions, 20 ms each
    max_tokens: int = 448  # decoder positions

    def __post_init__(self) -> None:
        for side, heads in (("encoder", self.encoder_heads), ("decoder", self.decoder_heads)):
            if heads < 1 or self.width % heads:
                raise ValueError(
                    f"{side} heads must divide the width: found {heads} heads, width {self.width}"
                )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "WhisperConfig":
        """Read the sizes from a Hugging Face ``config.json``.

        Raises:
            ValueError: the config is of another architecture, or lacks a size.
        """
        found = config.get("model_type")
        if found != "whisper":
            raise ValueError(f"config.json must have model_type 'whisper', found {found!r}")
        for key, wanted in (("activation_function", "gelu"), ("scale_embedding", False)):
            if config.get(key, wanted) != wanted:
                raise ValueError(f"config.json: {key} must be {wanted!r}, found {config[key]!r}")
        sizes = {ours: config[theirs] for ours, theirs in _HF_NAMES.items() if theirs in config}
        for ours, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(
                    f"config.json: {_HF_NAMES[ours]} must be a whole number above 0, found {size!r}"
                )
        try:
            return cls(**sizes)
        except TypeError as error:
            missing = ", ".join(theirs for theirs in _HF_NAMES.values() if theirs not in config)
            raise ValueError(
                f"config.json lacks {missing}: take the file of the model itself"
            ) from error

    def to_hf(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``base`` (another model's ``config.json``) with the sizes of this one."""
        sizes = {theirs: getattr(self, ours) for ours, theirs in _HF_NAMES.items()}
        return {**base, **sizes, "num_hidden_layers": self.encoder_layers}


_HF_NAMES = {
    "vocab_size": "vocab_size",
    "n_mels": "num_mel_bins",
    "width": "d_model",
    "encoder_layers": "encoder_layers",
    "encoder_heads": "encoder_attention_heads",
    "encoder_ffn": "encoder_ffn_dim",
    "decoder_layers": "decoder_layers",
    "decoder_heads": "decoder_attention_heads",
    "decoder_ffn": "decoder_ffn_dim",
    "max_frames": "max_source_positions",
    "max_tokens": "max_target_positions",
}


@dataclass(frozen=True, eq=False)
class CrossCache:
    """Keys and values of the encoder states, one pair per decoder layer."""

    keys: list[Tensor]  # layers x (batch, heads, frames, head_dim)
    values: list[Tensor]
    # Added to scores: the log of how many frames each stands for, minus infinity where a row has
    # fewer than others. None: all are there, for themselves.
    bias: FrameBias | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """The keys of all layers, then their values."""
        return [*self.keys, *self.values]

    def attend(self, number: int, attention: "Attention", normed: TokenStates) -> TokenStates:
        """Return what a layer's attention collects for some tokens; a :data:`CrossAttention`.

        Fewer windows than rows: rows are then a window's beams, neighbours, of one token each, and
        look at its frames together, as if they were tokens of one row.
        """
        keys, values = self.keys[number], self.values[number]
        by_window = normed.view(len(keys), -1, normed.shape[2])
        return attention(by_window, keys, values, self.bias).view_as(normed)


@dataclass(eq=False)
class SelfCache:
    """Keys and values of the tokens so far, with a length per row.

    The decoder writes behind each row's length and leaves the lengths alone: the caller moves
    them on by as many tokens as it accepts. Padding on the right of a ragged batch, and drafted
    tokens that were refused, are overwritten by what comes next and are never seen.
    """

    states: Float[Tensor, "2 layers batch heads capacity head_dim"]  # keys, then values
    lengths: Int[Tensor, " batch"]

    @property
    def capacity(self) -> int:
        """Tokens per row at most."""
        return self.states.shape[4]

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The keys of all layers, then their values."""
        return list(self.states.flatten(0, 1))

    def write(
        self, number: int, keys: Tensor, values: Tensor, step: "DecoderStep"
    ) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values; return all that the step can see."""
        layer = self.states[:, number]
        step.write(layer, torch.stack([keys, values]))
        seen_keys, seen_values = layer[:, :, :, : step.n_keys]
        return seen_keys, seen_values

    def select(self, rows: Int[Tensor, " kept"]) -> "SelfCache":
        """Return the cache of some rows, in the order asked for."""
        return SelfCache(self.states[:, :, rows], self.lengths[rows])


class Attention(nn.Module):
    """Multi-head attention with Whisper's biases: none on the keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, states: TokenStates, keys: HeadStates, values: HeadStates, mask: Tensor | None = None
    ) -> TokenStates:
        """Attend from ``states`` to keys and values that :meth:`keys_values` made.

        The mask, (#batch, 1, #tokens, keys), says what is visible, or what is added to the scores.
        """
        queries = self._split(self.q_proj(states))
        mixed = _attend(queries, keys, values, mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def keys_values(
        self, states: Float[Tensor, "batch keys width"]
    ) -> tuple[HeadStates, HeadStates]:
        """Project ``states`` to what queries are compared with and what they collect."""
        return self._split(self.k_proj(states)), self._split(self.v_proj(states))

    def _split(self, states: Tensor) -> Tensor:
        batch, n_states, width = states.shape
        return states.view(batch, n_states, self.heads, width // self.heads).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward block, each normalised before."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn)
        self.fc2 = nn.Linear(ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, states: FrameStates, bias: FrameBias | None = None) -> FrameStates:
        """Return the states after this layer; ``bias`` is added to the frames' scores."""
        normed = self.self_attn_layer_norm(states)
        states = states + self.self_attn(normed, *self.self_attn.keys_values(normed), bias)
        return states + self.fc2(F.gelu(self.fc1(self.final_layer_norm(states))))


class Encoder(nn.Module):
    """Log-mel frames to encoder states."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.n_mels, config.width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(
            config.max_frames,
            config.width,
            _weight=sinusoids(config.max_frames, config.width).clone(),
        )
        self.embed_positions.weight.requires_grad_(False)
        layers = (
            EncoderLayer(config.width, config.encoder_heads, config.encoder_ffn)
            for _ in range(config.encoder_layers)
        )
        self.layers = cast("list[EncoderLayer]", nn.ModuleList(layers))
        self.layer_norm = nn.LayerNorm(config.width)
        # Set by openvino.py.
        self.engine: Callable[[Tensor, KeptFrames | None], Tensor] | None = None
        # Whether windows are to be encoded with fewer frames of silence: where time is short.
        self.thins_silence = False

    def forward(self, mel: Mel, kept: KeptFrames | None = None) -> FrameStates:
        """Encode windows; two mel frames of 10 ms make one frame of 20 ms.

        Where only some are to be ``kept``, the mel is the same in all frames of the silence.

        Raises:
            ValueError: the mel has another number of bins than the model, or is longer than its
                positions reach.
        """
        if self.engine is not None:
            self._check(mel)
            return self.engine(mel, kept)
        states = self.begin(mel, kept)
        bias = None if kept is None else kept.bias.to(states.dtype)
        for layer in self.layers:
            states = layer(states, bias)
        return self.layer_norm(states)

    def begin(self, mel: Mel, kept: KeptFrames | None = None) -> FrameStates:
        """Return the states before the first layer; see :meth:`forward`."""
        self._check(mel)
        positions = self.embed_positions.weight
        if kept is not None:
            mel, positions = kept.read(mel, positions)
        states = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        if kept is not None:
            states = states[:, kept.sources]
        return states + positions[: states.shape[1]]

    def _check(self, mel: Tensor) -> None:
        if mel.shape[1] != self.conv1.in_channels:
            raise ValueError(
                f"the model hears {self.conv1.in_channels} mel bins, found {mel.shape[1]}: "
                "compute the log-mel with the model's own n_mels"
            )
        n_frames = -(-mel.shape[2] // 2)
        if n_frames > self.embed_positions.num_embeddings:
            raise ValueError(
                f"a window holds at most {2 * self.embed_positions.num_embeddings} mel frames, "
                f"found {mel.shape[2]}: cut the recording into windows first"
            )

    def equals(self, other: "Encoder") -> bool:
        """Return whether another encoder has the same weights, and so hears alike.

        As far as the other's number format tells: this one's may be finer.
        """
        ours, theirs = self.state_dict(), other.state_dict()
        return ours.keys() == theirs.keys() and all(
            ours[name].shape == weight.shape and torch.equal(ours[name].to(weight.dtype), weight)
            for name, weight in theirs.items()
        )


# What a decoder layer adds to its normalised states from the encoder's, by its own attention.
CrossAttention: TypeAlias = Callable[[Attention, Tensor], Tensor]


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the encoder, and a feed-forward block."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(width, heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn)
        self.fc2 = nn.Linear(ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(
        self,
        states: TokenStates,
        visible: Bool[Tensor, "#batch 1 tokens keys"],
        attend: CrossAttention,
        write: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> TokenStates:
        """Return the states after this layer.

        ``write``, where there is a cache, takes new keys and values and returns all to be seen.
        """
        normed = self.self_attn_layer_norm(states)
        keys_values = self.self_attn.keys_values(normed)
        if write is not None:
            keys_values = write(*keys_values)
        states = states + self.self_attn(normed, *keys_values, visible)
        states = states + attend(self.encoder_attn, self.encoder_attn_layer_norm(states))
        return states + self.fc2(F.gelu(self.fc1(self.final_layer_norm(states))))


@dataclass(frozen=True)
class DecoderStep:
    """Some tokens on their way through the decoder's layers."""

    states: TokenStates  # before the first layer
    positions: Int[Tensor, "batch tokens"]
    n_keys: int  # that any of them may see

    @cached_property
    def rows(self) -> Int[Tensor, "batch 1"]:
        """The rows' numbers."""
        return torch.arange(len(self.positions), device=self.positions.device)[:, None]

    @cached_property
    def visible(self) -> Bool[Tensor, "batch 1 tokens keys"]:
        """Which keys each token sees: its own, and those before it."""
        keys_at = torch.arange(self.n_keys, device=self.positions.device)
        return keys_at <= self.positions[:, None, :, None]

    def write(
        self,
        target: Float[Tensor, "*layers batch heads capacity head_dim"],
        new: Float[Tensor, "*layers batch heads tokens head_dim"],
    ) -> None:
        """Write the tokens' keys and values to a cache, of one layer or of all."""
        # By index: scatter_ took 470 us for a token of whisper-base, this takes 6.
        by_place = target.movedim((-4, -2), (0, 1))
        by_place[self.rows, self.positions] = new.movedim((-4, -2), (0, 1))


class Decoder(nn.Module):
    """Tokens and encoder states to the state before the vocabulary."""

    is_capturable: ClassVar[bool] = True  # on a GPU: nothing in it waits for the device

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.embed_tokens = _blank_embedding(config.vocab_size, config.width)
        self.embed_positions = _blank_embedding(config.max_tokens, config.width)
        layers = (
            DecoderLayer(config.width, config.decoder_heads, config.decoder_ffn)
            for _ in range(config.decoder_layers)
        )
        self.layers = cast("list[DecoderLayer]", nn.ModuleList(layers))
        self.layer_norm = nn.LayerNorm(config.width)
        # Set by packed.py: the embedding once more, laid out for products.
        self.packed_projection: Callable[[Tensor], Tensor] | None = None
        self.engine: DecoderEngine | None = None  # set by openvino.py

    def forward(
        self,
        token_ids: Int[Tensor, "batch tokens"],
        cross: CrossCache,
        cache: SelfCache | None = None,
        *,
        n_keys: int | None = None,
    ) -> TokenStates:
        """Return the final states of some tokens, before :meth:`project`.

        Args:
            token_ids: the whole sequence without a cache; with one, what follows each row's
                length. Rows shorter than the rest are padded on the right.
            cross: from :meth:`cross_cache`, the same rows.
            cache: written to behind each row's length; the lengths are the caller's to move.
            n_keys: how far into the cache to look, at least the longest row with its new tokens.
                None: just so far, which costs a wait for the device.

        Raises:
            ValueError: the sequence is longer than the model's positions or the cache's capacity.
        """
        if self.engine is not None:
            cache = cache or self.self_cache(*token_ids.shape)
            return self.engine(self.begin(token_ids, cache, n_keys=n_keys), cross, cache)
        step = self.begin(token_ids, cache, n_keys=n_keys)
        states = step.states
        for number in range(len(self.layers)):
            states = self.run_layer(number, states, step, partial(cross.attend, number), cache)
        return self.layer_norm(states)

    def begin(
        self,
        token_ids: Int[Tensor, "batch tokens"],
        cache: SelfCache | None = None,
        *,
        n_keys: int | None = None,
    ) -> DecoderStep:
        """Return what the layers need to work on some tokens; see :meth:`forward`."""
        batch, n_tokens = token_ids.shape
        limit = self.embed_positions.num_embeddings
        if cache is None:
            start = token_ids.new_zeros(batch)
            n_keys = n_tokens
        else:
            start = cache.lengths
            limit = min(limit, cache.capacity)
            n_keys = int(start.max()) + n_tokens if n_keys is None else n_keys
        if n_keys > limit:
            raise ValueError(f"a sequence holds at most {limit} tokens, found {n_keys}")
        positions = start[:, None] + torch.arange(n_tokens, device=token_ids.device)
        states = F.embedding(token_ids, self.embed_tokens.weight)
        states = states + F.embedding(positions, self.embed_positions.weight)
        return DecoderStep(states, positions, n_keys)

    def run_layer(
        self,
        number: int,
        states: TokenStates,
        step: DecoderStep,
        attend: CrossAttention,
        cache: SelfCache | None = None,
    ) -> TokenStates:
        """Return the states after one layer, whose part of the cache is written."""
        write = None if cache is None else partial(cache.write, number, step=step)
        return self.layers[number](states, step.visible, attend, write)

    def project(
        self, states: Float[Tensor, "*positions width"]
    ) -> Float[Tensor, "*positions vocab"]:
        """Return the logits of final states: the transposed token embedding, as in Whisper.

        An engine writes the next call's logits to the same memory.
        """
        if self.engine is not None:
            return self.engine.project(states)
        if self.packed_projection is not None:
            return self.packed_projection(states)
        return F.linear(states, self.embed_tokens.weight)

    def cross_cache(
        self,
        encoder_states: FrameStates,
        kept: KeptFrames | None = None,
        *,
        out: CrossCache | None = None,
    ) -> CrossCache:
        """Project the encoder states to every layer's keys and values, once per window.

        Where only some frames were ``kept`` for the encoder, they count as often as each stands
        for. The keys and values of ``out`` are of the same shape, and are written to.
        """
        into = None if out is None else out.tensors
        if self.engine is not None:  # which writes to tensors that are whole in memory
            whole = into is not None and into[0].is_contiguous()
            made = self.engine.cross_keys_values(encoder_states, into if whole else None)
        else:
            pairs = [layer.encoder_attn.keys_values(encoder_states) for layer in self.layers]
            made = [keys for keys, _ in pairs] + [values for _, values in pairs]
        if into is not None and made is not into:
            made = [ours.copy_(new) for ours, new in zip(into, made, strict=True)]
        bias = None if kept is None else kept.bias.to(self.embed_tokens.weight.dtype)
        n_layers = len(self.layers)
        return CrossCache(made[:n_layers], made[n_layers:], bias)

    @property
    def cross_dtype(self) -> torch.dtype:
        """The type of the keys and values of the encoder states."""
        return self.embed_tokens.weight.dtype if self.engine is None else self.engine.cross_dtype

    def self_cache(self, batch: int, capacity: int) -> SelfCache:
        """Return an empty cache of rows that hold ``capacity`` tokens each, prompt included."""
        weight = self.embed_tokens.weight
        heads = self.layers[0].self_attn.heads
        shape = (2, len(self.layers), batch, heads, capacity, weight.shape[1] // heads)
        lengths = torch.zeros(batch, dtype=torch.long, device=weight.device)
        return SelfCache(unused_zeros(shape, weight.dtype, weight.device), lengths)


class Whisper(nn.Module):
    """An encoder and a decoder with the names of the Hugging Face layout."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(
        self, mel: Mel, token_ids: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens vocab"]:
        """Return the logits of every token given those before it, without any cache."""
        cross = self.decoder.cross_cache(self.encoder(mel))
        return self.decoder.project(self.decoder(token_ids, cross))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.decoder.embed_tokens.weight.dtype

    def n_parameters(self) -> int:
        """Count the parameters; the fixed encoder positions are among them."""
        return sum(p.numel() for p in self.parameters())

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight under its Hugging Face name."""
        for name, weight in self.state_dict().items():
            yield f"model.{name}", weight


@cache
def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """Return the encoder's fixed positions: sines, then cosines, of 1 to 10,000 time constants."""
    half = width // 2
    scales = np.exp(-math.log(10_000) / max(half - 1, 1) * np.arange(half))
    angles = np.arange(length)[:, None] * scales
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1)).float()


def unused_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; on a CPU, what is never written to takes no memory."""
    if device.type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    # Straight from the system, which hands out a page when it is first written to and takes it
    # back at the end. glibc would reuse its own, write zeros to all of them and keep them.
    n_bytes = math.prod(shape) * dtype.itemsize
    raw = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(raw, dtype=dtype).view(shape)


def _attend(queries: Queries, keys: HeadStates, values: HeadStates, mask: Tensor | None) -> Queries:
    # Torch's fused attention for the CPU is up to six times slower than this in bfloat16, but with
    # AMX it takes a third of the time for a whole window of queries.
    n_tokens = queries.shape[2]
    is_many = n_tokens >= MANY_QUERIES
    is_slow = queries.device.type == "cpu" and queries.dtype == torch.bfloat16
    if not is_slow or (is_many and cpu_has("amx_bf16")):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    if is_many:  # one head's scores stay in the cache, those of all do not
        heads = [
            _attend_plainly(queries[:, [h]], keys[:, [h]], values[:, [h]], mask)
            for h in range(queries.shape[1])
        ]
        return torch.cat(heads, dim=1)
    # One query alone is another product than two and more, with other roundings. As two, a token
    # comes out the same to the bit whether it is decoded alone or checked among drafted ones.
    pair = queries.expand(-1, -1, 2, -1) if n_tokens == 1 else queries
    return _attend_plainly(pair, keys, values, mask)[:, :, :n_tokens]


def _attend_plainly(
    queries: Queries, keys: HeadStates, values: HeadStates, mask: Tensor | None
) -> Queries:
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if mask is not None:
        is_bool = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -torch.inf) if is_bool else scores + mask
    return scores.softmax(dim=-1) @ values


def _blank_embedding(n_rows: int, width: int) -> nn.Embedding:
    """Return an embedding of zeros: weights are loaded into it.

    Torch's own random start takes seconds on the meta device, where every checkpoint begins.
    """
    return nn.Embedding(n_rows, width, _weight=torch.zeros(n_rows, width))
