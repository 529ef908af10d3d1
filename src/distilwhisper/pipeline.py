"""The whole job as one recipe: which stage reads what the one before has written.

    RUN/recipe.toml  run.json
        data/           manifest.jsonl, train.jsonl, validation.jsonl, test.jsonl
        labels/         the teacher's transcripts                     label.py
        verdicts/       which labels are kept, and why not            filter.py
        student-init/   the student before training                   student.py
        train/          checkpoints, metrics.jsonl                    training/
        student/        the student: a Hugging Face model folder, its card among them
        long/           a long recording made of test utterances
        eval/           {teacher,student}-{test,long}/                evaluate.py
        transcripts/    of the long recording
        report.html                                                   report/

Every stage skips what is done and refuses what was made with other settings, so running a recipe
again goes on where it stopped; ``from_stage`` first deletes what a stage and all after it made.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distilwhisper.corpus.batches import (
    Example,
    check_sounds,
    join_kept,
    join_recordings,
    with_previous_text,
)
from distilwhisper.corpus.importing.importer import import_data, source_fingerprints
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.packing import pack_examples
from distilwhisper.corpus.records import (
    Manifest,
    in_language,
    merge_manifests,
    moved_to,
    read_labels,
    read_manifest,
    read_verdicts,
    with_labels_as_texts,
    write_manifest,
)
from distilwhisper.corpus.splitting import split_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.evaluation.scoring import summary_line
from distilwhisper.files import write_atomic
from distilwhisper.model.checkpoint import (
    TRAINED_WITH_PROMPTS,
    load_checkpoint,
    save_checkpoint,
)
from distilwhisper.model.hardware import dtype_name
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.layout import require_whole
from distilwhisper.progress import progress_bar, say
from distilwhisper.recipe import DataSettings, Recipe, check_recipe, check_sets, sets_by_name
from distilwhisper.report.facts import error_rate, read_run
from distilwhisper.report.page import REPORT, write_card, write_report
from distilwhisper.run.locks import lock_folder
from distilwhisper.run.record import write_run_record
from distilwhisper.run.settings import settings_to_toml
from distilwhisper.run.stages import StageChanged, fingerprint, open_stage
from distilwhisper.speech.audio import load_samples
from distilwhisper.stages.evaluate import EvaluationTask, evaluate_tasks
from distilwhisper.stages.filter import filter_labels
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.settings import STAGES, StageName, Workers
from distilwhisper.stages.student import add_alignment_heads, allow_silence, make_student
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.loop import Trainer
from distilwhisper.training.ranks import Ranks, ranks_of_environment
from distilwhisper.training.settings import TrainingSettings


@dataclass(frozen=True)
class Run:
    """A recipe and the folder it fills."""

    recipe: Recipe
    folder: Path
    force: bool = False
    ranks: Ranks = field(default_factory=Ranks)  # the processes that train together
    problems: dict[str, str] = field(default_factory=dict)  # inputs that failed, and why
    made: Mapping[str, Path] = field(default_factory=dict)  # folders that lie outside the run's

    def path(self, first: str, *parts: str) -> Path:
        """Return a path in the run's folder, or in a folder that lies outside it."""
        return self.made.get(first, self.folder / first).joinpath(*parts)

    def open_stage(
        self, folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]
    ) -> None:
        """Open a stage by its inputs' fingerprints; a model that has changed must be whole."""
        prints = {name: fingerprint(path) for name, path in inputs.items()}
        models = [inputs[name] for name in ("teacher", "student", "start") if name in inputs]
        whole = partial(require_whole, *models)
        open_stage(folder, settings=settings, inputs=prints, force=self.force, check=whole)

    @cached_property
    def teacher(self) -> Path:
        """Folder of the teacher; looked up once, however many stages need it."""
        return resolve_model(self.recipe.teacher)

    def manifest(self, part: Literal["train", "test"]) -> Path:
        """Return where the manifest of one part of the data is."""
        data = self.recipe.data
        if part == "test" and data.references == "teacher":
            return self.path("references", "test.jsonl")
        paths = data.named(part)
        is_as_named = len(paths) == 1 and data.language is None
        return Path(paths[0]) if is_as_named else self.path("data", f"{part}.jsonl")

    @property
    def validation(self) -> dict[str, Path]:
        """Where the validation sets are, by name."""
        data = self.recipe.data
        if data.source is not None:
            made_in = "references" if data.references == "teacher" else "data"
            return {"validation": self.path(made_in, "validation.jsonl")}
        paths = sets_by_name(data.named("validation"))
        if data.language is None:
            return paths
        return {n: self.path("data", f"validation-{i}.jsonl") for i, n in enumerate(paths)}


