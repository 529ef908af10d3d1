"""The work of a window, counted from a model's sizes, and the least time that it takes.

Every byte is moved and every product is made once. Real programs are slower; the ratio of two
models' floors says how much faster one of them can be.
"""

from dataclasses import dataclass

from distilwhisper.model.whisper import WhisperConfig

TOKENS_PER_WINDOW = 110


@dataclass(frozen=True)
class Roof:
    """What a device can do at the most, in weights of one size."""

    flops: float  # multiplications and additions per second, dense
    bandwidth: float  # bytes per second of its memory
    weight_bytes: int = 2


H100 = Roof(798e12, 3.0e12)  # bfloat16, both measured


def encoder_flops(c: WhisperConfig) -> float:
    """Return the arithmetic of one window's encoder states."""
    stem = 6 * c.max_frames * c.width * (2 * c.n_mels + c.width)
    layer = c.max_frames * c.width * (8 * c.width + 4 * c.max_frames + 4 * c.encoder_ffn)
    return float(stem + c.encoder_layers * layer)


def cross_flops(c: WhisperConfig) -> float:
    """Return the arithmetic of one window's cross-attention keys and values."""
    return 4.0 * c.max_frames * c.width**2 * c.decoder_layers


def step_weights(c: WhisperConfig) -> int:
    """Return how many weights a step of the decoder reads: all but those of the cross cache."""
    layer = 6 * c.width**2 + 2 * c.width * c.decoder_ffn
    return c.decoder_layers * layer + c.vocab_size * c.width


def token_flops(c: WhisperConfig) -> float:
    """Return the arithmetic of one token in the decoder."""
    return 2.0 * step_weights(c) + 4.0 * c.max_frames * c.width * c.decoder_layers


def cache_values(c: WhisperConfig, frames: float) -> float:
    """Return how many keys and values the decoder holds of so many frames, or tokens."""
    return 2.0 * frames * c.width * c.decoder_layers


def window_s(
    config: WhisperConfig,
    *,
    batch: int,
    n_tokens: float = TOKENS_PER_WINDOW,
    roof: Roof = H100,
) -> float:
    """Return the seconds of a window, encoder and greedy decoding.

    Args:
        config: the sizes.
        batch: windows that are decoded together and share the reading of the weights.
        n_tokens: that each says; the cache of tokens is half as long on average.
        roof: the device.
    """
    once_s = (encoder_flops(config) + cross_flops(config)) / roof.flops
    held = cache_values(config, config.max_frames + n_tokens / 2)
    moved_s = (step_weights(config) / batch + held) * roof.weight_bytes / roof.bandwidth
    return once_s + n_tokens * max(moved_s, token_flops(config) / roof.flops)
