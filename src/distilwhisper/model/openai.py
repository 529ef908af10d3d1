"""Whisper checkpoints as OpenAI publishes them: one ``.pt`` file, read without their package.

The file is a pickled dict of ``dims`` (ten sizes) and ``model_state_dict``. Everything else lives
in their code: the tokenizer, the suppress lists, and the heads whose attention gives word times.
So a tokenizer comes with the call, the suppress list is computed from it by their rule, and the
heads are looked up for the published sizes.

Source: openai/whisper: ``whisper/__init__.py``, ``whisper/model.py``, ``whisper/tokenizer.py``.
"""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from distilwhisper.model.layout import (
    LIGHTNING_HINT,
    TEMPLATES,
    WEIGHT_NAMES,
    BadCheckpoint,
    ModelFiles,
    check_vocab_size,
    files_from_weights,
    is_state_dict,
    load_pickle,
    token_ids,
    unwrapped,
)
from distilwhisper.model.whisper import WhisperConfig

_OPENAI_NAMES = {ours: theirs for ours, theirs, _ in WEIGHT_NAMES}
_HUGGING_FACE_NAMES = {theirs: ours for ours, theirs in _OPENAI_NAMES.items()}
_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")

_END_OF_TEXT = {51_864: 50_256, 51_865: 50_257, 51_866: 50_257}  # by the size of the vocabulary

# The sizes in ``dims`` and where they stand in config.json.
_DIMS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}


def read_openai(path: Path, tokenizer_for: Callable[[int], str]) -> ModelFiles:
    """Read an OpenAI checkpoint as what its Hugging Face folder would hold; no code in it is run.

    Weights keep the type that they are stored in. Alignment heads are in the generation config
    only for the published sizes; large-v1 and large-v2 cannot be told apart and have none.
    ``tokenizer_for`` returns the ``tokenizer.json`` of a vocabulary, given its size.

    Raises:
        BadCheckpoint: the file is no Whisper checkpoint, is torn, contradicts its own sizes, or
            has another vocabulary than the tokenizer.
    """
    checkpoint = load_pickle(path)
    dims, state = checkpoint.get("dims"), checkpoint.get("model_state_dict")
    if not isinstance(dims, dict) or not is_state_dict(state):
        raise BadCheckpoint(f"{path}: {_not_openai(checkpoint)}")
    if missing := [name for name in _DIMS if not isinstance(dims.get(name), int)]:
        raise BadCheckpoint(f"{path}: 'dims' lacks {', '.join(missing)}, or has no number there")
    tokenizer_json = tokenizer_for(dims["n_vocab"])
    state = unwrapped(state, "encoder.conv1.weight", where=path)
    heads = published_alignment_heads(
        width=dims["n_text_state"], n_layers=dims["n_text_layer"], vocab_size=dims["n_vocab"]
    )
    blank = _encode(tokenizers.Tokenizer.from_str(tokenizer_json), " ")
    eot = token_ids(tokenizer_json, where=path)["<|endoftext|>"]
    rules: dict[str, Any] = {
        "suppress_tokens": suppressed_tokens(tokenizer_json, where=path),
        "begin_suppress_tokens": [*blank, eot],
        **({} if heads is None else {"alignment_heads": heads}),
    }
    weights = {}
    for name, weight in state.items():
        if (ours := _renamed(name, _HUGGING_FACE_NAMES)) is None:
            raise BadCheckpoint(f"{path}: {name} belongs to no Whisper network")
        weights[ours] = weight
    n_heads = dims["n_audio_head"], dims["n_text_head"]
    files = files_from_weights(weights, tokenizer_json, rules, heads=n_heads, where=path)
    for name, found in dims_of(files).items():
        if dims[name] != found:
            raise BadCheckpoint(f"{path}: 'dims' has {name} {dims[name]}, the weights have {found}")
    return files


def dims_of(files: ModelFiles) -> dict[str, int]:
    """Return a model's ``dims``."""
    config = WhisperConfig.from_hf(files.config).to_hf({})
    return {theirs: config[ours] for theirs, ours in _DIMS.items()}


