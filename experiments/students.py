"""Students for the experiments that train: labels once, verdicts by limit, a run for each student.

DIR/labels/DIGEST/    the teacher's labels of the utterances to train on
DIR/verdicts/DIGEST/  of one limit
DIR/students/DIGEST/  the folder of a run (pipeline.py), its labels a link to those above; its
                      checkpoints go once there is a student

The digest is of all that shapes what is in a folder, so students that two experiments have in
common are trained once, and a student that is there is the one that was asked for.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distilwhisper.corpus.records import (
    Label,
    Manifest,
    Verdict,
    read_labels,
    read_manifest,
    read_verdicts,
)
from distilwhisper.corpus.store import read_jsonl, shard_path, write_jsonl
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.model.hardware import Hardware
from distilwhisper.pipeline import run_recipe, what_shapes_student
from distilwhisper.recipe import DataSettings, Recipe
from distilwhisper.run.stages import fingerprint
from distilwhisper.stages.filter import filter_labels
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import Workers
from distilwhisper.training.settings import TrainingSettings
from experiments.cells import EvalSet, digest, model_folder
from experiments.context import Context, Model, set_name
from experiments.results import Key, Result
from experiments.settings import LabelledSettings, StudentsSettings

NOTE = (
    "Intervals are over the files that the students are judged by, not over trainings: another "
    "seed of the training gives other students."
)


@dataclass(frozen=True)
class Corpus:
    """Utterances to train on, and the teacher's labels of them."""

    manifest: Manifest
    folder: Path  # of the labels
    labels: Mapping[str, Label]
    problems: Mapping[str, str]  # why there is no label of an utterance

    def hours(self, ids: Iterable[str]) -> float:
        """Return how much sound some utterances are."""
        return sum(self.labels[id_].duration_s or 0.0 for id_ in ids) / 3600


def train_set(context: Context[LabelledSettings]) -> EvalSet:
    """Return what is labelled and trained on; an experiment that asks for it needs "train"."""
    settings = context.settings
    assert settings.train is not None
    return EvalSet(set_name(settings.train), Path(settings.train))


def label_corpus(context: Context[LabelledSettings]) -> Corpus:
    """Return the utterances to train on with the teacher's labels, made where they are missing."""
    settings = context.settings
    path = train_set(context).manifest
    made_with = asdict(settings.label)
    del made_with["decoding"]["batch_size"]  # which changes the speed, not the labels
    made_with |= {"teacher": settings.teacher, "manifest": str(path.resolve())}
    folder = context.folder / "labels" / digest(made_with)
    (summary,) = label_manifests(
        {path: folder},
        str(model_folder(settings.teacher)),
        settings.label,
        Workers(settings.hardware),
        force=context.force,
    )
    return Corpus(read_manifest(path), folder, read_labels(folder), summary.failed)


def judge_corpus(
    context: Context[LabelledSettings], corpus: Corpus, settings: FilterSettings
) -> dict[str, Verdict]:
    """Return what a filter says of the labels, by id; judged where that is not known yet."""
    out = context.folder / "verdicts" / digest({"of": corpus.folder.name, **asdict(settings)})
    filter_labels(
        corpus.manifest.path, corpus.folder, out, settings, figures=False, force=context.force
    )
    return read_verdicts(out)


def kept_ids(
    context: Context[LabelledSettings], corpus: Corpus, settings: FilterSettings
) -> list[str]:
    """Return the utterances that a filter keeps, in the manifest's order."""
    verdicts = judge_corpus(context, corpus, settings)
    return [u.id for u in corpus.manifest.utterances if verdicts[u.id].keep]


def nested(corpus: Corpus, ids: Sequence[str], hours: float, *, seed: int) -> list[str]:
    """Draw utterances of so many hours, or just above; fewer hours are a part of more.

    Args:
        corpus: which they are of.
        ids: to draw from.
        hours: of the draw; all are drawn where there are no more.
        seed: of the order that they are drawn in.
    """
    order = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    reached = np.cumsum([corpus.hours([id_]) for id_ in order])
    n_drawn = int(np.searchsorted(reached, hours - 1e-9)) + 1  # sums in another order differ
    drawn = set(order[:n_drawn])
    return [id_ for id_ in ids if id_ in drawn]


@dataclass(frozen=True)
class Plan:
    """A student to be: what it begins as, what it learns from, and how."""

    name: str  # in tables
    kept: Sequence[str]  # the utterances, in the manifest's order
    student: StudentSettings
    training: TrainingSettings


