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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distilwhisper.model.layout import (
    WEIGHT_NAMES,
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


def stacked_weights(n_layers: Mapping[str, int]) -> dict[str, list[str]]:
    """Return which weights each variable holds, one behind the other on rows.

    By CTranslate2's names, those of Hugging Face, of all that a network of these layers may have.
    """
    names: dict[str, list[str]] = {}
    for ours, _, theirs in WEIGHT_NAMES:
        n = n_layers[theirs.partition("/")[0]] if "*" in theirs else 1
        for number in map(str, range(n)):
            names.setdefault(theirs.replace("*", number), []).append(ours.replace("*", number))
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
    rules = {ours: config[theirs] for ours, theirs in _RULES.items() if config.get(theirs)}
    tokenizer_json = tokenizer_json or read_tokenizer_json(folder)
    return files_from_weights(weights, tokenizer_json, rules, heads=heads, where=folder)


# The file


@dataclass(frozen=True)
class _Cursor:
    """Reads one value after the other; every fault names the path and the offset."""

    path: Path
    file: io.BufferedReader
    size_bytes: int

    def take(self, n_bytes: int, what: str) -> Tensor:
        left = self.size_bytes - self.file.tell()
        if n_bytes > left:
            raise self.fault(f"truncated: {what} takes {n_bytes} bytes, {left} are left")
        content = torch.empty(n_bytes, dtype=torch.uint8)
        self.file.readinto(content.numpy().data)
        return content

    def number(self, n_bytes: int, what: str) -> int:
        return int.from_bytes(self.take(n_bytes, what).numpy().data, "little")

    def string(self, what: str) -> str:
        n_bytes = self.number(2, f"the length of {what}")
        raw = self.take(n_bytes, what).numpy().tobytes()
        try:
            return raw.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise self.fault(f"{what} must be UTF-8, found {raw[:40]!r}") from None

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
    version = cursor.number(4, "the binary version")
    if version not in _BINARY_VERSIONS:
        raise cursor.fault(
            f"the binary version must be {_BINARY_VERSIONS[0]} to {_BINARY_VERSIONS[-1]}, "
            f"found {version}; is this a CTranslate2 model?"
        )
    spec = cursor.string("the spec")
    if spec != "WhisperSpec":
        raise cursor.fault(f"the spec must be WhisperSpec, found {spec!r}")
    revision = cursor.number(4, "the revision")
    if revision > MAX_REVISION:
        raise cursor.fault(f"the revision must be at most {MAX_REVISION}, found {revision}")
    variables: dict[str, Tensor] = {}
    for _ in range(cursor.number(4, "the number of variables")):
        name = cursor.string("the name of a variable")
        variables[name] = _parse_variable(cursor, name, version)
    for _ in range(cursor.number(4, "the number of aliases") if version >= 3 else 0):
        alias, name = cursor.string("an alias"), cursor.string("the target of an alias")
        if name not in variables:
            raise cursor.fault(f"alias {alias} stands for {name}, which is not in the file")
        for suffix in ("", "_scale"):
            if name + suffix in variables:
                variables[alias + suffix] = variables[name + suffix]
    if left := cursor.size_bytes - cursor.file.tell():
        raise cursor.fault(f"the file must end here, found {left} more bytes")
    return variables


def _parse_variable(cursor: _Cursor, name: str, version: int) -> Tensor:
    rank = cursor.number(1, f"the rank of {name}")
    shape = tuple(cursor.number(4, f"a dimension of {name}") for _ in range(rank))
    dtypes = DTYPES if version >= 4 else _DTYPES_BEFORE_4
    code = cursor.number(1, f"the type of {name}")
    if code not in dtypes:
        raise cursor.fault(f"the type of {name} must be one of {sorted(dtypes)}, found {code}")
    dtype = dtypes[code]
    wanted = math.prod(shape) * dtype.itemsize
    n_bytes = cursor.number(4, f"the size of {name}") * (1 if version >= 4 else dtype.itemsize)
    if n_bytes != wanted:
        raise cursor.fault(f"{name}: {dtype} of shape {shape} is {wanted} bytes, found {n_bytes}")
    return cursor.take(n_bytes, name).view(dtype).reshape(shape)


# The names


def _read_attributes(variables: dict[str, Tensor], path: Path) -> tuple[int, int]:
    """Return the heads of encoder and decoder; refuse what this package's network is not."""
    for name in (EMBEDDING, "encoder/num_heads"):
        if name not in variables:
            raise BadCheckpoint(f"{path}: no variable {name}")
    for name, wanted in ATTRIBUTES.items():
        if name in variables and variables[name].item() != wanted:
            raise BadCheckpoint(f"{path}: {name} must be {wanted}, found {variables[name].item()}")
    encoder_heads = variables["encoder/num_heads"]
    return int(encoder_heads), int(variables.get("decoder/num_heads", encoder_heads))


def _to_hugging_face(variables: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights under Hugging Face names; every variable with axes is used or refused."""
    embedding = variables[EMBEDDING]
    if variables.get(PROJECTION, embedding) is not embedding:
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
        parts = (part.clone() for part in rows.chunk(len(targets)))
        weights |= zip(targets, parts, strict=True)
    for name in [name for name in weights if name.endswith(".k_proj.bias")]:
        if largest := weights.pop(name).abs().max().item():
            raise BadCheckpoint(f"{path}: {name} must be zero, Whisper has none, found {largest:g}")
    return weights


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
