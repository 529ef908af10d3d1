"""The whole job as one recipe: which stage reads what the one before has written.

    RUN/recipe.toml  run.json
        data/           manifest.jsonl, train.jsonl, validation.jsonl, test.jsonl
        labels/         what the teacher heard                        label.py
        verdicts/       which labels are kept, and why not            filter.py
        student-init/   the student before training                   student.py
        train/          checkpoints, metrics.jsonl                    training/
        student/        the student: a Hugging Face model folder, its card among them
        long/           a long recording made of test utterances
        eval/           {teacher,student}-{test,long}/                evaluate.py
        transcripts/    of the long recording
        report.html                                                   report/

Every stage skips what is done and refuses what was made with other settings, so running a recipe
again goes on where it stopped; ``from_stage`` throws a stage and all behind it away first.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from distilwhisper.corpus.batches import Example, join_kept, with_previous_text
from distilwhisper.corpus.importing.entries import ImportSettings
from distilwhisper.corpus.importing.fingerprints import source_fingerprints
from distilwhisper.corpus.importing.importer import import_data
from distilwhisper.corpus.long_form import join_recordings
from distilwhisper.corpus.merging import merge_manifests, moved_to
from distilwhisper.corpus.packing import pack_examples
from distilwhisper.corpus.records import (
    Manifest,
    read_labels,
    read_manifest,
    read_verdicts,
    write_manifest,
)
from distilwhisper.corpus.splitting import split_manifest
from distilwhisper.corpus.store import read_jsonl, write_atomic
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.engines import EngineSettings
from distilwhisper.evaluate import EvaluateSettings, evaluate_model
from distilwhisper.evaluation.scoring import summary_line
from distilwhisper.filter import FilterSettings, filter_labels
from distilwhisper.label import LabelSettings, label_manifest
from distilwhisper.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_config,
    save_checkpoint,
)
from distilwhisper.model.hardware import Hardware, dtype_name
from distilwhisper.model.hub import resolve_model
from distilwhisper.progress import progress_bar, say
from distilwhisper.report import REPORT, read_run, write_card, write_report
from distilwhisper.run.locks import lock_folder
from distilwhisper.run.record import write_run_record
from distilwhisper.run.settings import settings_to_toml
from distilwhisper.run.stages import StageChanged, fingerprint, open_stage
from distilwhisper.speech.audio import load_samples
from distilwhisper.student import StudentSettings, add_alignment_heads, make_student
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.transcript import TranscriptFormat
from distilwhisper.training.loop import Trainer, TrainingData
from distilwhisper.training.ranks import Ranks, ranks_of_environment
from distilwhisper.training.settings import TrainingSettings
from distilwhisper.transcribe import write_transcript

StageName = Literal[
    "data", "label", "filter", "student", "train", "evaluate", "transcribe", "report"
]
STAGES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True)
class DataSettings:
    """Where the speech comes from, and what is held out from training."""

    source: str | None = None
    """A folder of audio with transcripts, or a manifest, to be split by the fractions below."""
    train: str | tuple[str, ...] | None = None
    """Instead of a source: the manifest to label and train on, or several. Of several, utterances
    without a source get their manifest's name, by which training.source_weights weighs them."""
    validation: str | tuple[str, ...] | None = None
    """With train: the manifest that picks the best checkpoint; it needs references. Of several the
    mean of their error rates counts."""
    test: str | None = None
    """With train: the manifest that the student is judged by; it needs references."""
    language: str | None = None
    """Of all of a folder's audio."""
    max_seconds: float | None = None
    """Of a source: leave out what is longer; a window holds 30 s."""
    validation_fraction: float = 0.1
    """Share of the utterances for validation."""
    test_fraction: float = 0.1
    """Share of the utterances held out for the test."""
    keep_speakers_together: bool = True
    """Whether a speaker is in one part only, where speakers are known; recordings always are."""
    seed: int = 0
    """Of the split."""

    def __post_init__(self) -> None:
        if (self.source is None) == (not self.train_sets):
            raise ValueError("name either source (to be split) or train (with validation and test)")
        if self.train_sets and not (self.test and self.validation):
            raise ValueError(
                "train needs validation and test beside it: the manifest that picks the best "
                "checkpoint, and the one that judges the student"
            )
        for name in ("train", "validation"):
            named = getattr(self, f"{name}_sets")
            if len(set(named)) < len(named):
                raise ValueError(f"{name} must name every manifest once")
        if self.max_seconds is not None and (self.source is None or not self.max_seconds > 0):
            raise ValueError("max_seconds must be above 0, and is of a source alone")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise ValueError(f"{name} must lie between 0 and 0.5, found {getattr(self, name)}")

    @property
    def train_sets(self) -> tuple[str, ...]:
        """The manifests for training that are named; none where a source is split."""
        return _one_or_more(self.train)

    @property
    def validation_sets(self) -> tuple[str, ...]:
        """The manifests for validation that are named; none where a source is split."""
        return _one_or_more(self.validation)


