"""The stages from speech to a student, as the front door has them.

    labels = dw.label("train.jsonl", teacher=model, out="labels")
    kept = dw.filter("train.jsonl", labels, max_wer=0.10, out="verdicts")
    student = dw.distil("train.jsonl", labels, kept, teacher=model, decoder_layers=2, out="run")
    dw.evaluate(student, "test.jsonl", against=[model])

A call that is repeated with the same ``out`` goes on where it stopped.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.distilling import chosen_training, hold_out, hours_of, read_kept
from distilwhisper.evaluation.comparison import Comparison
from distilwhisper.exporting.exporter import Exported, export_model
from distilwhisper.exporting.settings import ExportSettings, Target
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.loaded import Model, load_model
from distilwhisper.model.hardware import Hardware
from distilwhisper.options import settings_of, with_settings
from distilwhisper.pipeline import DataSettings, Recipe, run_recipe
from distilwhisper.progress import showing_progress
from distilwhisper.run.processes import EngineName, EngineSettings
from distilwhisper.stages.evaluate import evaluate_all
from distilwhisper.stages.filter import FilterSummary, filter_labels
from distilwhisper.stages.label import LabelSummary, label_manifests
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import EvaluateSettings, LabelSettings
from distilwhisper.training.settings import TrainingSettings


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
    name, hardware, draft = _named(teacher)
    with showing_progress(progress):
        (summary,) = label_manifests(
            {Path(manifest): Path(out)},
            name,
            settings_of(LabelSettings, options),
            hardware=hardware,
            draft=draft,
            engine=EngineSettings(engine),
            retry_failed=retry_failed,
            force=force,
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
    name, hardware, _ = _named(teacher)
    of_student = {one.name for one in fields(StudentSettings)} & options.keys()
    student = settings_of(StudentSettings, {key: options.pop(key) for key in of_student})
    out, made = Path(out), {"labels": Path(labels), "verdicts": Path(verdicts)}
    with showing_progress(progress):
        kept = read_kept(Path(manifest), made["verdicts"])
        if validation is None:
            manifest, validation = hold_out(kept, **made, out=out)
            made["verdicts"] = out / "verdicts"
        held_out = fspath(validation)
        recipe = Recipe(
            name=out.name,
            teacher=name,
            data=DataSettings(train=fspath(manifest), validation=held_out, test=held_out),
            hardware=hardware,
            student=student,
        )
        training = chosen_training(options, recipe, hours_of(kept))
        recipe = replace(recipe, training=training)
        run_recipe(recipe, out, stages=("student", "train"), made=made, force=force)
    return load_model(out / "student", **asdict(hardware))


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
    name, hardware, draft = _named(model)
    paths = [manifests] if isinstance(manifests, (str, PathLike)) else manifests
    with showing_progress(progress), TemporaryDirectory() as temporary:
        return evaluate_all(
            [name, *(_named(other)[0] for other in against)],
            [Path(path) for path in paths],
            [None if text == "none" else text for text in noise],
            Path(temporary if out is None else out),
            settings_of(EvaluateSettings, options),
            hardware=hardware,
            draft=draft,
            force=force,
        )


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
    settings = ExportSettings(
        to=to, dtype=dtype, third_layer=third_layer, max_wer_increase=max_wer_increase
    )
    with showing_progress(progress):
        manifest = None if check is None else Path(check)
        return export_model(_named(model)[0], Path(dest), settings, check=manifest)


def _named(model: Model | str | PathLike[str]) -> tuple[str, Hardware, str | None]:
    """Return a model's name, where it runs, and what drafts for it."""
    if isinstance(model, Model):
        return model.name, model.hardware, model.draft
    return fspath(model), Hardware(), None
