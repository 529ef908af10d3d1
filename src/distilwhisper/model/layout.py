"""A model folder in the Hugging Face layout, read and written exactly.

This layout is the one that the whole package works on. Two others carry the same network:

=================  ==============================  ==============================================
                   Hugging Face folder             what the others do
=================  ==============================  ==============================================
names              ``model.decoder.layers.0.fc1``  ``weights.tsv``
attention          one matrix each for q, k, v     CTranslate2 stacks them on rows, and gives k
                                                   the bias (of zeros) that Whisper leaves out
output projection  tied to the embedding; some     OpenAI never stores it; CTranslate2 stores an
                   files repeat it                 alias
sizes              ``config.json``                 OpenAI: ``dims``; CTranslate2: the shapes, and
                                                   the number of heads beside the weights
decoding rules     ``generation_config.json``      OpenAI: in its code; CTranslate2: ``config.json``
tokenizer          ``tokenizer.json``, timestamps  OpenAI: in its package; CTranslate2: the same
                   among the added tokens          file, often without the timestamps
=================  ==============================  ==============================================

Their readers (:mod:`~distilwhisper.model.openai`, :mod:`~distilwhisper.model.ctranslate2`) return
:class:`ModelFiles`, as :func:`read_model_folder` does, so that nothing behind them knows where a
model came from.
"""

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distilwhisper.errors import DistilwhisperError
from distilwhisper.files import new_folder, store_error
from distilwhisper.model.hardware import dtype_name
from distilwhisper.model.whisper import Whisper, WhisperConfig

N_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|> in steps of 0.02 s
MULTILINGUAL_VOCAB_SIZE = 51_865  # smaller ones are English only: openai/whisper: whisper/model.py

_FOLDER = resources.files("distilwhisper.model")
# The names of every weight here, at OpenAI and at CTranslate2; a star for the layer's number.
WEIGHT_NAMES = [
    line.split("\t") for line in (_FOLDER / "weights.tsv").read_text("utf-8").splitlines()[1:]
]
# What the files of all Whisper models have in common.
TEMPLATES: dict[str, Any] = json.loads((_FOLDER / "templates.json").read_text("utf-8"))

_EMBEDDING = "model.decoder.embed_tokens.weight"
_TIED_PROJECTION = "proj_out.weight"
# Rules of decoding that hold ids.
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_FIRST_TIMESTAMP = "max_initial_timestamp_index"  # at the latest; counted from <|0.00|>
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")

LIGHTNING_HINT = (
    "a Lightning checkpoint holds its trainer's state too: load it in the code that made it, save "
    "the model in it by save_pretrained, and import that folder"
)
# Weight files by preference: some repositories hold the same weights twice, the second time in
# float32 and twice the size.
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.fp32.safetensors",
    "model.safetensors.index.fp32.json",
)


class BadCheckpoint(DistilwhisperError):
    """A model on disk is incomplete, broken, or not the model it says it is."""


@dataclass(frozen=True)
class ModelFiles:
    """What a Hugging Face Whisper folder holds."""

    config: dict[str, Any]
    generation_config: dict[str, Any]
    weights: dict[str, Tensor]  # "model." names; the tied "proj_out.weight" is left out
    tokenizer_json: str  # the whole text of tokenizer.json


# Reading


def read_model_folder(folder: Path) -> ModelFiles:
    """Read a Whisper model in the Hugging Face layout.

    Weights come from safetensors, single or sharded, else from ``pytorch_model.bin``, in the type
    they are stored in. What older folders lack is made from what they have: ``tokenizer.json``
    from ``vocab.json`` and ``merges.txt``, timestamp tokens, and the token ids of
    ``generation_config.json``.

    Raises:
        BadCheckpoint: a piece is missing or broken, the weights do not fit ``config.json``, or
            the output projection is not the embedding.
    """
    if not folder.is_dir():
        raise BadCheckpoint(f"{folder}: no such folder")
    config = read_json_object(folder / "config.json")
    weights = unwrapped(_read_weights(folder), "model.encoder.conv1.weight", where=folder)
    _drop_tied_projection(weights, where=folder)
    check_weights(weights, config, where=folder)
    tokenizer_json = read_complete_tokenizer(folder)
    if (folder / "generation_config.json").is_file():
        rules = read_json_object(folder / "generation_config.json")
    else:  # folders from before 2023 keep the lists in config.json
        rules = {key: config[key] for key in _SUPPRESSED if config.get(key) is not None}
    rules = _with_token_ids(rules, tokenizer_json, config, folder)
    return ModelFiles(config, rules, weights, tokenizer_json)


