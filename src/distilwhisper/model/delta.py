"""A student as what it learnt: only the weights in which it differs from its teacher.

    DELTA/delta.safetensors       those weights; its metadata names the teacher
    DELTA/config.json             the student's sizes
    DELTA/generation_config.json  its token ids and alignment heads

A frozen encoder and frozen embeddings are the teacher's own. A matrix that was trained is stored
as its difference from the nearest of the teacher's (that of the layer it began as), in int8 with a
scale for each row: at most half the error of weights in int8, for a difference is smaller. What
else was trained is stored in float16. So two decoder layers of whisper-base take 9 MB. The teacher
is known by its name and by a digest of its weights: a delta that is put on top of any other
weights is another model, and is refused.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from distilwhisper.files import new_folder, require_new
from distilwhisper.model.layout import (
    BadCheckpoint,
    ModelFiles,
    check_weights,
    network_sizes,
    read_json_object,
    read_model_folder,
    write_model_folder,
    write_weights,
)
from distilwhisper.model.whisper import WhisperConfig

DELTA_FILE = "delta.safetensors"
_TEACHER, _DIGEST, _BASES = "teacher", "teacher_digest", "bases"  # keys of its metadata
_SCALE = ".scale"  # after a matrix's name: what one step of its int8 differences is worth, a row
_CONFIGS = ("config.json", "generation_config.json")
_AGAIN = "fetch it again, or make the delta again"


def is_delta(folder: Path) -> bool:
    """Return whether a folder holds a student as the difference from its teacher."""
    return (folder / DELTA_FILE).is_file()


def write_delta(
    student: str | PathLike[str],
    teacher: str | PathLike[str],
    dest: str | PathLike[str],
    *,
    teacher_name: str,
) -> int:
    """Write a student as the weights in which it differs from its teacher; return their bytes.

    Both are Hugging Face model folders. ``dest``, which is new or empty, appears whole, by rename;
    ``teacher_name`` is what :func:`~distilwhisper.model.hub.resolve_model` finds the teacher by.

    Raises:
        BadCheckpoint: one of the models is incomplete; or the two share no weights.
        FileExistsError: ``dest`` holds something.
    """
    student, teacher, dest = Path(student), Path(teacher), Path(dest)
    require_new(dest)
    ours, theirs = read_model_folder(student), read_model_folder(teacher)
    changed = {
        name: weight.to(torch.float32)
        for name, weight in ours.weights.items()
        if name not in theirs.weights
        or not torch.equal(weight.to(torch.float32), theirs.weights[name].to(torch.float32))
    }
    if len(changed) == len(ours.weights):
        raise BadCheckpoint(
            f"{student}: must share weights with its teacher, and shares none with {teacher}: "
            "name the model it was made from, or keep it as a whole model folder"
        )
    bases: dict[str, str] = {}
    stored: dict[str, Tensor] = {}
    for name, weight in changed.items():
        if (base := _nearest(name, weight, theirs.weights)) is None:
            stored[name] = weight.to(torch.float16).contiguous()
            continue
        bases[name] = base
        difference = weight - theirs.weights[base].to(torch.float32)
        step = difference.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        stored[name], stored[name + _SCALE] = (difference / step).round().to(torch.int8), step
    digest = weights_digest(theirs.weights)
    metadata = {_TEACHER: teacher_name, _DIGEST: digest, _BASES: json.dumps(bases)}
    with new_folder(dest) as unfinished:
        write_weights(unfinished / DELTA_FILE, stored, metadata)
        for name, value in zip(_CONFIGS, (ours.config, ours.generation_config), strict=True):
            (unfinished / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        if (student / "README.md").is_file():
            shutil.copyfile(student / "README.md", unfinished / "README.md")
    return sum(weight.nbytes for weight in stored.values())


def complete_delta(folder: Path, cache: Path, find_teacher: Callable[[str], Path]) -> Path:
    """Return the folder of a delta's whole model, which is written on first use, in float32.

    The cache keeps whole models by names that only their files have. ``find_teacher`` returns the
    folder of a model of some name.

    Raises:
        BadCheckpoint: the teacher has other weights than the delta was made with, or a file of
            either is missing or broken.
    """
    digest = hashlib.sha256()
    for name in (DELTA_FILE, *_CONFIGS):
        with contextlib.suppress(FileNotFoundError):  # read_json_object names what is missing
            digest.update((folder / name).read_bytes())
    dest = cache / f"{folder.resolve().name}-{digest.hexdigest()[:12]}"
    if dest.is_dir():
        return dest
    metadata = _read_metadata(folder)
    teacher = find_teacher(metadata[_TEACHER])
    theirs = read_model_folder(teacher)
    found = weights_digest(theirs.weights)
    if found != metadata[_DIGEST]:
        raise BadCheckpoint(
            f"{folder}: made for {metadata[_TEACHER]} with weights of digest {metadata[_DIGEST]}, "
            f"found {found} in {teacher}: the teacher has changed, or is another model; take the "
            "one that the delta was made with, or make the delta again"
        )
    config, rules = (read_json_object(folder / name) for name in _CONFIGS)
    sizes = network_sizes(config, where=folder)
    weights = load_file(folder / DELTA_FILE)
    try:
        for name, base in json.loads(metadata[_BASES]).items():
            difference = weights[name] * weights.pop(name + _SCALE)
            weights[name] = theirs.weights[base].to(torch.float32) + difference
    except KeyError as error:
        raise BadCheckpoint(f"{folder}: {DELTA_FILE} lacks {error}: {_AGAIN}") from error
    except (AttributeError, ValueError) as error:
        raise BadCheckpoint(
            f"{folder}: {DELTA_FILE}: its metadata must name the matrices that it adds to, found "
            f"something else ({error}): {_AGAIN}"
        ) from error
    kept = {name: w for name, w in theirs.weights.items() if _is_within(name, sizes)}
    weights = {**kept, **weights}
    check_weights(weights, config, where=folder)
    files = ModelFiles(config, rules, weights, theirs.tokenizer_json)
    with contextlib.suppress(FileExistsError):  # another process was faster
        write_model_folder(dest, files, dtype=torch.float32)
    return dest


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of a model's weights as float16, in which Whisper was published.

    So a model has one digest in whichever format it came. The encoder's positions are a formula,
    and are left out.
    """
    digest = hashlib.sha256()
    for name in sorted(weights.keys() - {"model.encoder.embed_positions.weight"}):
        weight = weights[name].to("cpu", torch.float16).contiguous()
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(weight.numpy().data)
    return digest.hexdigest()[:32]


