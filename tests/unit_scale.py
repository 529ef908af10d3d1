"""The unit scale of the experiments: seeded tiny models, made-up sound, settings of seconds."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np

from distilwhisper.corpus.records import Utterance, write_manifest
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.speech.units import SAMPLE_RATE_HZ
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import make_student
from tiny_model import write_tiny_model

UNIT = Path(__file__).parent / "experiments" / "unit.toml"


class Run(Protocol):
    """Runs an experiment of this scale."""

    def __call__(self, name: str, out: Path, *more: str) -> int:
        """Run it into a folder, with more arguments, and return the exit status."""
        ...


WORDS = "the a in the era a there in".split()
SPOKEN = ("Ġthe", "Ġa", "in", "er", "n", "t", "s", "o")  # all that the tiny models may say
SEEDS = 38, 10  # of models that hear something else in every sound; many say one word for ever
LONG_S = 40.0  # more than a window


def write_unit_scale(folder: Path) -> Path:
    """Make models and manifests, and return the file of settings that names them.

    A teacher, a student with half of its decoder layers, another model; two sets of short
    utterances, one of long recordings, and manifests to train on.
    """
    models = folder / "models"
    models.mkdir(parents=True)
    for seed, name in zip(SEEDS, ("teacher", "other"), strict=True):
        _speaking_model(models / name, seed=seed)
    make_student(str(models / "teacher"), models / "student", StudentSettings())
    short = [
        _set(folder / "short-a", [1.1, 0.8, 1.4], seed=1),
        _set(folder / "short-b", [0.9, 1.2], seed=2),
    ]
    named = {
        "teacher": models / "teacher",
        "student": models / "student",
        "others": [models / "other"],
        "short": short,
        "reference_set": "short-a",
        "long": [_set(folder / "long", [LONG_S], seed=3)],
        "train": _set(folder / "train", [0.5 + 0.1 * i for i in range(8)], seed=4),
        "validation": _set(folder / "validation", [0.7, 1.0], seed=5),
    }
    path = folder / "unit.toml"
    lines = [f"{name} = {json.dumps(value, default=str)}" for name, value in named.items()]
    path.write_text("\n".join([*lines, UNIT.read_text(encoding="utf-8")]), encoding="utf-8")
    return path


def _speaking_model(folder: Path, *, seed: int) -> None:
    """Write a random model whose rules leave it a few words, so that errors differ."""
    with TemporaryDirectory(dir=folder.parent) as temporary:
        made = write_tiny_model(Path(temporary) / folder.name, seed=seed, std=0.6)
        vocabulary = json.loads((made / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
        rules = json.loads((made / "generation_config.json").read_text("utf-8"))
        rules["suppress_tokens"] = [i for piece, i in vocabulary.items() if piece not in SPOKEN]
        (made / "generation_config.json").write_text(json.dumps(rules), "utf-8")
        made.rename(folder)


def _set(folder: Path, lengths_s: Sequence[float], *, seed: int) -> Path:
    """Write recordings of nothing in particular, with texts of as many words as seconds allow."""
    manifest = folder / "manifest.jsonl"
    generator = np.random.default_rng(seed)
    utterances = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, length_s in enumerate(lengths_s):
        name = f"{number:03d}.wav"
        write_wav(folder / name, _babbling(length_s, generator))
        words = generator.choice(WORDS, size=max(2, round(2 * length_s)))
        utterances.append(
            Utterance(
                id=f"{folder.name}/{number:03d}",
                audio=name,
                duration_s=round(length_s, 3),
                text=" ".join(words),
                speaker=f"speaker {number % 2}",
                language="en",
            )
        )
    write_manifest(manifest, utterances)
    return manifest


def _babbling(length_s: float, generator: np.random.Generator) -> Samples:
    """Return noise whose loudness rises and falls a few times a second, as speech's does."""
    n_samples = round(length_s * SAMPLE_RATE_HZ)
    loudness = 0.1 * np.abs(np.sin(np.linspace(0, 9 * length_s, n_samples)))
    samples = generator.standard_normal(n_samples) * loudness
    return np.clip(samples, -1, 1).astype(np.float32)