def require_whole(*folders: Path) -> None:
    """Read models and keep nothing: of one that is damaged :func:`read_model_folder` raises."""
    for folder in folders:
        read_model_folder(folder)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        BadCheckpoint: there is no such file, or it holds anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadCheckpoint(f"{path.parent}: no {path.name} in this folder") from None
    except ValueError as error:
        raise BadCheckpoint(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path}: must hold a JSON object, found {type(value).__name__}")
    return value


def read_tokenizer_json(folder: Path) -> str:
    """Return the text of ``tokenizer.json``, made from ``vocab.json`` where only that exists.

    Folders saved by the slow tokenizer of older transformers hold the vocabulary, the merges and
    the added tokens in three files.

    Raises:
        BadCheckpoint: the folder has neither, or the file holds something else.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        TokenIds(read_json_object(path), path)
        return path.read_text(encoding="utf-8")
    if not (folder / "vocab.json").is_file() or not (folder / "merges.txt").is_file():
        raise BadCheckpoint(
            f"{folder}: no tokenizer.json, nor vocab.json with merges.txt to make it from; "
            "copy tokenizer.json from the model that this one was trained from"
        )
    vocab = read_json_object(folder / "vocab.json")
    added = read_json_object(folder / "added_tokens.json")
    if "<|endoftext|>" in vocab:
        added["<|endoftext|>"] = vocab["<|endoftext|>"]
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    template = TEMPLATES["tokenizer.json"]
    tokenizer = {
        **template,
        "added_tokens": [_added_token(*pair) for pair in sorted(added.items(), key=lambda p: p[1])],
        "model": {**template["model"], "vocab": vocab, "merges": merges},
    }
    return json.dumps(tokenizer, ensure_ascii=False)


def read_complete_tokenizer(folder: Path) -> str:
    """Return what :func:`read_model_folder` reads of the tokenizer, without reading the weights.

    Raises:
        BadCheckpoint: ``config.json`` or the tokenizer is missing or broken.
    """
    sizes = network_sizes(read_json_object(folder / "config.json"), where=folder)
    tokenizer_json = read_tokenizer_json(folder)
    return complete_timestamps(tokenizer_json, vocab_size=sizes.vocab_size, where=folder)


def _added_token(token: str, token_id: int) -> dict[str, Any]:
    # Timestamps are added but not special: transformers takes the id behind the last special
    # token for <|0.00|>, and so needs every other one to be special.
    is_special = _TIMESTAMP.fullmatch(token) is None
    return {"id": token_id, "content": token, **TEMPLATES["added token"], "special": is_special}


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise BadCheckpoint(
            f"{folder}: no weights; looked for {', '.join(_WEIGHT_FILES)}. A CTranslate2 folder or "
            "an OpenAI .pt file is converted by: distilwhisper import SOURCE DEST"
        )
    if path.suffix != ".json":
        return _load_tensors(path)
    shards = read_json_object(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise BadCheckpoint(f"{path}: must hold a weight_map, the file of each weight")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        weights |= _load_tensors(folder / shard)
    return weights


def unwrapped(weights: Mapping[str, Tensor], anchor: str, *, where: Path) -> dict[str, Tensor]:
    """Return weights by the names that they have without what they were trained in.

    Data parallel training, torch.compile, PEFT and Lightning put a prefix before every name: what
    stands before the ``anchor``, the plain name of a weight that every model has.

    Raises:
        BadCheckpoint: weights of an adapter are beside those of the model, not in them.
    """
    if any(part in name for name in weights for part in (".lora_", ".base_layer.")):
        raise BadCheckpoint(
            f"{where}: an adapter (LoRA) must be merged into its model, found its weights beside "
            "the model's: merge it with peft (merge_and_unload, then save_pretrained)"
        )
    prefix = next((name.removesuffix(anchor) for name in weights if name.endswith(anchor)), "")
    return {name.removeprefix(prefix): weight for name, weight in weights.items()}


def _load_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BadCheckpoint(f"{path}: this shard is missing; download the folder again")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise BadCheckpoint(f"{path}: not a whole safetensors file: {error}") from error
    loaded = load_pickle(path)
    if not is_state_dict(loaded):
        raise BadCheckpoint(f"{path}: must hold tensors by name and nothing else")
    return loaded


def is_state_dict(found: object) -> TypeGuard[dict[str, Tensor]]:
    """Return whether an object holds tensors by name and nothing else."""
    return isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in found.items()
    )


def load_pickle(path: Path) -> dict[str, Any]:
    """Return the dict that torch saved in a file, refusing to run any code in it.

    Raises:
        BadCheckpoint: the file is torn, holds no dict, or asks for more than plain tensors.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        hint = f"; {LIGHTNING_HINT}" if path.suffix == ".ckpt" else ""
        raise BadCheckpoint(f"{path}: not a whole file of plain tensors: {reason}{hint}") from error
    if not isinstance(loaded, dict):
        raise BadCheckpoint(f"{path}: must hold a dict, found {type(loaded).__name__}")
    return loaded


