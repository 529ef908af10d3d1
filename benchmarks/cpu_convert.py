"""Models for the peers of the benchmark ``cpu.py``, made from a Hugging Face folder.

    PYTHON cpu_convert.py openvino-int8 SOURCE OUT WINDOWS.npy

Each conversion runs in an environment that holds what it imports; ``cpu.py`` knows which.
"""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

CONFIG = "config.json"
OPENAI_NAMES = (
    ("model.", ""),
    (".layers.", ".blocks."),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("self_attn", "attn"),
    ("encoder_attn", "cross_attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("embed_tokens", "token_embedding"),
    ("encoder.embed_positions.weight", "encoder.positional_embedding"),
    ("decoder.embed_positions.weight", "decoder.positional_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
)


def to_openvino(source: Path, out: Path) -> None:
    """Export to OpenVINO's IR, in float32."""
    program = Path(sys.executable).with_name("optimum-cli")
    task = "automatic-speech-recognition-with-past"
    options = ["--model", source, "--task", task, "--weight-format", "fp32"]
    subprocess.run([program, "export", "openvino", *options, out], check=True)


def to_openvino_int8(source: Path, out: Path, windows: Path) -> None:
    """Quantise such an export: encoder to int8 with SmoothQuant, weights of the decoder to int8.

    Args:
        source: what :func:`to_openvino` wrote.
        out: a new folder.
        windows: float32 samples of the windows that the ranges of values are taken from.
    """
    import nncf  # type: ignore[import-not-found]
    import openvino  # type: ignore[import-not-found]
    from transformers import WhisperFeatureExtractor

    shutil.copytree(source, out, ignore=shutil.ignore_patterns("openvino_[ed]*coder_model.*"))
    extract: Any = WhisperFeatureExtractor.from_pretrained(source)
    mels = [
        extract(samples, sampling_rate=16_000, return_tensors="np")["input_features"]
        for samples in np.load(windows)
    ]
    core = openvino.Core()
    encoder = nncf.quantize(
        core.read_model(source / "openvino_encoder_model.xml"),
        nncf.Dataset(mels),
        subset_size=len(mels),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=0.5)
        ),
    )
    decoder = nncf.compress_weights(
        core.read_model(source / "openvino_decoder_model.xml"),
        mode=nncf.CompressWeightsMode.INT8_ASYM,
    )
    for network, name in ((encoder, "encoder"), (decoder, "decoder")):
        openvino.save_model(network, out / f"openvino_{name}_model.xml", compress_to_fp16=False)


def to_ctranslate2(source: Path, out: Path) -> None:
    """Convert for faster-whisper; the precision is picked on loading."""
    program = Path(sys.executable).with_name("ct2-transformers-converter")
    files = ["tokenizer.json", "preprocessor_config.json"]
    options = ["--model", source, "--output_dir", out, "--copy_files", *files]
    subprocess.run([program, *options, "--quantization", "float32"], check=True)
    # CTranslate2 writes a config.json of its own, which lacks what the worker asks for.
    own = json.loads((out / CONFIG).read_text())
    own["vocab_size"] = json.loads((source / CONFIG).read_text())["vocab_size"]
    (out / CONFIG).write_text(json.dumps(own))


def to_openai(source: Path, out: Path) -> None:
    """Rename to openai-whisper's checkpoint."""
    import torch
    from safetensors.torch import load_file

    found = load_file(source / "model.safetensors")
    weights = {openai_name(name): w.float() for name, w in found.items() if "proj_out" not in name}
    dims = dict(zip(OPENAI_DIMS, dimensions(source), strict=True))
    out.mkdir()
    torch.save({"dims": dims, "model_state_dict": weights}, out / "model.pt")


OPENAI_DIMS = (
    "n_vocab n_audio_ctx n_audio_state n_audio_head n_audio_layer "
    "n_text_ctx n_text_state n_text_head n_text_layer n_mels"
).split()


def dimensions(source: Path) -> list[int]:
    """Return a model's sizes in the order of ``OPENAI_DIMS``."""
    config = json.loads((source / CONFIG).read_text())
    width = config["d_model"]
    encoder = [width, config["encoder_attention_heads"], config["encoder_layers"]]
    decoder = [width, config["decoder_attention_heads"], config["decoder_layers"]]
    places = config["max_source_positions"], config["max_target_positions"]
    mels = config["num_mel_bins"]
    return [config["vocab_size"], places[0], *encoder, places[1], *decoder, mels]


