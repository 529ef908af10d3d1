"""The stages from speech to a student, as the front door has them.

    labels = dw.label("train.jsonl", teacher=model, out="labels")
    kept = dw.filter("train.jsonl", labels, max_wer=0.10, out="verdicts")
    student = dw.distil("train.jsonl", labels, kept, teacher=model, decoder_layers=2, out="run")
    dw.evaluate(student, "test.jsonl", against=[model])

A call that is repeated with the same ``out`` goes on where it stopped.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distilwhisper.corpus.records import (
    Manifest,
    moved_to,
    read_labels,
    read_manifest,
    read_verdicts,
    with_labels_as_texts,
    write_manifest,
)
from distilwhisper.corpus.splitting import split_manifest
from distilwhisper.corpus.store import shard_path, write_shard
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.evaluation.comparison import Comparison
from distilwhisper.exporting.exporter import Exported, export_model
from distilwhisper.exporting.settings import ExportSettings, Target
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.model.checkpoint import read_config
from distilwhisper.model.hub import resolve_model
from distilwhisper.pipeline import Run, run_recipe
from distilwhisper.progress import say, showing_progress
from distilwhisper.recipe import DataSettings, Recipe, check_recipe
from distilwhisper.run.processes import EngineName, EngineSettings
from distilwhisper.run.settings import build_settings, put_override
from distilwhisper.stages.evaluate import evaluate_all
from distilwhisper.stages.filter import FilterSummary, filter_labels
from distilwhisper.stages.label import LabelSummary, label_manifests
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import EvaluateSettings, LabelSettings, Workers
from distilwhisper.training.settings import TrainingSettings
from distilwhisper.transcribe import Model, load_model, settings_of, with_settings

_PASSES, _USUAL_WINDOW_S = 6, 15.0  # over the windows, whose lengths vary up to 30 s
_BATCH = 8
_LEAST_STEPS, _MOST_STEPS = 100, 20_000
_MOST_CACHED_HOURS = 50.0  # of whisper-base, some 20 GB
_HELD_OUT, _MOST_HELD_OUT = 0.1, 100  # of kept utterances, to validate by


@with_settings(LabelSettings, DecodingSettings)
def label(
    manifest: str | PathLike[str],
    *,
    teacher: Model | str | PathLike[str],
    out: str | PathLike[str],
    engine: EngineName = "local",
    retry_failed: bool = False,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> LabelSummary:
    """Label a manifest's audio with a teacher, going on where a call before stopped.

    Args:
        manifest: a .jsonl file with an utterance a line, or a folder of shards.
        teacher: the model, or its name.
        out: folder of the labels.
        engine: which processes do it.
        retry_failed: try again what failed before.
        force: begin anew where settings or inputs have changed.
        progress: show a bar on standard error.
        **options: the fields of :class:`~distilwhisper.LabelSettings` and
            :class:`~distilwhisper.DecodingSettings`.

    Returns:
        What was done; where a folder of labels is wanted, it stands for its folder.

    Raises:
        StageChanged: the folder holds labels made from or with something else.
    """
    name, workers = _named(teacher, engine)
    outs, settings = {Path(manifest): Path(out)}, settings_of(LabelSettings, options)
    with showing_progress(progress):
        (summary,) = label_manifests(
            outs, name, settings, workers, retry_failed=retry_failed, force=force
        )
    return summary


@with_settings(FilterSettings)
def filter(  # noqa: A001  the stage's name
    manifest: str | PathLike[str],
    labels: str | PathLike[str],
    *,
    out: str | PathLike[str],
    second_labels: str | PathLike[str] | None = None,
    figures: bool = False,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> FilterSummary:
    """Judge every label: keep or drop, with a reason.

    Args:
        manifest: what was labelled, with references where there are any.
        labels: folder of the labels, or what :func:`label` returns.
        out: folder of the verdicts.
        second_labels: folder of other labels of the same utterances, to compare with.
        figures: draw what is kept too.
        force: begin anew where settings or inputs have changed.
        progress: show a bar on standard error.
        **options: the fields of :class:`~distilwhisper.FilterSettings`, such as max_wer.

    Returns:
        What was kept, and why the rest was not; it stands for its folder too.
    """
    with showing_progress(progress):
        return filter_labels(
            Path(manifest),
            Path(labels),
            Path(out),
            settings_of(FilterSettings, options),
            second_labels=None if second_labels is None else Path(second_labels),
            figures=figures,
            force=force,
        )


@with_settings(StudentSettings, TrainingSettings)
def distil(
    manifest: str | PathLike[str],
    labels: str | PathLike[str],
    verdicts: str | PathLike[str],
    *,
    teacher: Model | str | PathLike[str],
    out: str | PathLike[str],
    validation: str | PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> Model:
    """Make a student of a teacher, and train it on the labels that were kept.

    Args:
        manifest: what was labelled.
        labels: folder of the labels, or what :func:`label` returns.
        verdicts: folder of the verdicts, or what :func:`filter` returns.
        teacher: the model, or its name.
        out: folder of the run; a call that is repeated goes on where it stopped.
        validation: a manifest with references that picks the best checkpoint; left out, a tenth
            of what was kept is held out, a hundred utterances at most, speakers apart; what has no
            reference is judged by its label.
        force: begin anew where settings or inputs have changed.
        progress: show bars on standard error.
        **options: the fields of :class:`~distilwhisper.StudentSettings`, such as decoder_layers,
            and of :class:`~distilwhisper.TrainingSettings`, such as steps. What is left out is
            chosen for some hours of speech.

    Returns:
        The trained student, loaded from ``out/student``.
    """
    name, workers = _named(teacher)
    of_student = {one.name for one in fields(StudentSettings)} & options.keys()
    student = settings_of(StudentSettings, {key: options.pop(key) for key in of_student})
    out, made = Path(out), {"labels": Path(labels), "verdicts": Path(verdicts)}
    with showing_progress(progress):
        kept = _read_kept(Path(manifest), made["verdicts"])
        if validation is None:
            manifest, validation = _hold_out(kept, **made, out=out)
            made["verdicts"] = out / "verdicts"
        held_out = fspath(validation)
        data = DataSettings(train=fspath(manifest), validation=held_out, test=held_out)
        recipe = Recipe(out.name, name, data, hardware=workers.hardware, student=student)
        recipe = _with_training(recipe, options, _hours_of(kept))
        run_recipe(recipe, out, stages=("student", "train"), made=made, force=force)
    return load_model(out / "student", **asdict(workers.hardware))


@with_settings(EvaluateSettings, DecodingSettings)
def evaluate(
    model: Model | str | PathLike[str],
    manifests: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    against: Sequence[Model | str | PathLike[str]] = (),
    noise: Sequence[str] = ("none",),
    out: str | PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> Comparison:
    """Transcribe sets, count the errors, and compare models on the same utterances.

    Args:
        model: the model, or its name.
        manifests: a manifest with references, or several.
        against: other models; the first of them is the one that all others are compared with.
        noise: what the sound goes through first; "none", or as the command line takes it.
        out: folder of the results, which a repeated call goes on from; left out, they are not kept.
        force: begin anew where settings or inputs have changed.
        progress: show bars on standard error.
        **options: the fields of :class:`~distilwhisper.EvaluateSettings` and
            :class:`~distilwhisper.DecodingSettings`.

    Returns:
        Error rates with intervals, means over the sets, and differences with their significance.
    """
    name, workers = _named(model)
    models = [name, *(_named(other)[0] for other in against)]
    paths = [manifests] if isinstance(manifests, (str, PathLike)) else manifests
    sets, noises = list(map(Path, paths)), [None if text == "none" else text for text in noise]
    settings = settings_of(EvaluateSettings, options)
    folder = TemporaryDirectory() if out is None else nullcontext(fspath(out))
    with showing_progress(progress), folder as results:
        return evaluate_all(models, sets, noises, Path(results), settings, workers, force=force)


def export(
    model: Model | str | PathLike[str],
    dest: str | PathLike[str],
    *,
    to: Target,
    dtype: str | None = None,
    third_layer: bool = False,
    check: str | PathLike[str] | None = None,
    max_wer_increase: float = ExportSettings.max_wer_increase,
    progress: bool = False,
) -> Exported:
    """Write a model as another program reads it.

    Args:
        model: the model, or its name.
        dest: the new folder.
        to: which program: ctranslate2, ggml, openai, onnx or sherpa.
        dtype: of the weights, as :class:`~distilwhisper.ExportSettings` lists them.
        third_layer: ggml: a layer that changes nothing, for a two-layer student's times.
        check: a manifest with references, to run the original and the exported model on.
        max_wer_increase: points of WER by which the exported model may be worse.
        progress: say on standard error what is done.

    Returns:
        The folder, what to know of it, and what the check found; it stands for its folder too.

    Raises:
        WorseThanOriginal: the exported model makes too many errors on the checked set.
    """
    settings = ExportSettings(to, dtype, third_layer, max_wer_increase)
    manifest = None if check is None else Path(check)
    with showing_progress(progress):
        return export_model(_named(model)[0], Path(dest), settings, check=manifest)


def _named(model: Model | str | PathLike[str], engine: EngineName = "local") -> tuple[str, Workers]:
    """Return a model's name, and what decodes with it."""
    if isinstance(model, Model):
        return model.name, Workers(model.hardware, EngineSettings(engine), model.draft)
    return fspath(model), Workers(engine=EngineSettings(engine))


