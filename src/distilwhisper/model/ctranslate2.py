"""Whisper folders of CTranslate2 (and so of faster-whisper), read without that library.

``model.bin``, little endian throughout::

    u32 binary version            2 to 6
    string spec, u32 revision     "WhisperSpec", up to 3; a string is a u16 length that counts a
                                  closing NUL, then the bytes
    u32 number of variables, each:
        string name
        u8 rank, u32 per dimension
        u8 type                   0 float32, 1 int8, 2 int16, 3 int32, 4 float16, 5 bfloat16
        u32 bytes, the bytes
    u32 number of aliases, each:  from version 3; a string for the alias, one for the variable

Before version 4 the type is the size of one item (4 float32, 2 int16, 1 int8), and the number
after it counts items. An int8 ``NAME`` comes with ``NAME_scale``, one float32 a row, by which it
was multiplied; an int16 one with a single scale. Small facts (heads, activation) are variables of
rank 0. ``config.json`` holds the suppress lists and the alignment heads, ``tokenizer.json`` all
tokens but, mostly, the timestamps.

Against the Hugging Face layout: q, k and v (in cross attention k and v) are one matrix, stacked on
rows; k has a bias of zeros; the projection onto the vocabulary is an alias of the embedding.
``lang_ids`` in ``config.json`` is off by one in English-only models; the tokenizer is right.

Source: OpenNMT/CTranslate2: ``src/models/model.cc``, ``python/ctranslate2/specs``.
"""

import io
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distilwhisper.model.layout import (
    BadCheckpoint,
    ModelFiles,
    files_from_weights,
    read_json_object,
    read_tokenizer_json,
)

_BINARY_VERSIONS = range(2, 7)
MAX_REVISION = 3
DTYPES = dict(
    enumerate((torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16))
)
_DTYPES_BEFORE_4 = {4: torch.float32, 2: torch.int16, 1: torch.int8}

# What the network of this package takes for granted, with the value that it must have.
ATTRIBUTES = {
    "decoder/activation": 3,  # the exact GELU
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/alibi": 0,
    "decoder/start_from_zero_embedding": 0,
}

# Rules of decoding, and where they stand in config.json.
_RULES = {
    "suppress_tokens": "suppress_ids",
    "begin_suppress_tokens": "suppress_ids_begin",
    "alignment_heads": "alignment_heads",
}

EMBEDDING = "decoder/embeddings/weight"
PROJECTION = "decoder/projection/weight"

# Modules and what they become; of more than one, the rows are stacked in this order.
_MODULES: dict[str, tuple[str, ...]] = {
    "conv1": ("conv1",),
    "conv2": ("conv2",),
    "embeddings": ("embed_tokens",),
    "position_encodings": ("embed_positions",),
    "layer_norm": ("layer_norm",),
}
_LAYER_MODULES: dict[str, tuple[str, ...]] = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_WEIGHT_AND_BIAS = {"weight": "weight", "bias": "bias"}
# The parameters of a module by the last part of its name; of all others, weight and bias.
_PARAMETERS = {
    "layer_norm": {"gamma": "weight", "beta": "bias"},
    "position_encodings": {"encodings": "weight"},
}