def openai_name(name: str) -> str:
    """Return openai-whisper's name of a weight.

    >>> openai_name("model.decoder.layers.0.encoder_attn_layer_norm.bias")
    'decoder.blocks.0.cross_attn_ln.bias'
    """
    for theirs, openai in OPENAI_NAMES:
        name = name.replace(theirs, openai)
    return name


GGML_MAGIC = 0x67676D6C
GGML_FLOAT32, GGML_FLOAT16, GGML_Q8 = 0, 1, 8
GGML_MOSTLY_Q8 = 2007  # file type 7, of the second version of ggml's quantised blocks
GGML_BLOCK = 32


def to_ggml(source: Path, out: Path) -> None:
    """Write whisper.cpp's file, products in q8_0 as its ``quantize`` makes them."""
    from safetensors.numpy import load_file
    from transformers import WhisperFeatureExtractor

    extract: Any = WhisperFeatureExtractor.from_pretrained(source)
    filters = np.asarray(extract.mel_filters, np.float32).T
    out.mkdir()
    shutil.copy(source / CONFIG, out)
    with (out / "ggml.bin").open("wb") as file:
        file.write(struct.pack("<12i", GGML_MAGIC, *dimensions(source), GGML_MOSTLY_Q8))
        file.write(struct.pack("<2i", *filters.shape) + np.ascontiguousarray(filters).tobytes())
        words = list(ggml_words(source))
        file.write(struct.pack("<i", len(words)))
        for word in words:
            file.write(struct.pack("<i", len(word)) + word)
        for name, weight in load_file(source / "model.safetensors").items():
            if "proj_out" not in name:
                write_ggml_tensor(file, openai_name(name), weight.astype(np.float32))


def ggml_words(source: Path) -> Iterator[bytes]:
    """Yield the bytes of the ordinary tokens, in order; whisper.cpp knows the special ones."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(256 + number): byte for number, byte in enumerate(others)}
    vocabulary = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    for word, number in sorted(vocabulary.items(), key=lambda item: int(item[1])):
        if word == "<|endoftext|>" or number >= 50257:
            return
        yield bytes(byte_of[letter] for letter in word)


def write_ggml_tensor(file: BinaryIO, name: str, weight: Any) -> None:
    """Write one weight with its header."""
    if name.endswith(("conv1.bias", "conv2.bias")):
        weight = weight[:, None]  # whisper.cpp adds it to (channels, frames)
    kind, body = GGML_FLOAT32, weight.tobytes()
    if weight.ndim == 3:
        kind, body = GGML_FLOAT16, weight.astype(np.float16).tobytes()
    elif weight.ndim == 2 and name.endswith("weight"):
        kind, body = GGML_Q8, q8_blocks(weight)
    file.write(struct.pack("<3i", weight.ndim, len(name), kind))
    file.write(struct.pack(f"<{weight.ndim}i", *reversed(weight.shape)))
    file.write(name.encode() + body)


def q8_blocks(weight: Any) -> bytes:
    """Return blocks of 32 numbers: the float16 scale of each, then its int8 values."""
    blocks = weight.reshape(-1, GGML_BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    values = np.rint(blocks / np.where(scales, scales, 1)).astype(np.int8)
    packed = [scales.astype(np.float16).view(np.uint8), values.view(np.uint8)]
    return np.concatenate(packed, axis=1).tobytes()


def main(arguments: Sequence[str]) -> None:
    """Convert into a folder that appears when it is whole."""
    kind, source, out, *rest = arguments
    unfinished = Path(f"{out}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    if kind == "openvino-int8":
        to_openvino_int8(Path(source), unfinished, Path(rest[0]))
    else:
        makers = {
            "openvino": to_openvino,
            "ctranslate2": to_ctranslate2,
            "openai": to_openai,
            "ggml": to_ggml,
        }
        makers[kind](Path(source), unfinished)
    unfinished.rename(out)


if __name__ == "__main__":
    main(sys.argv[1:])