def run_recipe(
    recipe: Recipe,
    folder: str | PathLike[str],
    *,
    stages: Sequence[StageName] = STAGES,
    from_stage: StageName | None = None,
    made: Mapping[str, Path] | None = None,
    force: bool = False,
    is_checked: bool = False,
) -> Run:
    """Run a recipe's stages in order, skipping what is done.

    Started by torchrun, several processes train together; the first does all else alone.

    ``from_stage`` and all after it are done again. ``made`` names folders of the run that lie
    elsewhere, such as its labels. With ``force``, stages are done again whose settings or inputs
    have changed; with ``is_checked``, :func:`check_recipe` has passed the recipe already.

    Returns:
        The run, with the inputs that failed on the way.

    Raises:
        StageChanged: what the folder holds was made with other settings or from other inputs.
        SettingsError: see :func:`check_recipe`.
    """
    if not is_checked:
        check_recipe(recipe, stages=stages)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with ranks_of_environment(recipe.hardware) as ranks:
        run = Run(recipe, folder, force, ranks, made=made or {})
        if ranks.is_first:
            _lead(run, stages, from_stage)
        elif "train" in stages and ranks.as_first_has_it(False):  # the first alone writes
            _trainer(run).fit()
    return run


def _lead(run: Run, stages: Sequence[StageName], from_stage: StageName | None) -> None:
    """Run the stages: as the only process, or as the first of those that train together."""
    folder, recipe = run.folder, run.recipe
    path = folder / "recipe.toml"
    with lock_folder(folder):
        before = path.read_text(encoding="utf-8") if path.exists() else None
        write_atomic(path, settings_to_toml(recipe))
        write_run_record(folder, seed=recipe.training.seed, command=sys.argv)
        discarded = () if from_stage is None else STAGES[STAGES.index(from_stage) :]
        for made in (run.path(name) for stage in discarded for name in _STAGES[stage].leaves):
            if made.is_dir():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)
        try:
            for stage in stages:
                _STAGES[stage].do(run)
                if stage == "data" and recipe.data.source is not None:
                    _check_split(run, stages)
        except StageChanged:  # what lies in the folder was made by the recipe before
            if before is not None:
                write_atomic(path, before)
            raise


def _check_split(run: Run, stages: Sequence[StageName]) -> None:
    """Check the parts that a source was split into, as named ones are checked before the run."""
    parts = {"train": run.manifest("train")}
    if run.recipe.data.references == "texts":
        parts |= {"test": run.manifest("test"), **run.validation}
    sets = {f"data.{name}": [read_manifest(path)] for name, path in parts.items()}
    check_sets(run.recipe, sets, stages)


# The stages


