"""Distillation without a recipe: from a folder of audio, or from labels, to a student.

Settings that are left out are chosen for some hours of speech. The resulting recipe is written
into the run's folder, as a start for similar runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distilwhisper.corpus.merging import moved_to, with_labels_as_texts
from distilwhisper.corpus.records import (
    Manifest,
    read_labels,
    read_manifest,
    read_verdicts,
    write_manifest,
)
from distilwhisper.corpus.splitting import split_manifest
from distilwhisper.corpus.store import shard_path, write_shard
from distilwhisper.model.checkpoint import read_config
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import resolve_model
from distilwhisper.pipeline import Recipe, Run, check_recipe, run_recipe
from distilwhisper.progress import say
from distilwhisper.run.settings import build_settings, put_override
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.training.settings import TrainingSettings

_PASSES, _USUAL_WINDOW_S = 6, 15.0  # over the windows, whose lengths vary up to 30 s
_BATCH = 8
_LEAST_STEPS, _MOST_STEPS = 100, 20_000
_MOST_CACHED_HOURS = 50.0  # of whisper-base, some 20 GB
_HELD_OUT, _MOST_HELD_OUT = 0.1, 100  # of kept utterances, to validate by


def distil_folder(
    source: Path,
    teacher: str,
    out: Path,
    *,
    hardware: Hardware,
    student: StudentSettings,
    language: str | None = None,
    max_wer: float = 0.10,
    steps: int | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> Run:
    """Make a student of a folder of audio, or of a manifest; all stages.

    The source is split into what is trained on, validated by and tested on, speakers apart. Without
    any transcript the teacher's labels are what the student is judged by, too. What is None is left
    open: a language to the manifest and the teacher, ``steps`` to the hours there are. Each of
    ``overrides``, ``section.key=value``, takes the place of what is chosen for the recipe.

    Raises:
        SettingsError: the settings do not fit, or :func:`check_recipe` refuses them.
    """
    table: dict[str, Any] = {
        "name": out.name,
        "teacher": teacher,
        "data": {"source": str(source), "language": language},
        "hardware": asdict(hardware),
        "label": {"decoding": {"language": language, "temperature": (0.0,)}, "pack": True},
        "filter": {"max_wer": max_wer},
        "student": asdict(student),
        "training": {} if steps is None else {"steps": steps},
        "evaluate": {"decoding": {"language": language}},
    }
    for override in overrides:
        put_override(table, override)
    options = table.pop("training")
    recipe = build_settings(Recipe, table, where="the options")
    # Whatever can be, before a folder of any size is read.
    recipe = replace(recipe, training=chosen_training(options, recipe, hours=1.0))
    check_recipe(recipe)
    run_recipe(recipe, out, stages=("data",), force=force, is_checked=True)
    if not any(u.text for u in read_manifest(out / "data" / "manifest.jsonl").utterances):
        say(f"distil: {source} has no transcripts: the student is judged by its teacher's labels")
        recipe = replace(recipe, data=replace(recipe.data, references="teacher"))
    hours = hours_of(read_manifest(out / "data" / "train.jsonl"))
    recipe = replace(recipe, training=chosen_training(options, recipe, hours))
    return run_recipe(recipe, out, force=force, is_checked=True)


def chosen_training(options: Mapping[str, Any], recipe: Recipe, hours: float) -> TrainingSettings:
    """Return the settings for so many hours of speech; ``options`` take precedence."""
    windows = hours * 3600 / _USUAL_WINDOW_S
    steps = options.get(
        "steps", min(max(round(_PASSES * windows / _BATCH), _LEAST_STEPS), _MOST_STEPS)
    )
    width = read_config(resolve_model(recipe.teacher)).width
    caches = recipe.hardware.pick_device().type == "cpu" and hours <= _MOST_CACHED_HOURS
    defaults: dict[str, Any] = {
        "steps": steps,
        "batch_size": _BATCH,
        "micro_batch_size": _BATCH,
        "peak_lr": 8e-4 if width <= 512 else 4e-4 if width <= 768 else 1e-4,
        "warmup_steps": steps // 20,
        "checkpoint_every": max(steps // 4, 1),
        "log_every": 10,
        "pack_s": 30.0,
        "pack_across_recordings": True,
        "freeze_embeddings": True,
        "cache_encoder": caches,
        "cache_teacher": caches,
    }
    return build_settings(TrainingSettings, {**defaults, **options}, where="the options")


def hours_of(manifest: Manifest) -> float:
    """Return the hours of a manifest; an utterance of unknown length counts ten seconds."""
    return sum(u.duration_s or 10.0 for u in manifest.utterances) / 3600


def read_kept(manifest: Path, verdicts: Path) -> Manifest:
    """Return what was labelled and is kept.

    Raises:
        ValueError: nothing is.
    """
    ids = {id_ for id_, verdict in read_verdicts(verdicts).items() if verdict.keep}
    if not ids:
        raise ValueError(f"{verdicts}: no label was kept, and there is nothing to learn from")
    corpus = read_manifest(manifest)
    return replace(corpus, utterances=tuple(u for u in corpus.utterances if u.id in ids))


def hold_out(kept: Manifest, labels: Path, verdicts: Path, out: Path) -> tuple[Path, Path]:
    """Split what is kept into what is trained on and what is validated by; return the manifests.

    They are written into the run's folder, with the verdicts of the first alone. What has no
    reference is judged by its label.
    """
    fraction = min(_HELD_OUT, _MOST_HELD_OUT / len(kept.utterances))
    parts = split_manifest(kept, {"validation": fraction}, seed=0)
    paths = {name: out / "data" / f"{name}.jsonl" for name in ("train", "validation")}
    for name, path in paths.items():
        part = replace(kept, utterances=tuple(parts[name]))
        if name == "validation":
            part = with_labels_as_texts(part, read_labels(labels))
        write_manifest(path, moved_to(path.parent, part))
    trained_on = {utterance.id for utterance in parts["train"]}
    rows = [v.to_dict() for v in read_verdicts(verdicts).values() if v.id in trained_on]
    write_shard(shard_path(out / "verdicts", 0), rows)
    return paths["train"], paths["validation"]
