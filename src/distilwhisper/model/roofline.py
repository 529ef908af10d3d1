"""The work of a window, counted from a model's sizes, and the least time that it takes.

Every byte is moved and every product is made once. Real programs are slower; the ratio of two
models' floors says how much faster one of them can be.
"""

from distilwhisper.model.whisper import WhisperConfig

TOKENS_PER_WINDOW = 110
# Of an NVIDIA H100, measured: multiplications and additions in bfloat16, and bytes of its memory.
FLOPS_PER_S, BYTES_PER_S, WEIGHT_BYTES = 798e12, 3.0e12, 2


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


def cache_values(c: WhisperConfig, frames: float) -> float:
    """Return how many keys and values the decoder holds of so many frames, or tokens."""
    return 2.0 * frames * c.width * c.decoder_layers


def window_s(config: WhisperConfig, *, batch: int, n_tokens: float = TOKENS_PER_WINDOW) -> float:
    """Return the seconds of a window on an H100, encoder and greedy decoding.

    Windows of one batch share the reading of the weights; the cache of tokens is half as long on
    average.
    """
    once_s = (encoder_flops(config) + cross_flops(config)) / FLOPS_PER_S
    held = cache_values(config, config.max_frames + n_tokens / 2)
    moved_s = (step_weights(config) / batch + held) * WEIGHT_BYTES / BYTES_PER_S
    token_flops = 2.0 * step_weights(config) + 2.0 * cache_values(config, config.max_frames)
    return once_s + n_tokens * max(moved_s, token_flops / FLOPS_PER_S)