def _data(run: Run) -> None:
    """Make the manifests of the parts for training, validation and test."""
    data = run.recipe.data
    if data.source is None:
        _take_sets(run)
        return
    source, out = Path(data.source), run.path("data")
    whole, problems = out / "manifest.jsonl", out / "manifest.problems.jsonl"
    table = {k: v for k, v in asdict(data).items() if k not in ("source", "references")}
    inputs = source_fingerprints(source, skip=run.folder)
    open_stage(out, settings=table, inputs=inputs, force=run.force or not whole.exists())
    if not whole.exists():
        _import_source(source, whole, data)
    fractions = {"test": data.test_fraction, "validation": data.validation_fraction}
    if not all((out / f"{part}.jsonl").exists() for part in ("train", *fractions)):
        corpus = in_language(read_manifest(whole), data.language)
        together = data.keep_speakers_together
        parts = split_manifest(corpus, fractions, seed=data.seed, keep_speakers_together=together)
        for name, utterances in parts.items():
            write_manifest(out / f"{name}.jsonl", utterances)
        sizes = (f"{name} {len(utterances)}" for name, utterances in parts.items())
        say(f"data: utterances for {', '.join(sizes)}")
    if problems.exists():
        run.problems.update({row["path"]: row["problem"] for row in read_jsonl(problems)})


def _import_source(source: Path, dest: Path, data: DataSettings) -> None:
    """Make a manifest of a source; what is long and has no transcripts is cut."""
    if not source.is_dir() and data.max_seconds is None:
        write_manifest(dest, moved_to(dest.parent, read_manifest(source)))
        return
    settings = ImportSettings(language=data.language, max_seconds=data.max_seconds)
    summary = import_data(source, dest, settings)
    if summary.n_by_length[-1] and not summary.n_with_text and data.max_seconds is None:
        say("data: no transcripts: what is longer than 30 s is cut in its pauses")
        dest.unlink()
        summary = import_data(source, dest, replace(settings, cut="vad"))
    say(f"data: {summary} in {source}")


def _take_sets(run: Run) -> None:
    """Make manifests of those that are named, where several become one or get a language."""
    data, out = run.recipe.data, run.path("data")
    parts = {run.manifest("train"): data.named("train"), run.manifest("test"): data.named("test")}
    parts |= zip(run.validation.values(), zip(data.named("validation")), strict=True)
    to_make = {dest: sets_by_name(paths) for dest, paths in parts.items() if dest.parent == out}
    if not to_make:
        return
    paths = {path for sets in to_make.values() for path in sets.values()}
    table = {d.name: {n: p.resolve() for n, p in sets.items()} for d, sets in to_make.items()}
    inputs = {str(path): path for path in sorted(paths)}
    run.open_stage(out, {"language": data.language, **table}, inputs)
    for dest, sets in to_make.items():
        if dest.exists():
            continue
        manifests = {n: in_language(read_manifest(p), data.language) for n, p in sets.items()}
        if len(manifests) > 1:
            merge_manifests(manifests, dest)
        else:
            write_manifest(dest, moved_to(out, *manifests.values()))
        sizes = (f"{name} {len(manifest.utterances)}" for name, manifest in manifests.items())
        say(f"data: utterances in {dest}: {', '.join(sizes)}")


def _label(run: Run) -> None:
    recipe = run.recipe
    held_out = (*run.validation.values(), run.manifest("test"))
    judged = held_out if recipe.data.references == "teacher" else ()
    outs = {run.manifest("train"): run.path("labels")}
    outs |= {run.path("data", path.name): path.with_suffix("") for path in judged}
    workers = Workers(recipe.hardware, recipe.engine)
    summaries = label_manifests(outs, str(run.teacher), recipe.label, workers, force=run.force)
    for summary in summaries:
        run.problems.update(summary.failed)
    say(f"label: {summaries[0]}")
    for path, summary in zip(judged, summaries[1:], strict=True):
        say(f"label: {summary} of what is held out, as references of the {path.stem}")
        manifest = read_manifest(run.path("data", path.name))
        manifest = with_labels_as_texts(manifest, read_labels(summary.folder))
        write_manifest(path, moved_to(path.parent, manifest))


def _filter(run: Run) -> None:
    settings = run.recipe.filter
    settings = replace(settings, language=settings.language or run.recipe.label.decoding.language)
    manifest, labels = run.manifest("train"), run.path("labels")
    out, force = run.path("verdicts"), run.force
    summary = filter_labels(manifest, labels, out, settings, force=force, warns=False)
    say(f"filter: {summary}")


