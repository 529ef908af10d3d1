"""Evaluations that experiments share: one folder for each model, set, decoding and noise."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.evaluation.comparison import Evaluation
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import resolve_model
from distilwhisper.stages.evaluate import EvaluationTask, evaluate_tasks
from distilwhisper.stages.settings import EvaluateSettings, Workers


@dataclass(frozen=True)
class EvalSet:
    """Utterances that models are judged by."""

    name: str
    manifest: Path


def with_reference(on: EvalSet) -> list[Utterance]:
    """Return the utterances of a set that can be scored."""
    return [u for u in read_manifest(on.manifest).utterances if u.text is not None]


@dataclass(frozen=True)
class Arm:
    """One way to transcribe a set."""

    name: str  # in tables
    model: str  # folder or hub id
    decoding: DecodingSettings
    hardware: Hardware
    draft: str | None = None  # model that drafts
    noise: str | None = None  # what is done to the sound first, such as white:10
    noise_seed: int = 0

    def key(self) -> dict[str, Any]:
        """Return all that shapes this arm's texts, whatever it is called, as JSON can hold it.

        Models are in it by name; whoever stores texts of theirs adds their fingerprints.
        """
        key = asdict(replace(self, name=""))
        if self.noise is None:
            del key["noise_seed"]  # nothing is drawn
        return key

    def of_set(self, on: EvalSet) -> dict[str, Any]:
        """Return all that shapes this arm's texts of a set."""
        return {**self.key(), "manifest": str(on.manifest.resolve())}


def evaluate_cells(
    arms: Iterable[Arm], sets: Sequence[EvalSet], folder: Path, *, force: bool
) -> dict[str, list[Evaluation]]:
    """Evaluate arms on sets, or read what an experiment before this one has measured.

    Arms that decode alike, and differ by noise alone, share a model that is loaded once.

    Args:
        arms: every model, and how it decodes.
        sets: that every arm transcribes.
        folder: of all cells; each has a folder below it, named after model, set and a digest of
            the rest.
        force: begin anew where a model, a draft or a manifest has changed behind its name.

    Returns:
        By arm, one for each set, whose models are called as the arms.

    Raises:
        StageChanged: a model, a draft or a manifest has changed behind its name.
    """
    named = {arm.name: arm for arm in arms}
    alike: dict[Any, list[Arm]] = {}
    for arm in named.values():
        alike.setdefault((arm.model, arm.draft, arm.hardware, arm.decoding), []).append(arm)
    for (model, draft, hardware, decoding), of_model in alike.items():
        tasks = {
            out: EvaluationTask(
                on.manifest,
                EvaluateSettings(decoding=decoding, noise=arm.noise, noise_seed=arm.noise_seed),
                out,
            )
            for arm in of_model
            for on in sets
            for out in [folder / _name(arm, on)]
        }
        evaluate_tasks(
            str(model_folder(model)),
            list(tasks.values()),
            Workers(hardware, draft=draft),
            force=force,
        )
    return {
        name: [Evaluation(name, on.name, arm.noise, folder / _name(arm, on)) for on in sets]
        for name, arm in named.items()
    }


def _name(arm: Arm, on: EvalSet) -> str:
    return f"{Path(arm.model).name}-{Path(on.name).name}-{digest(arm.of_set(on))}"


@cache
def model_folder(model: str) -> Path:
    """Return where a model lies; the hub is asked once, however many arms use it."""
    return resolve_model(model)


def digest(key: Any) -> str:
    """Return twelve characters that stand for what JSON can hold, paths as text."""
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