# Distillation without a recipe


def distil_source(
    table: dict[str, Any], out: Path, *, overrides: Sequence[str] = (), force: bool = False
) -> Run:
    """Make a student of a folder of audio, or of a manifest: all stages of a recipe in tables.

    The source is split into what is trained on, validated by and tested on, speakers apart. Without
    any transcript the teacher's labels are what the student is judged by, too. Settings of training
    that are left out are chosen for the hours there are. Each of ``overrides``,
    ``section.key=value``, takes the place of what the tables hold. The resulting recipe is written
    into the run's folder, as a start for similar runs.

    Raises:
        SettingsError: the settings do not fit, or :func:`check_recipe` refuses them.
    """
    for override in overrides:
        put_override(table, override)
    options = table.pop("training")
    recipe = build_settings(Recipe, table, where="the options")
    # Whatever can be, before a folder of any size is read.
    untrained = _with_training(recipe, options, hours=1.0)
    check_recipe(untrained)
    run_recipe(untrained, out, stages=("data",), force=force, is_checked=True)
    if not any(u.text for u in read_manifest(out / "data" / "manifest.jsonl").utterances):
        source = recipe.data.source
        say(f"distil: {source} has no transcripts: the student is judged by its teacher's labels")
        recipe = replace(recipe, data=replace(recipe.data, references="teacher"))
    hours = _hours_of(read_manifest(out / "data" / "train.jsonl"))
    recipe = _with_training(recipe, options, hours)
    return run_recipe(recipe, out, force=force, is_checked=True)


