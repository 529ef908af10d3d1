"""A training run on disk: all that a resumed run needs to end with the same weights.

    step_000100/  weights.safetensors    what is trained
                  optimizer.safetensors  AdamW's two moments per weight, and its step count
                  state.json             a Progress

The data order and the timestamp draws are functions of seed and step (``corpus/batches.py``), so
no random state is kept.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from distilwhisper.errors import DistilwhisperError
from distilwhisper.files import new_folder, write_atomic
from distilwhisper.run.files import write_json

N_KEPT = 2  # the newest checkpoint, and one before it in case a disk lies

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int  # updates done
    best_wer: float | None = None  # of a validation so far
    best_step: int | None = None
    is_validated: bool = True  # False: it was saved, as it is before it is judged, and no more


class CheckpointMismatch(DistilwhisperError):
    """A training checkpoint is not of the network or run that loads it."""


def save_state(
    folder: Path, progress: Progress, trained: Mapping[str, Tensor], optimizer: torch.optim.AdamW
) -> Path:
    """Write a checkpoint under ``folder``; it appears whole, by rename. Older ones are deleted.

    The weights are in the order of their optimiser.

    Raises:
        StoreError: the disk is full or cannot be written; the checkpoints before are kept.
    """
    moments = {
        f"{name}/{key}": optimizer.state[weight][key]
        for name, weight in trained.items()
        for key in _MOMENTS
    }
    final = _path(folder, progress)
    for left in (*folder.glob(".step_*"), final):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with new_folder(final) as temporary:
        write_tensors(temporary / "weights.safetensors", trained)
        write_tensors(temporary / "optimizer.safetensors", moments)
        write_json(temporary / "state.json", asdict(progress))
    for old in checkpoints(folder)[:-N_KEPT]:
        shutil.rmtree(old)
    return final


def save_progress(folder: Path, progress: Progress) -> None:
    """Replace the progress in the checkpoint of its step; raises as :func:`save_state` does."""
    write_json(_path(folder, progress) / "state.json", asdict(progress))


def checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    numbered = [(path.name.removeprefix("step_"), path) for path in folder.glob("step_*")]
    return [path for _, path in sorted((int(n), path) for n, path in numbered if n.isdecimal())]


def load_state(path: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.AdamW) -> Progress:
    """Load a checkpoint into weights and optimiser, in place.

    Raises:
        CheckpointMismatch: the names or shapes of the weights differ, or a file is broken; weights
            and optimiser are as they were.
    """
    try:
        weights = load_file(path / "weights.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        progress = Progress(**json.loads((path / "state.json").read_text()))
        states = {name: {key: moments[f"{name}/{key}"] for key in _MOMENTS} for name in weights}
    except Exception as error:
        raise CheckpointMismatch(
            f"{path} must be a whole training checkpoint, found {type(error).__name__}: {error}; "
            "delete it to resume from the one before"
        ) from error
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in trained.items()}:
        raise CheckpointMismatch(
            f"{path} is of another network: its {len(weights)} weights differ in name or shape "
            f"from the {len(trained)} being trained; train into another folder, or --force"
        )
    for name, weight in trained.items():
        weight.data.copy_(weights[name])
        optimizer.state[weight] = {k: v.to(weight.device) for k, v in states[name].items()}
    return progress


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file as :func:`write_atomic` does."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(on_cpu, metadata))


def _path(folder: Path, progress: Progress) -> Path:
    return folder / f"step_{progress.step:06d}"