def _not_openai(checkpoint: Mapping[str, Any]) -> str:
    """Say what a file is that is no OpenAI checkpoint, and what to do with it."""
    if "state_dict" in checkpoint:
        return LIGHTNING_HINT
    if any("lora_" in name for name in map(str, checkpoint)):
        return "the weights of an adapter (LoRA): merge them into their model with peft first"
    if checkpoint and is_state_dict(checkpoint):
        return (
            "bare weights, which say neither their sizes nor their tokenizer: put the file as "
            "pytorch_model.bin into a folder with config.json and tokenizer.json of the model that "
            "was trained, and import that folder"
        )
    return f"must hold 'dims' and 'model_state_dict', found {sorted(map(str, checkpoint))[:8]}"


def openai_name(name: str) -> str:
    """Return what OpenAI calls a weight of a Hugging Face name."""
    return _renamed(name, _OPENAI_NAMES) or name


def _renamed(name: str, names: Mapping[str, str]) -> str | None:
    number = _LAYER_NUMBER.search(name)
    found = names.get(_LAYER_NUMBER.sub("*", name, count=1))
    return found.replace("*", number[0]) if found and number else found


def check_conventions(files: ModelFiles, *, where: Path) -> None:
    """Check what OpenAI's code and whisper.cpp take for granted, and their files do not hold.

    They know the special tokens by the size of the vocabulary alone, and the feed-forward blocks to
    be four times as wide as the model.

    Raises:
        BadCheckpoint: it is otherwise.
    """
    vocab_size, width = files.config["vocab_size"], files.config["d_model"]
    check_vocab_size(files.tokenizer_json, vocab_size=vocab_size, where=where)
    eot = token_ids(files.tokenizer_json, where=where)["<|endoftext|>"]
    faults = [
        f"{name} must be {4 * width}, 4 times d_model, found {files.config[name]}"
        for name in ("encoder_ffn_dim", "decoder_ffn_dim")
        if files.config[name] != 4 * width
    ]
    if _END_OF_TEXT.get(vocab_size) != eot:
        faults.append(
            f"the vocabulary must be a published one, of {', '.join(map(str, _END_OF_TEXT))} "
            f"tokens, found {vocab_size} with the end of text at {eot}"
        )
    if faults:
        raise BadCheckpoint(
            f"{where}: not to be had in this format: {'; '.join(faults)}: export to ctranslate2, "
            "onnx or sherpa instead"
        )


def suppressed_tokens(tokenizer_json: str, *, where: Path) -> list[int]:
    """Return the ids that OpenAI's decoder never emits: symbols that nobody speaks, and prompts.

    Speaker tags, brackets and music signs go, ordinary punctuation stays. A symbol of several
    tokens is left alone, but for the music signs: their first token begins no letter.

    Raises:
        BadCheckpoint: the tokenizer lacks one of Whisper's special tokens.

    Source: openai/whisper: ``whisper/tokenizer.py``, ``non_speech_tokens``; ``decoding.py``,
    ``_get_suppress_tokens``.
    """
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    music = {*"♩♪♫♬♭♮♯"}
    pairs = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()
    symbols = {*'"#()*+/:;<=>@[\\]^_`{|}~「」『』', *pairs, *music}
    suppressed = {_encode(tokenizer, " -")[0], _encode(tokenizer, " '")[0]}
    for symbol in symbols:
        for token_sequence in (_encode(tokenizer, symbol), _encode(tokenizer, f" {symbol}")):
            if len(token_sequence) == 1 or symbol in music:
                suppressed.add(token_sequence[0])
    ids = token_ids(tokenizer_json, where=where)
    no_speech = "nospeech" if "<|nospeech|>" in ids else "nocaptions"  # its older name
    roles = ("startoftranscript", "translate", "transcribe", "startoflm", "startofprev", no_speech)
    return sorted(suppressed | {ids[f"<|{role}|>"] for role in roles})


def _encode(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def published_alignment_heads(
    *, width: int, n_layers: int, vocab_size: int
) -> list[list[int]] | None:
    """Return the decoder heads that follow the audio, as (layer, head) pairs.

    None for a decoder of other sizes than the published ones, and for large-v1 and large-v2.

    Source: openai/whisper: ``whisper/__init__.py``, ``_ALIGNMENT_HEADS``.
    """
    heads: dict[str, list[list[int]]] = TEMPLATES["alignment_heads"]
    return copy.deepcopy(heads.get(f"{width} {n_layers} {vocab_size}"))
