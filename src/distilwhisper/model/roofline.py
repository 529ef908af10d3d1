"""The least time that a window takes on one H100: every byte and every product once.

Arithmetic for bfloat16 weights, 798 TFLOP/s and 3.0 TB/s, both measured. Real programs are slower;
the ratio of two models' floors says how much faster one of them can be.
"""

from distilwhisper.model.whisper import WhisperConfig

FLOPS, BYTES = 798e12, 3.0e12  # per second
TOKENS_PER_WINDOW = 110


def window_s(config: WhisperConfig, *, batch: int, n_tokens: int = TOKENS_PER_WINDOW) -> float:
    """Return the seconds of a window, encoder and greedy decoding.

    Args:
        config: the sizes.
        batch: windows that are decoded together and share the reading of the weights.
        n_tokens: that each says.
    """
    width, frames, layers = config.width, config.max_frames, config.decoder_layers
    layer = 8 * frames * width**2 + 4 * frames**2 * width + 4 * frames * width * config.encoder_ffn
    convolutions = 6 * frames * width * (2 * config.n_mels + width)
    cross_products = 4 * layers * frames * width**2
    once_s = (config.encoder_layers * layer + convolutions + cross_products) / FLOPS
    # Cross keys' and values' weights are read once per window, the rest at every step.
    weights = layers * (6 * width**2 + 2 * width * config.decoder_ffn) + config.vocab_size * width
    cache_bytes = 4 * layers * width * (frames + n_tokens / 2)
    return once_s + n_tokens * (2 * weights / batch + cache_bytes) / BYTES