def _student(run: Run) -> None:
    teacher, dest = run.teacher, run.path("student-init")
    inputs = {"teacher": teacher}
    if run.recipe.student.start is not None:
        inputs["start"] = resolve_model(run.recipe.student.start)
    record = run.path("stages", "student")
    run.open_stage(record, asdict(run.recipe.student), inputs)
    if (done := record / "done").exists():
        return
    shutil.rmtree(dest, ignore_errors=True)
    student = make_student(str(teacher), dest, run.recipe.student)
    done.touch()
    say(
        f"student: {student.model.config.decoder_layers} decoder layers, "
        f"{student.model.n_parameters() / 1e6:.1f} M parameters"
    )


def _train(run: Run) -> None:
    recipe, out, dest = run.recipe, run.path("train"), run.path("student")
    dtype = dtype_name(recipe.hardware.pick_training_dtype())
    judged = recipe.evaluate.decoding
    judging = {"validation_task": judged.task, "validation_language": judged.language}
    settings = {**what_shapes_student(recipe.training), "dtype": dtype, **judging}
    inputs = {
        "teacher": run.teacher,
        "manifest": run.manifest("train"),
        **{name: run.path(name) for name in ("labels", "verdicts")},
        "student": run.path("student-init"),
        **{f"validation {name}": path for name, path in run.validation.items()},
    }
    run.open_stage(out, settings, inputs)
    done = out / "done"
    if not run.ranks.as_first_has_it(not done.exists()):
        return
    shutil.rmtree(dest, ignore_errors=True)
    trainer = _trainer(run)
    say(
        f"train: {recipe.training.steps} steps of {recipe.training.batch_size} windows, out of "
        f"{len(trainer.inputs.examples)} with "
        f"{sum(len(example.utterances) for example in trainer.inputs.examples)} utterances "
        f"({recipe.hardware.pick_device()}, {dtype})"
    )
    with progress_bar("train", recipe.training.steps, "steps") as advance:
        result = trainer.fit(on_steps=advance)
    student = trainer.student
    try:
        first_set = next(iter(trainer.validation.values()))
        student = add_alignment_heads(student, first_set)
    except ValueError as error:
        say(f"train: word times will be rough: {error}")
    save_checkpoint(student, dest)
    done.touch()
    best = "unknown" if result.best_wer is None else error_rate(result.best_wer)
    say(f"train: best validation WER {best} at step {result.best_step}")


# To fit its machine, or to get past what stopped it.
_MAY_CHANGE_ON_RESUME = (
    "data_workers micro_batch_size checkpoint_activations log_every skip_utterances"
).split()


def what_shapes_student(settings: TrainingSettings) -> dict[str, Any]:
    """All settings but those that a resumed run may change."""
    return {k: v for k, v in asdict(settings).items() if k not in _MAY_CHANGE_ON_RESUME}


def _trainer(run: Run) -> Trainer:
    recipe = run.recipe
    device, dtype = recipe.hardware.pick_device(), recipe.hardware.pick_training_dtype()
    manifest = read_manifest(run.manifest("train"))
    teacher = load_checkpoint(run.teacher, device=device, dtype=dtype)
    student = load_checkpoint(run.path("student-init"), device=device)
    tokenizer = Tokenizer.from_json(teacher.files.tokenizer_json, where=run.teacher)
    student = allow_silence(student) if recipe.filter.keep_silence else student
    has_prompts = recipe.training.prompt_probability > 0
    student = student.with_generation(**{TRAINED_WITH_PROMPTS: has_prompts})
    judged = recipe.evaluate.decoding
    sets = {n: in_language(read_manifest(p), judged.language) for n, p in run.validation.items()}
    examples, sizes = _examples(run, manifest, tokenizer), student.model.config
    inputs = TrainingInput(manifest, examples, tokenizer, recipe.training, sizes)
    out = run.path("train")
    return Trainer(teacher.model, student, inputs, out, sets, judged.task, run.ranks)


