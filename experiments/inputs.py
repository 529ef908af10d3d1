"""The unit scale's inputs: seeded tiny models and made-up sound."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from distilwhisper.corpus.records import Utterance, write_manifest
from distilwhisper.model.tiny import write_tiny_model
from distilwhisper.run.locks import lock_folder
from distilwhisper.speech.audio import SAMPLE_RATE_HZ, Samples, write_wav
from distilwhisper.student import StudentSettings, make_student

WORDS = "the a in the era a there in".split()
SPOKEN = ("Ġthe", "Ġa", "in", "er", "n", "t", "s", "o")  # all that the tiny models may say
SEEDS = 38, 10  # of models that hear something else in every sound; many say one word for ever
LONG_S = 40.0  # more than a window


def unit_inputs(folder: Path) -> dict[str, Any]:
    """Make models and manifests where they are missing, and return the settings that name them.

    A teacher, a student with half of its decoder layers, another model; two sets of short
    utterances, one of long recordings, and manifests to train on.

    Args:
        folder: of the inputs.
    """
    with lock_folder(folder):
        teacher, other = folder / "models" / "teacher", folder / "models" / "other"
        teacher.parent.mkdir(exist_ok=True)
        for seed, model in zip(SEEDS, (teacher, other), strict=True):
            if not (model / "generation_config.json").exists():
                _speaking_model(model, seed=seed)
        student = folder / "models" / "student"
        if not (student / "model.safetensors").exists():
            make_student(str(teacher), student, StudentSettings())
        sets = {
            "short-a": _set(folder / "short-a", [1.1, 0.8, 1.4], seed=1),
            "short-b": _set(folder / "short-b", [0.9, 1.2], seed=2),
            "long": _set(folder / "long", [LONG_S], seed=3),
            "train": _set(folder / "train", [0.5 + 0.1 * i for i in range(8)], seed=4),
            "validation": _set(folder / "validation", [0.7, 1.0], seed=5),
        }
    return {
        "teacher": str(teacher),
        "student": str(student),
        "others": [str(other)],
        "short": [str(sets["short-a"]), str(sets["short-b"])],
        "reference_set": "short-a",
        "long": [str(sets["long"])],
        "train": str(sets["train"]),
        "validation": str(sets["validation"]),
    }


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
    if manifest.exists():
        return manifest
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
