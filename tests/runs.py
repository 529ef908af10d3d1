"""Finished runs without a model: what was heard is given, and scored as evaluate does."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from distilwhisper.corpus.records import Utterance, read_manifest, write_manifest
from distilwhisper.corpus.store import write_jsonl
from distilwhisper.evaluation.scoring import COST, score
from distilwhisper.files import write_atomic

RECIPE = """
name = "{name}"
teacher = "openai/some-teacher"
[data]
source = "speech"
language = "en"
[student]
decoder_layers = 2
[training]
steps = 2
warmup_steps = 1
kl_weight = 0.8
"""
TEXTS = {"first": "say it twice", "second": "and then once more please"}
METRICS = [
    {"step": 1, "loss": 3.0, "kl": 2.0, "pl": 1.4, "lr": 1e-4, "epoch": 0.5},
    {"step": 2, "loss": 2.0, "kl": 1.0, "pl": 1.2, "lr": 5e-5, "epoch": 1.0, "windows_per_s": 3.25},
    {"step": 2, "validation_wer": 0.25},
]


def write_evaluation(
    folder: Path,
    manifest: Path,
    heard: Mapping[str, str],
    *,
    compute_s: float,
    n_parameters: int,
    error: str | None = None,
) -> None:
    """Write what evaluate leaves of a model that heard a manifest's 40 s; else it heard right."""
    utterances = read_manifest(manifest).utterances
    rows = [
        {"id": u.id, "text": heard.get(u.id, u.text), "language": "en", "error": error}
        for u in utterances
    ]
    timing = {"audio_s": 40.0, "compute_s": compute_s, **dict.fromkeys(COST, 0)}
    folder.mkdir(parents=True)
    score(read_manifest(manifest), rows, [timing], folder, n_parameters=n_parameters)


def make_run(
    folder: Path,
    *,
    name: str = "small",
    student: Mapping[str, str] | None = None,
    texts: Mapping[str, str] = TEXTS,
    metrics: Sequence[Mapping[str, object]] = METRICS,
) -> Path:
    """Write a finished run's files: of 8 words the student hears 3 wrong and the teacher 1."""
    student = {"first": "say it", "second": "and than once more"} if student is None else student
    (folder / "data").mkdir(parents=True)
    for set_ in ("test", "long"):
        manifest = folder / "data" / f"{set_}.jsonl"
        utterances = [
            Utterance(id_, f"../sound/{id_}.wav", start_s=1.5, duration_s=2.0, text=text)
            for id_, text in texts.items()
        ]
        write_manifest(manifest, utterances)
        write_evaluation(
            folder / "eval" / f"teacher-{set_}", manifest, {"first": "say it thrice"},
            compute_s=4.0, n_parameters=40_000_000,
        )  # fmt: skip
        write_evaluation(
            folder / "eval" / f"student-{set_}", manifest, student,
            compute_s=1.6, n_parameters=30_000_000,
        )  # fmt: skip
    kept, dropped = {"count": 3, "hours": 0.1}, {"count": 1, "hours": 0.02}
    verdicts = {
        "total": {"count": 4, "hours": 0.12},
        "kept": kept,
        "by_reason": {"wer_above_limit": dropped, "kept": kept},
    }
    write_atomic(folder / "verdicts" / "summary.json", json.dumps(verdicts))
    write_atomic(folder / "run.json", "{}")
    write_atomic(folder / "recipe.toml", RECIPE.format(name=name))
    (folder / "train").mkdir()
    write_jsonl(folder / "train" / "metrics.jsonl", metrics)
    return folder