def stacked_weights(n_layers: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Return which weights each variable holds, one behind the other on rows.

    Returns:
        Hugging Face names by CTranslate2's, of all that a network of these layers may have.
    """
    names: dict[str, tuple[str, ...]] = {}
    for side, n in n_layers.items():
        places = [(side, f"model.{side}", _MODULES)]
        places += [
            (f"{side}/layer_{i}", f"model.{side}.layers.{i}", _LAYER_MODULES) for i in range(n)
        ]
        for theirs, ours, modules in places:
            for module, parts in modules.items():
                kinds = _PARAMETERS.get(module.rpartition("/")[2], _WEIGHT_AND_BIAS)
                for kind, parameter in kinds.items():
                    sources = tuple(f"{ours}.{part}.{parameter}" for part in parts)
                    names[f"{theirs}/{module}/{kind}"] = sources
    return names


def read_ctranslate2(folder: Path, *, tokenizer_json: str | None = None) -> ModelFiles:
    """Read a CTranslate2 Whisper folder as what its Hugging Face folder would hold.

    Weights keep the type that they are stored in; quantised ones become float32.

    A tokenizer that is given is taken instead of the folder's own, which some lack.

    Raises:
        BadCheckpoint: a file is missing, torn, of an unknown version, or of another network.
    """
    path = folder / "model.bin"
    if not path.is_file():
        raise BadCheckpoint(f"{folder}: no model.bin in this folder")
    variables = read_variables(path)
    heads = _read_attributes(variables, path)
    weights = _to_hugging_face(variables, path)
    config = read_json_object(folder / "config.json")
    return files_from_weights(
        weights,
        tokenizer_json or read_tokenizer_json(folder),
        {ours: config[theirs] for ours, theirs in _RULES.items() if config.get(theirs)},
        heads=heads,
        where=folder,
    )


# The file


@dataclass(frozen=True)
class _Cursor:
    """Reads one value after the other; every fault names the path and the offset."""

    path: Path
    file: io.BufferedReader
    size_bytes: int

    def reserve(self, n_bytes: int, what: str) -> None:
        left = self.size_bytes - self.file.tell()
        if n_bytes > left:
            raise self.fault(f"truncated: {what} takes {n_bytes} bytes, {left} are left")

    def number(self, code: str, what: str) -> int:
        n_bytes = struct.calcsize(code)
        self.reserve(n_bytes, what)
        return int(struct.unpack("<" + code, self.file.read(n_bytes))[0])

    def string(self, what: str) -> str:
        n_bytes = self.number("H", f"the length of {what}")
        self.reserve(n_bytes, what)
        raw = self.file.read(n_bytes)
        try:
            return raw.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise self.fault(f"{what} must be UTF-8, found {raw[:40]!r}") from None

    def tensor(self, n_bytes: int, dtype: torch.dtype, what: str) -> Tensor:
        self.reserve(n_bytes, what)
        content = torch.empty(n_bytes, dtype=torch.uint8)
        self.file.readinto(content.numpy().data)
        return content.view(dtype)

    def fault(self, message: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path}, offset {self.file.tell()}: {message}")


def read_variables(path: Path) -> dict[str, Tensor]:
    """Return the variables of a ``model.bin`` by name, aliases among them, int8 still int8.

    Raises:
        BadCheckpoint: the file is not a whole Whisper model of a known version.
    """
    with path.open("rb") as file:
        return _parse(_Cursor(path, file, os.fstat(file.fileno()).st_size))


def _parse(cursor: _Cursor) -> dict[str, Tensor]:
    version = cursor.number("I", "the binary version")
    if version not in _BINARY_VERSIONS:
        raise cursor.fault(
            f"the binary version must be {_BINARY_VERSIONS[0]} to {_BINARY_VERSIONS[-1]}, "
            f"found {version}; is this a CTranslate2 model?"
        )
    spec = cursor.string("the spec")
    if spec != "WhisperSpec":
        raise cursor.fault(f"the spec must be WhisperSpec, found {spec!r}")
    revision = cursor.number("I", "the revision")
    if revision > MAX_REVISION:
        raise cursor.fault(f"the revision must be at most {MAX_REVISION}, found {revision}")
    variables: dict[str, Tensor] = {}
    for _ in range(cursor.number("I", "the number of variables")):
        name = cursor.string("the name of a variable")
        variables[name] = _parse_variable(cursor, name, version)
    if version >= 3:
        _parse_aliases(cursor, variables)
    if left := cursor.size_bytes - cursor.file.tell():
        raise cursor.fault(f"the file must end here, found {left} more bytes")
    return variables


def _parse_variable(cursor: _Cursor, name: str, version: int) -> Tensor:
    rank = cursor.number("B", f"the rank of {name}")
    shape = tuple(cursor.number("I", f"a dimension of {name}") for _ in range(rank))
    dtypes = DTYPES if version >= 4 else _DTYPES_BEFORE_4
    code = cursor.number("B", f"the type of {name}")
    if code not in dtypes:
        raise cursor.fault(f"the type of {name} must be one of {sorted(dtypes)}, found {code}")
    dtype = dtypes[code]
    size = cursor.number("I", f"the size of {name}")
    n_bytes = size if version >= 4 else size * dtype.itemsize
    if n_bytes != math.prod(shape) * dtype.itemsize:
        raise cursor.fault(
            f"{name} of shape {shape} and type {dtype} must take "
            f"{math.prod(shape) * dtype.itemsize} bytes, found {n_bytes}"
        )
    return cursor.tensor(n_bytes, dtype, name).reshape(shape)


def _parse_aliases(cursor: _Cursor, variables: dict[str, Tensor]) -> None:
    for _ in range(cursor.number("I", "the number of aliases")):
        alias, name = cursor.string("an alias"), cursor.string("the target of an alias")
        if name not in variables:
            raise cursor.fault(f"alias {alias} stands for {name}, which is not in the file")
        variables[alias] = variables[name]
        if (scale := f"{name}_scale") in variables:
            variables[f"{alias}_scale"] = variables[scale]


# The names


def _read_attributes(variables: dict[str, Tensor], path: Path) -> tuple[int, int]:
    """Return the heads of encoder and decoder; refuse what this package's network is not."""
    for name, wanted in ATTRIBUTES.items():
        if name in variables and variables[name].item() != wanted:
            raise BadCheckpoint(f"{path}: {name} must be {wanted}, found {variables[name].item()}")
    if "encoder/num_heads" not in variables:
        raise BadCheckpoint(f"{path}: no variable encoder/num_heads")
    encoder_heads = variables["encoder/num_heads"]
    return int(encoder_heads), int(variables.get("decoder/num_heads", encoder_heads))


def _to_hugging_face(variables: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights under Hugging Face names; every variable with axes is used or refused."""
    if EMBEDDING not in variables:
        raise BadCheckpoint(f"{path}: no variable {EMBEDDING}")
    if variables.get(PROJECTION, variables[EMBEDDING]) is not variables[EMBEDDING]:
        raise BadCheckpoint(f"{path}: {PROJECTION} must be an alias of {EMBEDDING}")
    n_layers = {
        side: len({n.split("/")[1] for n in variables if re.match(rf"{side}/layer_\d", n)})
        for side in ("encoder", "decoder")
    }
    names = stacked_weights(n_layers)
    weights: dict[str, Tensor] = {}
    for name, variable in variables.items():
        if variable.ndim == 0 or name.endswith("_scale") or name == PROJECTION:
            continue
        targets = names.get(name)
        if targets is None:
            raise BadCheckpoint(f"{path}: variable {name} belongs to no Whisper network")
        rows = _dequantise(name, variables, path)
        if len(rows) % len(targets):
            raise BadCheckpoint(
                f"{path}: {name} must stack {len(targets)} matrices, found {len(rows)} rows"
            )
        # Copies, since safetensors refuses two tensors in one piece of memory.
        weights |= {
            target: part.clone()
            for target, part in zip(targets, rows.chunk(len(targets)), strict=True)
        }
    return _without_key_biases(weights, path)


def _dequantise(name: str, variables: dict[str, Tensor], path: Path) -> Tensor:
    variable = variables[name]
    if variable.is_floating_point():
        return variable
    scale = variables.get(f"{name}_scale")
    if scale is None:
        raise BadCheckpoint(f"{path}: no variable {name}_scale for the {variable.dtype} {name}")
    if scale.numel() not in (1, len(variable)):
        raise BadCheckpoint(
            f"{path}: {name}_scale must hold 1 or {len(variable)} numbers, found {scale.numel()}"
        )
    return variable.float() / scale.float().reshape(-1, *[1] * (variable.ndim - 1))


def _without_key_biases(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    for name in [name for name in weights if name.endswith(".k_proj.bias")]:
        largest = weights.pop(name).abs().max().item()
        if largest != 0:
            raise BadCheckpoint(
                f"{path}: {name} must be zero, since Whisper has no such bias; found {largest:g}"
            )
    return weights
