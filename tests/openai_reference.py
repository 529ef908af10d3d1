"""openai-whisper's network, to compare with."""

from typing import Any

from distilwhisper.model.whisper import Whisper

# In this order: a name may hold a shorter one.
OPENAI_NAMES = (
    ("layers", "blocks"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn", "cross_attn"),
    ("self_attn", "attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("final_layer_norm", "mlp_ln"),
    ("decoder.embed_tokens", "decoder.token_embedding"),
    ("embed_positions.weight", "positional_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
)


def openai_model(model: Whisper) -> Any:
    """Return openai-whisper's own network with the same weights."""
    from whisper.model import ModelDimensions
    from whisper.model import Whisper as Reference

    config = model.config
    reference = Reference(
        ModelDimensions(
            n_mels=config.n_mels,
            n_audio_ctx=config.max_frames,
            n_audio_state=config.width,
            n_audio_head=config.encoder_heads,
            n_audio_layer=config.encoder_layers,
            n_vocab=config.vocab_size,
            n_text_ctx=config.max_tokens,
            n_text_state=config.width,
            n_text_head=config.decoder_heads,
            n_text_layer=config.decoder_layers,
        )
    )
    state = {openai_name_of(name): weight for name, weight in model.state_dict().items()}
    reference.load_state_dict(state, strict=True)
    return reference.eval()


def openai_name_of(name: str) -> str:
    """Return what openai-whisper calls a weight of a Hugging Face name."""
    name = name.removeprefix("model.")
    for ours, theirs in OPENAI_NAMES:
        name = name.replace(ours, theirs)
    return name