def _with_training(recipe: Recipe, options: Mapping[str, Any], hours: float) -> Recipe:
    """Return a recipe with settings for so many hours of speech; ``options`` take precedence."""
    n_steps = round(_PASSES * (hours * 3600 / _USUAL_WINDOW_S) / _BATCH)
    steps = options.get("steps", min(max(n_steps, _LEAST_STEPS), _MOST_STEPS))
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
    training = build_settings(TrainingSettings, {**defaults, **options}, where="the options")
    return replace(recipe, training=training)


def _hours_of(manifest: Manifest) -> float:
    """Return the hours of a manifest; an utterance of unknown length counts ten seconds."""
    return sum(u.duration_s or 10.0 for u in manifest.utterances) / 3600


def _read_kept(manifest: Path, verdicts: Path) -> Manifest:
    """Return what was labelled and is kept, which must be something."""
    ids = {id_ for id_, verdict in read_verdicts(verdicts).items() if verdict.keep}
    if not ids:
        raise ValueError(f"{verdicts}: no label was kept, and there is nothing to learn from")
    corpus = read_manifest(manifest)
    return replace(corpus, utterances=tuple(u for u in corpus.utterances if u.id in ids))


def _hold_out(kept: Manifest, labels: Path, verdicts: Path, out: Path) -> tuple[Path, Path]:
    """Write what is trained on, with its verdicts, and what is validated by; return the manifests.

    What has no reference is judged by its label.
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
