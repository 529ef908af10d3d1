"""A model on disk: the network with everything that its Hugging Face folder says of it."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from distilwhisper.model.layout import (
    ModelFiles,
    empty_network,
    network_sizes,
    read_json_object,
    read_model_folder,
    write_model_folder,
)
from distilwhisper.model.whisper import Whisper, WhisperConfig

# In generation_config.json of students: whether training gave them the text that precedes.
TRAINED_WITH_PROMPTS = "trained_with_prompts"


@dataclass(frozen=True)
class Checkpoint:
    """A network, the files it came with (their weights left out), and where they lie."""

    model: Whisper
    files: ModelFiles
    folder: Path

    @property
    def generation_config(self) -> dict[str, Any]:
        """The model's ``generation_config.json``: suppress lists, alignment heads, languages."""
        return self.files.generation_config

    def with_generation(self, **settings: Any) -> "Checkpoint":
        """Return the same model with other values in its ``generation_config.json``."""
        config = self.generation_config | settings
        return replace(self, files=replace(self.files, generation_config=config))


def load_checkpoint(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Load a Hugging Face model folder, and convert its weights to ``dtype``.

    Raises:
        BadCheckpoint: a file is missing or broken, or the weights do not fit the config.
    """
    files = read_model_folder(folder)
    model = build_network(files).to(device=device, dtype=dtype)
    return Checkpoint(model, replace(files, weights={}), folder)


def build_network(files: ModelFiles) -> Whisper:
    """Return a model's network, with its very weights."""
    model = empty_network(WhisperConfig.from_hf(files.config))
    state = {name.removeprefix("model."): weight for name, weight in files.weights.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def read_config(folder: Path) -> WhisperConfig:
    """Return the sizes of a model folder's network, without reading its weights.

    Raises:
        BadCheckpoint: there is no ``config.json``, or it is of something else.
    """
    return network_sizes(read_json_object(folder / "config.json"), where=folder)


@cache
def count_parameters(sizes: WhisperConfig) -> int:
    """Return the parameters of a network of these sizes."""
    return empty_network(sizes).n_parameters()


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a model folder, in float32, that transformers, faster-whisper and this package load.

    The folder appears whole, by rename. The sizes in ``config.json`` follow the network; all
    else is kept as it was read.
    """
    model, files = checkpoint.model, checkpoint.files
    config, weights = model.config.to_hf(files.config), dict(model.named_weights())
    files = replace(files, config=config, weights=weights)
    write_model_folder(folder, files, dtype=torch.float32)
