"""To whisper.cpp: one ``ggml-model.bin``, as its own converter and quantiser write it.

Little endian throughout::

    u32 magic                     0x67676d6c
    10 x i32, i32                 the sizes, and the type of the matrices
    i32 n_mels, i32 201           the mel filters, float32
    i32 number of text tokens, each:  i32 bytes, the bytes
    weights by OpenAI's names, each:
        i32 rank, i32 bytes of the name, i32 type
        i32 per dimension, the last one first
        the name, the values

Matrices are in the type that is asked for, the convolutions in float16, vectors and positions in
float32. Special tokens are in no list: whisper.cpp knows them by the size of the vocabulary.

Source: ggml-org/whisper.cpp: ``models/convert-h5-to-ggml.py``, ``examples/common-ggml.cpp``;
``ggml/src/ggml-quants.c``, ``quantize_row_q8_0_ref`` and ``quantize_row_q5_0_ref``.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.layout import BadCheckpoint, ModelFiles
from distilwhisper.model.openai import check_conventions, dims_of, openai_name
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import mel_filters
from distilwhisper.text.tokens import Tokenizer

LIBRARY = "whisper.cpp"
CHECKED_BY = ("pywhispercpp", "pywhispercpp")
EXAMPLE = """\
```sh
whisper-cli -m path/to/this/folder/ggml-model.bin -f talk.wav
```
"""

FILE = "ggml-model.bin"
BLOCK = 32  # values of a row that share a scale

_MAGIC = 0x67676D6C
_QUANTISED = 2000  # the version of ggml's blocks, times 1,000
# The type of the file, and of its matrices.
_TYPES = {"float16": (1, 1), "q8_0": (_QUANTISED + 7, 8), "q5_0": (_QUANTISED + 8, 6)}
_FLOAT32, _FLOAT16 = 0, 1
_LARGE_V3_VOCAB_SIZE = 51_866

Values = npt.NDArray[np.float32]


def write(files: ModelFiles, folder: Path, settings: ExportSettings, *, where: Path) -> list[str]:
    """Write ``ggml-model.bin``; return what whisper.cpp does not do with it."""
    check_conventions(files, where=where)
    config = files.config
    if settings.written_dtype != "float16" and config["d_model"] % BLOCK:
        raise BadCheckpoint(
            f"{where}: d_model must be a multiple of {BLOCK} for {settings.written_dtype}, found "
            f"{config['d_model']}: take dtype float16"
        )
    if settings.third_layer:
        files = with_idle_layer(files)
    dims = dims_of(files)
    n_vocab, n_mels = dims.pop("n_vocab"), dims.pop("n_mels")
    file_type, matrix_type = _TYPES[settings.written_dtype]
    filters = mel_filters(n_mels).astype("<f4")
    tokens = Tokenizer.from_json(files.tokenizer_json, where=where).text_tokens()
    with (folder / FILE).open("wb") as file:
        file.write(struct.pack("<I11i", _MAGIC, n_vocab, *dims.values(), n_mels, file_type))
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", len(tokens)))
        file.writelines(struct.pack("<i", len(token)) + token for token in tokens)
        for name, weight in files.weights.items():
            file.write(_tensor(openai_name(name), weight.float().numpy(), matrix_type))
    if config["decoder_layers"] != 2 or n_vocab == _LARGE_V3_VOCAB_SIZE or settings.third_layer:
        return []
    return [
        "whisper.cpp takes every model with two decoder layers and a vocabulary other than "
        "large-v3's for one that cannot write timestamps, and gives each window as one segment. "
        "Export it with --third-layer, which adds a layer that changes nothing, or distil a "
        "student of three layers."
    ]


def recogniser(folder: Path, files: ModelFiles) -> Callable[[Samples, str], str]:
    """Return the exported model at work, through whisper.cpp on the CPU."""
    from pywhispercpp.model import Model

    model = Model(
        str(folder / FILE),
        n_threads=torch.get_num_threads(),
        no_timestamps=True,
        no_context=True,
        suppress_nst=True,
        temperature_inc=0.0,
        greedy={"best_of": 1},
        print_progress=False,
        redirect_whispercpp_logs_to=None,
    )
    return lambda samples, language: "".join(
        segment.text for segment in model.transcribe(samples, language=language)
    )


def with_idle_layer(files: ModelFiles) -> ModelFiles:
    """Return a model with one more decoder layer, which adds nothing to what comes in."""
    n_layers = files.config["decoder_layers"]
    adds = re.compile(r"\.((self|encoder)_attn\.out_proj|fc2)\.")  # to the states that came in
    last, idle = (f"model.decoder.layers.{index}." for index in (n_layers - 1, n_layers))
    copies = {
        idle + name.removeprefix(last): torch.zeros_like(w) if adds.search(name) else w
        for name, w in files.weights.items()
        if name.startswith(last)
    }
    config = {**files.config, "decoder_layers": n_layers + 1}
    return replace(files, config=config, weights={**files.weights, **copies})


def _tensor(name: str, values: Values, matrix_type: int) -> bytes:
    """Return a weight as the file holds it."""
    kind, shape = matrix_type, values.shape
    content: npt.NDArray[Any]
    if name.endswith("positional_embedding") or values.ndim == 1:
        kind, content = _FLOAT32, values.astype("<f4")
    elif values.ndim == 3 or matrix_type == _FLOAT16:
        kind, content = _FLOAT16, values.astype("<f2")
    else:
        quantised = q8_0 if matrix_type == _TYPES["q8_0"][1] else q5_0
        content = quantised(values.reshape(-1, BLOCK))
    if name.startswith("encoder.conv") and values.ndim == 1:
        shape = (*shape, 1)  # the biases of the convolutions are added to rows
    raw = name.encode()
    head = struct.pack(f"<3i{len(shape)}i", len(shape), len(raw), kind, *reversed(shape))
    return head + raw + content.tobytes()


def q8_0(blocks: Values) -> npt.NDArray[np.uint8]:
    """Return blocks of 32 values in 34 bytes each: a float16 scale, then 32 of 8 bits."""
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    whole = np.rint(blocks * _inverse(scale)).astype(np.int8)
    return np.concatenate([_float16_bytes(scale), whole.view(np.uint8)], axis=1)


def q5_0(blocks: Values) -> npt.NDArray[np.uint8]:
    """Return blocks of 32 values in 22 bytes each.

    A float16 scale, the fifth bits of all values, then their lower four bits: those of the first
    half in the lower half of each byte.
    """
    at = np.abs(blocks).argmax(axis=1)[:, None]
    scale: Values = np.take_along_axis(blocks, at, axis=1) / np.float32(-16)
    whole = np.minimum(np.trunc(blocks * _inverse(scale) + 16.5), 31).astype(np.uint8)
    fifth = np.packbits(whole >> 4, axis=1, bitorder="little")
    lower = (whole[:, : BLOCK // 2] & 15) | ((whole[:, BLOCK // 2 :] & 15) << 4)
    return np.concatenate([_float16_bytes(scale), fifth, lower], axis=1)


def _inverse(scale: Values) -> Values:
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def _float16_bytes(scale: Values) -> npt.NDArray[np.uint8]:
    return scale.astype("<f2").view(np.uint8)