def _nearest(name: str, weight: Tensor, theirs: Mapping[str, Tensor]) -> str | None:
    """Return which of the teacher's matrices, in the same place of any layer, is the nearest."""
    place = _place(name)
    found = [n for n, w in theirs.items() if _place(n) == place and w.shape == weight.shape]
    if weight.dim() != 2 or not found:
        return None
    return min(found, key=lambda base: float((weight - theirs[base].to(torch.float32)).norm()))


def _place(name: str) -> str:
    return re.sub(r"\.layers\.\d+\.", ".layers.*.", name)


def _is_within(name: str, sizes: WhisperConfig) -> bool:
    """Return whether a model of some sizes has a weight of the teacher's name."""
    _, side, kind, number, *_ = name.split(".")
    n_layers: int = getattr(sizes, f"{side}_layers")
    return kind != "layers" or int(number) < n_layers


def _read_metadata(folder: Path) -> dict[str, str]:
    path = folder / DELTA_FILE
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise BadCheckpoint(f"{path}: not a safetensors file ({error}): {_AGAIN}") from error
    if not {_TEACHER, _DIGEST, _BASES} <= metadata.keys():
        raise BadCheckpoint(
            f"{path}: must name its teacher, the digest of the teacher's weights and the matrices "
            f"that it adds to, found {sorted(metadata) or 'no metadata'}: {_AGAIN}"
        )
    return metadata