@dataclass(frozen=True)
class Student:
    """A student that was trained."""

    model: Model
    passes: float  # over its windows, in training
    hours: float  # of sound in them

    @property
    def facts(self) -> dict[str, float]:
        """What summary.json says of it beside its errors."""
        return {"passes": self.passes, "hours": self.hours}


def plan(
    context: Context[StudentsSettings],
    name: str,
    kept: Sequence[str],
    *,
    student: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> Plan:
    """Return a student as the settings say, but for what is named."""
    settings = context.settings
    return Plan(
        name,
        kept,
        replace(settings.student_init, **(student or {})),
        replace(settings.training, **(training or {})),
    )


def train_students(
    context: Context[StudentsSettings], corpus: Corpus, plans: Mapping[Key, Plan]
) -> dict[Key, Student]:
    """Train students that are not there yet, going on where a run before stopped."""
    return {key: _train(context, corpus, one) for key, one in plans.items()}


def judge_students(
    context: Context[StudentsSettings],
    corpus: Corpus,
    plans: Mapping[Key, Plan],
    *,
    against: Callable[[Key], Key],
) -> tuple[dict[Key, Student], dict[Key, Result]]:
    """Train students and evaluate them on the short sets, each compared with another."""
    students = train_students(context, corpus, plans)
    arms = {key: context.arm(student.model) for key, student in students.items()}
    more = {key: student.facts for key, student in students.items()}
    return students, context.evaluate(arms, context.short, against=against, more=more)


def _train(context: Context[StudentsSettings], corpus: Corpus, plan: Plan) -> Student:
    folder = context.folder / "students" / digest(_made_of(context, corpus, plan))
    if not (folder / "train" / "done").exists():
        _prepare(folder, corpus, plan)
        run_recipe(_recipe(context, plan), folder, stages=("student", "train"))
    for spent in (folder / "student-init", *(folder / "train").glob("step_*")):
        shutil.rmtree(spent, ignore_errors=True)
    (folder / "train" / "best.safetensors").unlink(missing_ok=True)
    steps = [row for row in read_jsonl(folder / "train" / "metrics.jsonl") if "epoch" in row]
    return Student(
        Model(plan.name, str(folder / "student"), context.settings.student_chunk_s),
        passes=steps[-1]["epoch"],
        hours=corpus.hours(plan.kept),
    )


def _made_of(context: Context[StudentsSettings], corpus: Corpus, plan: Plan) -> dict[str, Any]:
    """Return all that shapes a student."""
    settings = context.settings
    start = plan.student.start
    return {
        "teacher": context.fingerprint(settings.teacher),
        "start": None if start is None else context.fingerprint(start),
        "labels": fingerprint(corpus.folder),
        "validation": fingerprint(_validation(context)),
        "kept": list(plan.kept),
        "student": asdict(plan.student),
        "training": what_shapes_student(plan.training),
        "dtype": _hardware(context).dtype,
    }


def _prepare(folder: Path, corpus: Corpus, plan: Plan) -> None:
    """Give a run its labels, and the verdicts that keep what the plan keeps."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "labels"
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(corpus.folder, folder))
    kept = set(plan.kept)
    verdicts = (
        Verdict(id_, keep=id_ in kept, reason="kept" if id_ in kept else "left_out")
        for id_ in corpus.labels
    )
    write_jsonl(shard_path(folder / "verdicts", 0), (verdict.to_dict() for verdict in verdicts))


def _hardware(context: Context[StudentsSettings]) -> Hardware:
    """Return where students are trained: in float32 where models decode in float16."""
    hardware = context.settings.hardware
    return replace(hardware, dtype="float32") if hardware.dtype == "float16" else hardware


def _recipe(context: Context[StudentsSettings], plan: Plan) -> Recipe:
    settings = context.settings
    validation = str(_validation(context).absolute())
    return Recipe(
        name=plan.name,
        teacher=str(model_folder(settings.teacher)),
        data=DataSettings(
            train=str(train_set(context).manifest.absolute()),
            validation=validation,
            test=validation,
        ),
        hardware=_hardware(context),
        student=plan.student,
        training=plan.training,
    )


def _validation(context: Context[StudentsSettings]) -> Path:
    assert context.settings.validation is not None  # experiments that train need it
    return Path(context.settings.validation)