def _examples(run: Run, manifest: Manifest, tokenizer: Tokenizer) -> list[Example]:
    """Return the windows to train on, made of what the filter kept."""
    settings, labels = run.recipe.training, read_labels(run.path("labels"))
    examples = join_kept(manifest, labels, read_verdicts(run.path("verdicts")), tokenizer)
    if run.ranks.is_first:
        check_sounds(manifest, (u for e in examples for u in e.utterances), labels)
    if settings.prompt_probability:
        examples = with_previous_text(
            manifest, examples, tokenizer, max_gap_s=settings.prompt_gap_s
        )
    if settings.pack_s:
        examples = pack_examples(
            examples,
            tokenizer,
            max_s=settings.pack_s,
            pause_s=settings.pack_pause_s,
            fill=settings.pack_fill,
            across_recordings=settings.pack_across_recordings,
            seed=settings.seed,
        )
    return examples


def _evaluate(run: Run) -> None:
    recipe = run.recipe
    test = read_manifest(run.manifest("test"))
    long = run.path("long")
    run.open_stage(long, asdict(recipe.long_form), {"test": run.manifest("test")})
    if not (long / "manifest.jsonl").exists():
        utterances = [u for u in test.utterances if u.text][: recipe.long_form.utterances]
        join_recordings(test, utterances, long, pause_s=recipe.long_form.pause_s)
    sets = {"test": run.manifest("test"), "long": long / "manifest.jsonl"}
    for name, model in (("teacher", run.teacher), ("student", run.path("student"))):
        tasks = [
            EvaluationTask(manifest, recipe.evaluate, run.path("eval", f"{name}-{set_}"))
            for set_, manifest in sets.items()
        ]
        workers = Workers(recipe.hardware, recipe.engine)
        summaries = evaluate_tasks(str(model), tasks, workers, force=run.force)
        for set_, summary in zip(sets, summaries, strict=True):
            say(summary_line(f"evaluate: {name}, {set_}", summary))
            run.problems.update(summary.failed)


def _transcribe(run: Run) -> None:
    recipe, out = run.recipe, run.path("transcripts")
    audio, student = run.path("long", "long.wav"), run.path("student")
    (long,) = read_manifest(run.path("long", "manifest.jsonl")).utterances
    decoding, formats = recipe.evaluate.decoding, recipe.long_form.formats
    language = decoding.language or long.language
    settings = {**asdict(decoding), "language": language, "formats": formats}
    run.open_stage(out, settings, {"audio": audio, "student": student})
    for name, model in (("teacher", str(run.teacher)), ("student", str(student))):
        paths = [out / f"{name}.{kind}" for kind in formats]
        if all(path.exists() for path in paths):
            continue
        transcriber = Transcriber.from_model(model, decoding, recipe.hardware)
        transcript = transcriber.transcribe(load_samples(audio), language=language)
        for path in paths:
            transcript.save(path)


def _report(run: Run) -> None:
    facts = read_run(run.folder)
    say(f"report: {write_card(run.path('student'), facts)}")
    say(f"report: {write_report(run.path(REPORT), [facts])}")


class _Stage(NamedTuple):
    do: Callable[[Run], None]
    leaves: tuple[str, ...]  # in the run's folder


_STAGES: Mapping[StageName, _Stage] = {
    "data": _Stage(_data, ("data",)),
    "label": _Stage(_label, ("labels", "references")),
    "filter": _Stage(_filter, ("verdicts",)),
    "student": _Stage(_student, ("student-init", "stages/student")),
    "train": _Stage(_train, ("train", "student")),
    "evaluate": _Stage(_evaluate, ("long", "eval")),
    "transcribe": _Stage(_transcribe, ("transcripts",)),
    "report": _Stage(_report, (REPORT,)),
}
