"""A random Whisper that is built in a moment, in the published layout.

It understands nothing, but it does all that a Whisper does.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import torch

from distilwhisper.languages import LANGUAGES as LANGUAGES_OF_WHISPER
from distilwhisper.model.layout import ModelFiles, token_ids_for_generation, write_model_folder
from distilwhisper.model.whisper import Whisper, WhisperConfig

LANGUAGES = ("en", "de", "zh")
CONTROLS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")


def tokenizer_json(*, multilingual: bool) -> str:
    """Return a byte-level tokenizer with a handful of merges and all of Whisper's specials."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a"), ("i", "n"), ("e", "r")]
    pieces = [*letters.values(), *(a + b for a, b in merges)]
    special = ["endoftext", "startoftranscript", *(LANGUAGES if multilingual else ()), *CONTROLS]
    special += [f"{step * 0.02:.2f}" for step in range(1501)]
    added = [
        {
            "id": len(pieces) + i,
            "content": f"<|{name}|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, name in enumerate(special)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {**byte_level, "use_regex": True},
            "post_processor": None,
            "decoder": {**byte_level, "use_regex": True},
            "model": {
                "type": "BPE",
                "vocab": {piece: i for i, piece in enumerate(pieces)},
                "merges": [f"{a} {b}" for a, b in merges],
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
            },
        }
    )


def published_tokenizer_json(vocab_size: int) -> str:
    """Return a tokenizer whose special tokens have the ids of a published vocabulary.

    Its text tokens are the bytes and pairs of them.
    """
    tokenizer = json.loads(tokenizer_json(multilingual=False))
    letters = list(tokenizer["model"]["vocab"])[:256]
    languages = list(LANGUAGES_OF_WHISPER)[: 100 if vocab_size == 51_866 else 99]
    n_special = 2 + len(languages) + len(CONTROLS) + 1501
    pairs = itertools.product(letters, letters)
    merges = list(itertools.islice(pairs, vocab_size - n_special - len(letters)))
    pieces = [*letters, *(a + b for a, b in merges)]
    special = ["endoftext", "startoftranscript", *languages, *CONTROLS]
    special += [f"{step * 0.02:.2f}" for step in range(1501)]
    like = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] = [
        {**like, "id": len(pieces) + i, "content": f"<|{name}|>"} for i, name in enumerate(special)
    ]
    tokenizer["model"] |= {
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": [f"{a} {b}" for a, b in merges],
    }
    return json.dumps(tokenizer)


def write_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    multilingual: bool = False,
    vocab_size: int | None = None,
    std: float = 0.15,
    **sizes: int,
) -> Path:
    """Write a random model: 4 decoder layers of width 32, windows of the full 30 s.

    Args:
        folder: of the model; returned.
        seed: of the weights.
        multilingual: of three languages; else English only.
        vocab_size: of a published vocabulary, instead of the tiny one.
        std: of the weights; the larger, the more its text depends on what it hears.
        sizes: of :class:`WhisperConfig`, instead of the tiny ones.
    """
    tokenizer = tokenizer_json(multilingual=multilingual)
    if vocab_size is not None:
        multilingual = vocab_size > 51_864
        tokenizer = published_tokenizer_json(vocab_size)
    added: list[dict[str, Any]] = json.loads(tokenizer)["added_tokens"]
    defaults = {
        "vocab_size": added[-1]["id"] + 1,
        "n_mels": 80,
        "width": 32,
        "encoder_layers": 1,
        "encoder_heads": 2,
        "encoder_ffn": 64,
        "decoder_layers": 4,
        "decoder_heads": 2,
        "decoder_ffn": 64,
    }
    config = WhisperConfig(**{**defaults, **sizes})
    torch.manual_seed(seed)
    model = Whisper(config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=std)
    ids = {token["content"]: token["id"] for token in added}
    hf = config.to_hf(
        {
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "decoder_start_token_id": ids["<|startoftranscript|>"],
        }
    )
    generation = token_ids_for_generation(
        tokenizer, config={**hf, "vocab_size": 51865 if multilingual else 51864}, where=folder
    )
    generation |= {
        "suppress_tokens": [7],
        "begin_suppress_tokens": [220, ids["<|endoftext|>"]],
        "alignment_heads": [[config.decoder_layers - 1, 0]],
    }
    weights = dict(model.named_weights())
    files = ModelFiles(hf, generation, weights, tokenizer)
    write_model_folder(folder, files, dtype=torch.float32)
    return folder