def _drop_tied_projection(weights: dict[str, Tensor], *, where: Path) -> None:
    projection, embedding = weights.pop(_TIED_PROJECTION, None), weights.get(_EMBEDDING)
    if projection is None or embedding is None or torch.equal(projection, embedding):
        return
    found = f"shapes {tuple(projection.shape)} and {tuple(embedding.shape)}"
    if projection.shape == embedding.shape:
        difference = (projection.float() - embedding.float()).abs().max().item()
        found = f"they differ by up to {difference:g}"
    raise BadCheckpoint(
        f"{where}: {_TIED_PROJECTION} must equal {_EMBEDDING}, as in every Whisper model; {found}. "
        "A model trained with an untied projection cannot be loaded: tie them, and train again"
    )


def check_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any], *, where: Path) -> None:
    """Check that the weights are those of the network in ``config``: names and shapes.

    Raises:
        BadCheckpoint: they are not, or the config describes no Whisper network.
    """
    network = empty_network(network_sizes(config, where=where))
    wanted = {name: tuple(weight.shape) for name, weight in network.named_weights()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    faults = [f"no {name}" for name in wanted if name not in found]
    faults += [f"unknown {name}" for name in found if name not in wanted]
    misshapen = [n for n in wanted if n in found and found[n] != wanted[n]]
    faults += [f"{name} is {found[name]}, not {wanted[name]}" for name in misshapen]
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BadCheckpoint(
            f"{where}: weights do not fit config.json: {'; '.join(faults[:5])}{more}"
        )


def network_sizes(config: Mapping[str, Any], *, where: Path) -> WhisperConfig:
    """Return the sizes in ``config.json``.

    Raises:
        BadCheckpoint: it describes no Whisper network.
    """
    try:
        return WhisperConfig.from_hf(config)
    except ValueError as error:
        raise BadCheckpoint(f"{where}: {error}") from error


def empty_network(sizes: WhisperConfig) -> Whisper:
    """Return a network of some sizes, its weights in no memory."""
    with torch.device("meta"):
        return Whisper(sizes)


def _with_token_ids(
    rules: Mapping[str, Any], tokenizer_json: str, config: Mapping[str, Any], where: Path
) -> dict[str, Any]:
    """Return rules of decoding that were read from a file, with the ids that they lack."""
    limits = {**dict.fromkeys(_SUPPRESSED, config["vocab_size"]), _FIRST_TIMESTAMP: N_TIMESTAMPS}
    for name, limit in limits.items():
        found = rules.get(name) or []
        for id_ in found if isinstance(found, list) else [found]:
            if not isinstance(id_, int) or not 0 <= id_ < limit:
                raise BadCheckpoint(
                    f"{where}: {name} must be ids from 0 on, below {limit}, found {id_!r} in the "
                    "rules of decoding (generation_config.json, or config.json): delete it, or "
                    "take the file of the model that this one was trained from"
                )
    return {**token_ids_for_generation(tokenizer_json, config=config, where=where), **rules}


# What a config says, made from the weights and the tokenizer


class TokenIds(dict[str, int]):
    """The id of every token of a tokenizer, by its text.

    Raises:
        BadCheckpoint: it is no BPE tokenizer, or lacks a token that is asked for.
    """

    def __init__(self, tokenizer: Mapping[str, Any], where: Path) -> None:
        try:
            added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
            super().__init__({**tokenizer["model"]["vocab"], **added})
            is_whole = isinstance(tokenizer["model"]["merges"], list)
        except (KeyError, TypeError):
            is_whole = False
        if not is_whole or not all(isinstance(id_, int) for id_ in self.values()):
            raise BadCheckpoint(
                f"{where}: must hold a BPE tokenizer: vocabulary, merges, and added tokens with "
                "their ids; copy tokenizer.json from the model that this one was trained from"
            )
        self._where = where

    def __missing__(self, token: str) -> int:
        raise BadCheckpoint(f"{self._where}: the tokenizer has no {token}; is it Whisper's?")


def token_ids(tokenizer_json: str, *, where: Path) -> TokenIds:
    """Return the ids of the tokens in the text of a ``tokenizer.json``."""
    return TokenIds(json.loads(tokenizer_json), where)


def complete_timestamps(tokenizer_json: str, *, vocab_size: int, where: Path) -> str:
    """Return ``tokenizer.json`` with the 1,501 timestamp tokens that some folders leave out.

    They are added behind ``<|notimestamps|>`` if the vocabulary has room for them there.

    Raises:
        BadCheckpoint: the tokenizer has ids that the model's vocabulary has not.
    """
    tokenizer = json.loads(tokenizer_json)
    ids = TokenIds(tokenizer, where)
    first = ids["<|notimestamps|>"] + 1
    if "<|0.00|>" not in ids and max(ids.values()) < first <= vocab_size - N_TIMESTAMPS:
        tokenizer["added_tokens"] += [
            _added_token(f"<|{step * 0.02:.2f}|>", first + step) for step in range(N_TIMESTAMPS)
        ]
        tokenizer_json = json.dumps(tokenizer, ensure_ascii=False)
        ids = TokenIds(tokenizer, where)
    if max(ids.values()) >= vocab_size:
        raise BadCheckpoint(
            f"{where}: the tokenizer has ids up to {max(ids.values())}, and the model's vocabulary "
            f"holds {vocab_size} tokens; take the tokenizer of this very model"
        )
    return tokenizer_json


def check_vocab_size(tokenizer_json: str, *, vocab_size: int, where: Path) -> None:
    """Check that a tokenizer has exactly one token for each row of the model's embedding.

    For formats that keep the two apart, where a wrong pair is easily made: an English-only model
    has one token fewer than a multilingual one, and large-v3 one more.

    Raises:
        BadCheckpoint: the numbers differ.
    """
    found = max(token_ids(tokenizer_json, where=where).values()) + 1
    if found != vocab_size:
        raise BadCheckpoint(
            f"{where}: the model has a vocabulary of {vocab_size} tokens and the tokenizer one of "
            f"{found}; take the tokenizer of this very model"
        )


def files_from_weights(
    weights: dict[str, Tensor],
    tokenizer_json: str,
    rules: Mapping[str, Any],
    *,
    heads: tuple[int, int],
    where: Path,
) -> ModelFiles:
    """Return the files of a model of which another format holds weights, heads and rules alone.

    Weights have Hugging Face names, and their shapes give every size but the ``heads`` of each
    encoder layer and each decoder layer. The tokenizer, of the very model, may lack the timestamps;
    rules are suppress lists and alignment heads, as ``generation_config.json`` has them.

    Raises:
        BadCheckpoint: the weights are of no Whisper network, or of another tokenizer.
    """
    try:
        sizes = _sizes_of(weights, heads)
    except KeyError as error:
        raise BadCheckpoint(f"{where}: no weight {error.args[0]}") from None
    except ValueError as error:
        raise BadCheckpoint(f"{where}: {error}") from error
    vocab_size = sizes.vocab_size
    tokenizer_json = complete_timestamps(tokenizer_json, vocab_size=vocab_size, where=where)
    check_vocab_size(tokenizer_json, vocab_size=vocab_size, where=where)
    ids = token_ids(tokenizer_json, where=where)
    config = sizes.to_hf({**TEMPLATES["config.json"], **_special_ids(ids)})
    check_weights(weights, config, where=where)
    generation_config = _with_token_ids(rules, tokenizer_json, config, where)
    return ModelFiles(config, generation_config, weights, tokenizer_json)


def _sizes_of(weights: Mapping[str, Tensor], heads: tuple[int, int]) -> WhisperConfig:
    """Return the sizes that weights have; a KeyError names one that is missing."""

    def shape(name: str) -> torch.Size:
        return weights[f"model.{name}"].shape

    encoder_layers, decoder_layers = (
        len({name.split(".")[3] for name in weights if name.startswith(f"model.{side}.layers.")})
        for side in ("encoder", "decoder")
    )
    vocab_size, width = shape("decoder.embed_tokens.weight")
    return WhisperConfig(
        vocab_size=vocab_size,
        n_mels=shape("encoder.conv1.weight")[1],
        width=width,
        encoder_layers=encoder_layers,
        encoder_heads=heads[0],
        encoder_ffn=shape("encoder.layers.0.fc1.weight")[0],
        decoder_layers=decoder_layers,
        decoder_heads=heads[1],
        decoder_ffn=shape("decoder.layers.0.fc1.weight")[0],
        max_frames=shape("encoder.embed_positions.weight")[0],
        max_tokens=shape("decoder.embed_positions.weight")[0],
    )


def token_ids_for_generation(
    tokenizer_json: str, *, config: Mapping[str, Any], where: Path
) -> dict[str, Any]:
    """Return the part of ``generation_config.json`` that the tokenizer decides.

    Special ids, and for a multilingual model the ids of languages and tasks. Suppress lists and
    alignment heads belong to the checkpoint and are not in it.

    Raises:
        BadCheckpoint: the tokenizer lacks one of Whisper's special tokens.
    """
    ids = token_ids(tokenizer_json, where=where)
    generation_config: dict[str, Any] = {
        **_special_ids(ids),
        "prev_sot_token_id": ids["<|startofprev|>"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "is_multilingual": config["vocab_size"] >= MULTILINGUAL_VOCAB_SIZE,
        _FIRST_TIMESTAMP: 50,
        "max_length": config.get("max_target_positions", 448),
        "return_timestamps": False,
    }
    if generation_config["is_multilingual"]:
        tasks = ("transcribe", "translate")
        generation_config["lang_to_id"] = {t: i for t, i in ids.items() if _LANGUAGE.fullmatch(t)}
        generation_config["task_to_id"] = {task: ids[f"<|{task}|>"] for task in tasks}
    return generation_config


def _special_ids(ids: TokenIds) -> dict[str, int]:
    return {
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["<|endoftext|>"]),
        "decoder_start_token_id": ids["<|startoftranscript|>"],
    }


# Writing


def write_model_folder(folder: Path, files: ModelFiles, *, dtype: torch.dtype) -> None:
    """Write a Whisper model in the Hugging Face layout, as :func:`new_folder` does.

    Everything is there that transformers 4 and 5, faster-whisper and the converters of
    CTranslate2 and whisper.cpp look for; they do not look for the same files. What
    ``forced_decoder_ids`` says, which nothing obeys any more, is left out.

    Raises:
        FileExistsError: the folder holds something already.
    """
    with new_folder(folder) as temporary:
        write_side_files(temporary, files, dtype=dtype)
        weights = {n: w.detach().to("cpu", dtype).contiguous() for n, w in files.weights.items()}
        write_weights(temporary / "model.safetensors", weights, {"format": "pt"})


def write_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        StoreError: the disk is full, or the path cannot be written.
    """
    try:
        save_file(weights, path, metadata=metadata)
    except SafetensorError as error:  # a full disk is no OSError there
        raise store_error(path, OSError(str(error))) from error
    path.chmod(0o644)  # safetensors makes it private


def write_side_files(folder: Path, files: ModelFiles, *, dtype: torch.dtype) -> None:
    """Write what stands beside the weights in the Hugging Face layout: configs and tokenizer."""
    tokenizer = json.loads(files.tokenizer_json)
    ids, added = TokenIds(tokenizer, folder), tokenizer["added_tokens"]
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    special = sorted((token["id"], token["content"]) for token in added if token["special"])
    spellings = resources.files("whisper_normalizer") / "normalizers" / "english.json"
    special_map = {
        **{f"{role}_token": "<|endoftext|>" for role in ("bos", "eos", "pad", "unk")},
        "additional_special_tokens": [token for _, token in special],
    }
    objects: dict[str, Mapping[str, Any]] = {
        "config.json": {
            **_without(files.config, "dtype", "forced_decoder_ids", "_name_or_path"),
            # "dtype" is the newer name, which transformers before 4.56 does not know.
            "torch_dtype": dtype_name(dtype),
        },
        # With _from_model_config set, transformers makes this file anew from config.json on
        # loading, and so loses the ids of languages and tasks.
        "generation_config.json": _without(
            files.generation_config, "_from_model_config", "forced_decoder_ids"
        ),
        "tokenizer_config.json": {
            **special_map,
            **TEMPLATES["tokenizer_config.json"],
            "added_tokens_decoder": {str(token["id"]): _without(token, "id") for token in added},
        },
        "special_tokens_map.json": special_map,
        "vocab.json": vocab,
        "added_tokens.json": {token: i for token, i in ids.items() if token not in vocab},
        "normalizer.json": json.loads(spellings.read_text(encoding="utf-8")),
        "preprocessor_config.json": preprocessor_config(files.config["num_mel_bins"]),
        # transformers 5 would write the extractor's settings here as well; all versions read them
        # from preprocessor_config.json.
        "processor_config.json": {"processor_class": "WhisperProcessor"},
    }
    for name, value in objects.items():
        text = json.dumps(value, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(files.tokenizer_json, encoding="utf-8")
    lines = ("#version: 0.2", *(m if isinstance(m, str) else " ".join(m) for m in merges), "")
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def _without(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def preprocessor_config(n_mels: int) -> dict[str, Any]:
    """Return ``preprocessor_config.json``: how sound becomes what the encoder takes."""
    return {**TEMPLATES["preprocessor_config.json"], "feature_size": n_mels}