def _one_or_more(named: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else named or ()


@dataclass(frozen=True)
class LongFormSettings:
    """The long recording that test utterances are joined into."""

    utterances: int = 60
    """How many test utterances, in the order of their ids."""
    pause_s: float = 0.5
    """Silence between two of them."""
    formats: tuple[TranscriptFormat, ...] = ("txt", "srt", "json")
    """Of the transcripts."""

    def __post_init__(self) -> None:
        if self.utterances < 1 or self.pause_s < 0:
            raise ValueError("utterances must be at least 1 and pause_s at least 0")


@dataclass(frozen=True)
class Recipe:
    """One run, completely."""

    name: str
    """Of the run."""
    teacher: str
    """Model folder or hub id."""
    data: DataSettings
    hardware: Hardware = field(default_factory=Hardware)
    engine: EngineSettings = field(default_factory=EngineSettings)
    label: LabelSettings = field(default_factory=LabelSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    student: StudentSettings = field(default_factory=StudentSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    long_form: LongFormSettings = field(default_factory=LongFormSettings)


@dataclass(frozen=True)
class Run:
    """A recipe and the folder it fills."""

    recipe: Recipe
    folder: Path
    force: bool = False
    ranks: Ranks = field(default_factory=Ranks)  # the processes that train together
    problems: dict[str, str] = field(default_factory=dict)  # inputs that failed, and why

    def path(self, *parts: str) -> Path:
        """Return a place in the run's folder."""
        return self.folder.joinpath(*parts)

    @cached_property
    def teacher(self) -> Path:
        """Where the teacher lies; asked of the hub once, however many stages need it."""
        return resolve_model(self.recipe.teacher)

    def manifest(self, part: Literal["train", "test"]) -> Path:
        """Return where the manifest of one part of the data is."""
        data = self.recipe.data
        named = data.train_sets if part == "train" else _one_or_more(data.test)
        return Path(named[0]) if len(named) == 1 else self.path("data", f"{part}.jsonl")

    @property
    def validation(self) -> dict[str, Path]:
        """Where the validation sets are, by name."""
        named = self.recipe.data.validation_sets
        return _by_name(named or (str(self.path("data", "validation.jsonl")),))


def _by_name(paths: Sequence[str]) -> dict[str, Path]:
    """Return paths by their file's name, or by the whole where two share it."""
    stems = [Path(path).stem for path in paths]
    return {
        stem if stems.count(stem) == 1 else path: Path(path)
        for path, stem in zip(paths, stems, strict=True)
    }


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    command: Sequence[str],
    stages: Sequence[StageName] = STAGES,
    from_stage: StageName | None = None,
    force: bool = False,
) -> Run:
    """Run a recipe's stages in order, skipping what is done.

    Started by torchrun, several processes train together; the first does all else alone.

    Args:
        recipe: the settings.
        folder: the run's.
        command: what was typed, for the record.
        stages: which ones.
        from_stage: do this stage and all behind it again.
        force: do stages again whose settings or inputs have changed.

    Returns:
        The run, with the inputs that failed on the way.

    Raises:
        StageChanged: what the folder holds was made with other settings or from other inputs.
        ValueError: the settings of two stages do not go together.
    """
    if "train" in stages:  # found out before the labels are made, not after
        recipe.hardware.pick_training_dtype()
    folder.mkdir(parents=True, exist_ok=True)
    with ranks_of_environment(recipe.hardware) as ranks:
        run = Run(recipe, folder, force, ranks)
        if ranks.is_first:
            _lead(run, command, stages, from_stage)
        elif "train" in stages:
            _train_along(run)
    return run


def _lead(
    run: Run,
    command: Sequence[str],
    stages: Sequence[StageName],
    from_stage: StageName | None,
) -> None:
    """Run the stages: as the only process, or as the first of those that train together."""
    folder, recipe = run.folder, run.recipe
    path = folder / "recipe.toml"
    with lock_folder(folder):
        before = path.read_text(encoding="utf-8") if path.exists() else None
        write_atomic(path, settings_to_toml(recipe))
        write_run_record(folder, seed=recipe.training.seed, command=list(command))
        if from_stage is not None:
            for stage in STAGES[STAGES.index(from_stage) :]:
                _discard(run, stage)
        try:
            for stage in stages:
                _STAGE_FUNCTIONS[stage](run)
        except StageChanged:  # what lies in the folder was made by the recipe before
            if before is not None:
                write_atomic(path, before)
            raise


def _discard(run: Run, stage: StageName) -> None:
    for name in _STAGE_OUTPUTS[stage]:
        path = run.path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


# The stages


def _data(run: Run) -> None:
    """Make the manifests of the three parts, or one of the several that the recipe trains on."""
    data = run.recipe.data
    if data.source is None:
        if len(data.train_sets) > 1:
            _merge(run, _by_name(data.train_sets))
        return
    source, out = Path(data.source), run.path("data")
    table = {k: v for k, v in asdict(data).items() if k != "source"}
    inputs = source_fingerprints(source, skip=run.folder)
    open_stage(out, settings=table, inputs=inputs, force=run.force)
    if not (out / "manifest.jsonl").exists():
        if source.is_dir() or data.max_seconds is not None:
            settings = ImportSettings(language=data.language, max_seconds=data.max_seconds)
            summary = import_data(source, out / "manifest.jsonl", settings)
            say(f"data: {summary} in {source}")
        else:
            write_manifest(out / "manifest.jsonl", moved_to(out, read_manifest(source)))
    fractions = {"test": data.test_fraction, "validation": data.validation_fraction}
    parts = split_manifest(
        read_manifest(out / "manifest.jsonl"),
        fractions,
        seed=data.seed,
        keep_speakers_together=data.keep_speakers_together,
    )
    for name, utterances in parts.items():
        write_manifest(out / f"{name}.jsonl", utterances)
    sizes = (f"{name} {len(utterances)}" for name, utterances in parts.items())
    say(f"data: utterances for {', '.join(sizes)}")
    problems = out / "manifest.problems.jsonl"
    if problems.exists():
        run.problems.update({row["path"]: row["problem"] for row in read_jsonl(problems)})


def _merge(run: Run, named: dict[str, Path]) -> None:
    """Make the manifest to train on of several."""
    open_stage(
        run.path("data"),
        settings={name: str(path.resolve()) for name, path in named.items()},
        inputs={name: fingerprint(path) for name, path in named.items()},
        force=run.force,
    )
    if not run.manifest("train").exists():
        manifests = {name: read_manifest(path) for name, path in named.items()}
        merge_manifests(manifests, run.manifest("train"))
        sizes = (f"{name} {len(manifest.utterances)}" for name, manifest in manifests.items())
        say(f"data: utterances to train on: {', '.join(sizes)}")


def _label(run: Run) -> None:
    summary = label_manifest(
        run.manifest("train"),
        str(run.teacher),
        run.path("labels"),
        run.recipe.label,
        hardware=run.recipe.hardware,
        engine=run.recipe.engine,
        force=run.force,
    )
    say(f"label: {summary}")
    run.problems.update(summary.failed)


def _filter(run: Run) -> None:
    summary = filter_labels(
        run.manifest("train"),
        run.path("labels"),
        run.path("verdicts"),
        run.recipe.filter,
        force=run.force,
    )
    say(f"filter: {summary}")


def _student(run: Run) -> None:
    _check_encoder(run)
    teacher, dest = run.teacher, run.path("student-init")
    made_from = {"teacher": fingerprint(teacher)}
    if run.recipe.student.start is not None:
        made_from["start"] = fingerprint(resolve_model(run.recipe.student.start))
    record = run.path("stages", "student")
    open_stage(record, settings=asdict(run.recipe.student), inputs=made_from, force=run.force)
    done = record / "done"
    if done.exists():
        return
    shutil.rmtree(dest, ignore_errors=True)
    student = make_student(str(teacher), dest, run.recipe.student)
    done.touch()
    say(
        f"student: {student.model.config.decoder_layers} decoder layers, "
        f"{student.model.n_parameters() / 1e6:.1f} M parameters"
    )


def _check_encoder(run: Run) -> None:
    """Refuse an encoder that lacks layers and never learns to do without them."""
    student = run.recipe.student
    if student.encoder_layers is None or run.recipe.training.train_encoder:
        return
    source = run.teacher if student.start is None else resolve_model(student.start)
    n_layers = read_config(source).encoder_layers
    if student.encoder_layers < n_layers:
        raise ValueError(
            "an encoder that has lost layers must be trained, found student.encoder_layers "
            f"{student.encoder_layers} of {n_layers} and training.train_encoder false: set it to "
            "true, or leave encoder_layers out"
        )


def _train(run: Run) -> None:
    _check_encoder(run)
    recipe, out, dest = run.recipe, run.path("train"), run.path("student")
    inputs = {
        "teacher": run.teacher,
        "manifest": run.manifest("train"),
        "labels": run.path("labels"),
        "verdicts": run.path("verdicts"),
        "student": run.path("student-init"),
        **{f"validation {name}": path for name, path in run.validation.items()},
    }
    open_stage(
        out,
        settings={
            **what_shapes_student(recipe.training),
            "dtype": _picked_dtype(run),
            "validation_task": recipe.evaluate.decoding.task,
            "validation_language": recipe.evaluate.decoding.language,
        },
        inputs={name: fingerprint(path) for name, path in inputs.items()},
        force=run.force,
    )
    done = out / "done"
    if not run.ranks.told_by_first(not done.exists()):
        return
    shutil.rmtree(dest, ignore_errors=True)
    trainer = _trainer(run)
    say(
        f"train: {recipe.training.steps} steps of {recipe.training.batch_size} windows, out of "
        f"{len(trainer.data.examples)} with "
        f"{sum(len(example.utterances) for example in trainer.data.examples)} utterances "
        f"({recipe.hardware.pick_device()}, {_picked_dtype(run)})"
    )
    with progress_bar("train", recipe.training.steps, "steps") as advance:
        result = trainer.fit(on_steps=advance)
    save_checkpoint(_with_heads(trainer), dest)
    done.touch()
    say(f"train: best validation WER {_percent(result.best_wer)} at step {result.best_step}")


def _train_along(run: Run) -> None:
    """Train as one of the processes that the first one leads; it alone writes."""
    there_is_work = run.ranks.told_by_first(False)
    if there_is_work:
        _trainer(run).fit()


# To fit its machine, or to get past what stopped it.
_MAY_CHANGE_ON_RESUME = (
    "data_workers",
    "micro_batch_size",
    "checkpoint_activations",
    "log_every",
    "skip_utterances",
)


def what_shapes_student(settings: TrainingSettings) -> dict[str, Any]:
    """All settings but those that a resumed run may change."""
    return {k: v for k, v in asdict(settings).items() if k not in _MAY_CHANGE_ON_RESUME}


def _picked_dtype(run: Run) -> str:
    """Name the number format, which "auto" leaves to the hardware."""
    return dtype_name(run.recipe.hardware.pick_training_dtype())


def _with_heads(trainer: Trainer) -> Checkpoint:
    """Measure the student's alignment heads on the first validation set, if that can be done."""
    try:
        return add_alignment_heads(trainer.student, next(iter(trainer.data.validation.values())))
    except ValueError as error:
        say(f"train: word times will be rough: {error}")
        return trainer.student


def _trainer(run: Run) -> Trainer:
    recipe = run.recipe
    device, dtype = recipe.hardware.pick_device(), recipe.hardware.pick_training_dtype()
    manifest = read_manifest(run.manifest("train"))
    teacher = load_checkpoint(run.teacher, device=device, dtype=dtype)
    tokenizer = Tokenizer.from_json(teacher.files.tokenizer_json, where=run.teacher)
    return Trainer(
        teacher=teacher.model,
        student=load_checkpoint(run.path("student-init"), device=device),
        tokenizer=tokenizer,
        data=TrainingData(
            manifest=manifest,
            examples=_examples(run, manifest, tokenizer),
            validation={name: read_manifest(path) for name, path in run.validation.items()},
            task=recipe.evaluate.decoding.task,
            language=recipe.evaluate.decoding.language,
        ),
        settings=recipe.training,
        out=run.path("train"),
        ranks=run.ranks,
    )


def _examples(run: Run, manifest: Manifest, tokenizer: Tokenizer) -> list[Example]:
    """Return the windows to train on, made of what the filter kept."""
    settings = run.recipe.training
    examples = join_kept(
        manifest, read_labels(run.path("labels")), read_verdicts(run.path("verdicts")), tokenizer
    )
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
    open_stage(
        long,
        settings=asdict(recipe.long_form),
        inputs={"test": fingerprint(run.manifest("test"))},
        force=run.force,
    )
    if not (long / "manifest.jsonl").exists():
        spoken = [u for u in test.utterances if u.text][: recipe.long_form.utterances]
        join_recordings(test, spoken, long, pause_s=recipe.long_form.pause_s)
    for set_, manifest in (("test", run.manifest("test")), ("long", long / "manifest.jsonl")):
        for name, model in (("teacher", str(run.teacher)), ("student", str(run.path("student")))):
            summary = evaluate_model(
                model,
                manifest,
                run.path("eval", f"{name}-{set_}"),
                recipe.evaluate,
                hardware=recipe.hardware,
                engine=recipe.engine,
                force=run.force,
            )
            say(summary_line(f"evaluate: {name}, {set_}", summary))
            run.problems.update(summary.failed)


def _transcribe(run: Run) -> None:
    recipe, out = run.recipe, run.path("transcripts")
    audio = run.path("long", "long.wav")
    student = run.path("student")
    open_stage(
        out,
        settings={**asdict(recipe.evaluate.decoding), "formats": recipe.long_form.formats},
        inputs={"audio": fingerprint(audio), "student": fingerprint(student)},
        force=run.force,
    )
    for name, model in (("teacher", str(run.teacher)), ("student", str(student))):
        paths = {kind: out / f"{name}.{kind}" for kind in recipe.long_form.formats}
        if all(path.exists() for path in paths.values()):
            continue
        transcriber = Transcriber.from_model(model, recipe.evaluate.decoding, recipe.hardware)
        transcript = transcriber.transcribe(load_samples(audio), language=recipe.data.language)
        for kind, path in paths.items():
            write_transcript(transcript, path, kind)


def _report(run: Run) -> None:
    facts = read_run(run.folder)
    say(f"report: {write_card(run.path('student'), facts)}")
    say(f"report: {write_report(run.path(REPORT), [facts])}")


def _percent(fraction: float | None) -> str:
    return "unknown" if fraction is None else f"{100 * fraction:.1f} %"


_STAGE_FUNCTIONS: dict[StageName, Callable[[Run], None]] = {
    "data": _data,
    "label": _label,
    "filter": _filter,
    "student": _student,
    "train": _train,
    "evaluate": _evaluate,
    "transcribe": _transcribe,
    "report": _report,
}

_STAGE_OUTPUTS: dict[StageName, tuple[str, ...]] = {
    "data": ("data",),
    "label": ("labels",),
    "filter": ("verdicts",),
    "student": ("student-init", "stages/student"),
    "train": ("train", "student"),
    "evaluate": ("long", "eval"),
    "transcribe": ("transcripts",),
    "report": ("report.html",),
}
