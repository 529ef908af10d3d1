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
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar

from distilwhisper.checks import ABOVE_0, AT_LEAST_0, AT_LEAST_1, Checked, Rule, check_rules, ruled
from distilwhisper.corpus.batches import (
    Example,
    Mixture,
    follow_each_other,
    join_kept,
    with_previous_text,
)
from distilwhisper.corpus.importing.importer import import_data, source_fingerprints
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.merging import (
    join_recordings,
    merge_manifests,
    moved_to,
    with_labels_as_texts,
)
from distilwhisper.corpus.packing import pack_examples
from distilwhisper.corpus.records import (
    Manifest,
    in_language,
    read_labels,
    read_manifest,
    read_verdicts,
    write_manifest,
)
from distilwhisper.corpus.sounds import check_sounds
from distilwhisper.corpus.splitting import split_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.decoding.transcriber import Transcriber, check_settings
from distilwhisper.evaluation.degradation import Degradation, Degrader
from distilwhisper.evaluation.scoring import summary_line
from distilwhisper.files import write_atomic
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.languages import language_code
from distilwhisper.model.checkpoint import load_checkpoint, read_config, save_checkpoint
from distilwhisper.model.hardware import Hardware, dtype_name
from distilwhisper.model.hub import ModelNotFound, resolve_model
from distilwhisper.model.layout import BadCheckpoint, read_complete_tokenizer, read_model_folder
from distilwhisper.model.whisper import WhisperConfig
from distilwhisper.progress import progress_bar, say
from distilwhisper.report.facts import error_rate, read_run
from distilwhisper.report.page import REPORT, write_card, write_report
from distilwhisper.run.locks import lock_folder
from distilwhisper.run.processes import EngineSettings
from distilwhisper.run.record import write_run_record
from distilwhisper.run.settings import SettingsError, settings_to_toml
from distilwhisper.run.stages import StageChanged, fingerprint, open_stage
from distilwhisper.speech.audio import load_samples
from distilwhisper.stages.evaluate import EvaluationTask, evaluate_tasks
from distilwhisper.stages.filter import filter_labels, warn_of_limits
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import STAGES, EvaluateSettings, LabelSettings, StageName
from distilwhisper.stages.student import (
    add_alignment_heads,
    allow_silence,
    make_student,
    start_faults,
)
from distilwhisper.text.formats import TranscriptFormat
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.loop import Trainer, TrainingData
from distilwhisper.training.ranks import Ranks, ranks_of_environment
from distilwhisper.training.settings import TrainingSettings
from distilwhisper.training.validation import check_set

Thing = TypeVar("Thing")

_HELD_OUT: Rule = ("lie between 0 and 0.5", lambda share: 0 < share < 0.5)
_OF_A_SPLIT = (
    *("references", "max_seconds", "validation_fraction", "test_fraction", "seed"),
    "keep_speakers_together",
)


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
    references: Literal["texts", "teacher"] = "texts"
    """What the held-out parts of a source are judged by: their texts, or the teacher's labels where
    there is none, which say how far the student is from its teacher, not how right either is."""
    language: str | None = None
    """Language of all the speech, even where a manifest names another; left out: what the manifests
    name, else what the teacher detects."""
    max_seconds: float | None = ruled(None, ABOVE_0)
    """Leave out longer utterances of a source; a window holds 30 s."""
    validation_fraction: float = ruled(0.1, _HELD_OUT)
    """Share of the utterances for validation."""
    test_fraction: float = ruled(0.1, _HELD_OUT)
    """Share of the utterances held out for the test."""
    keep_speakers_together: bool = True
    """Keep every known speaker in one part only; a recording is in one part in any case."""
    seed: int = 0
    """Seed of the split."""

    def __post_init__(self) -> None:
        if (self.source is None) == (not self.train_sets):
            raise ValueError("name either source (to be split) or train (with validation and test)")
        unused = ("validation", "test") if self.source else _OF_A_SPLIT
        surplus = [name for name in unused if getattr(self, name) != getattr(DataSettings, name)]
        why = "a source is split into its own" if self.source else "only a source is split"
        both = {"train": self.train_sets, "validation": self.validation_sets}
        check_rules(
            self,
            bool(self.train_sets and not (self.test and self.validation))
            and "train needs validation and test beside it: the manifest that picks the best "
            "checkpoint, and the one that judges the student",
            bool(surplus) and f"{' and '.join(surplus)} must be left out: {why}",
            *(
                len(set(sets)) < len(sets) and f"{name} must name every manifest once"
                for name, sets in both.items()
            ),
        )

    @property
    def train_sets(self) -> tuple[str, ...]:
        """The manifests for training that are named; none where a source is split."""
        return _one_or_more(self.train)

    @property
    def validation_sets(self) -> tuple[str, ...]:
        """The manifests for validation that are named; none where a source is split."""
        return _one_or_more(self.validation)


def _one_or_more(paths: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else paths or ()


@dataclass(frozen=True)
class LongFormSettings(Checked):
    """The long recording that test utterances are joined into."""

    utterances: int = ruled(60, AT_LEAST_1)
    """How many test utterances, in the order of their ids."""
    pause_s: float = ruled(0.5, AT_LEAST_0)
    """Silence between two of them."""
    formats: tuple[TranscriptFormat, ...] = ("txt", "srt", "json")
    """Formats of the transcripts."""


@dataclass(frozen=True)
class Recipe:
    """One run, completely."""

    name: str
    """Name of the run."""
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
        open_stage(
            folder,
            settings=settings,
            inputs=prints,
            force=self.force,
            check=lambda: [read_model_folder(path) for path in models],
        )

    @cached_property
    def teacher(self) -> Path:
        """Folder of the teacher; looked up once, however many stages need it."""
        return resolve_model(self.recipe.teacher)

    def manifest(self, part: Literal["train", "test"]) -> Path:
        """Return where the manifest of one part of the data is."""
        data = self.recipe.data
        if part == "test" and data.references == "teacher":
            return self.path("references", "test.jsonl")
        paths = data.train_sets if part == "train" else _one_or_more(data.test)
        if len(paths) == 1 and data.language is None:
            return Path(paths[0])
        return self.path("data", f"{part}.jsonl")

    @property
    def validation(self) -> dict[str, Path]:
        """Where the validation sets are, by name."""
        data = self.recipe.data
        if data.references == "teacher":
            return {"validation": self.path("references", "validation.jsonl")}
        paths = _by_name(data.validation_sets or (str(self.path("data", "validation.jsonl")),))
        if data.source is not None or data.language is None:
            return paths
        return {
            name: self.path("data", f"validation-{number}.jsonl")
            for number, name in enumerate(paths)
        }


def _by_name(paths: Sequence[str]) -> dict[str, Path]:
    """Return paths by their file's name, or by the whole where two share it."""
    stems = [Path(path).stem for path in paths]
    return {
        stem if stems.count(stem) == 1 else path: Path(path)
        for path, stem in zip(paths, stems, strict=True)
    }


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

    Args:
        recipe: the settings.
        folder: the run's.
        stages: which ones.
        from_stage: do this stage and all after it again.
        made: folders of the run that lie elsewhere, such as its labels, by their names.
        force: do stages again whose settings or inputs have changed.
        is_checked: :func:`check_recipe` has passed it already.

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
        for made in (run.path(name) for stage in discarded for name in _STAGES[stage][1]):
            if made.is_dir():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)
        try:
            for stage in stages:
                _STAGES[stage][0](run)
                if stage == "data" and recipe.data.source is not None:
                    _check_split(run, stages)
        except StageChanged:  # what lies in the folder was made by the recipe before
            if before is not None:
                write_atomic(path, before)
            raise


def _check_split(run: Run, stages: Sequence[StageName]) -> None:
    """Check the parts that a source was split into, as :func:`check_recipe` does named ones."""
    parts = {"train": run.manifest("train")}
    if run.recipe.data.references == "texts":
        parts |= {"test": run.manifest("test"), **run.validation}
    faults = _Faults()
    sets = {f"data.{name}": [read_manifest(path)] for name, path in parts.items()}
    _check_sets(sets, run.recipe, stages, faults)
    faults.refuse()


# Before the first stage


def check_recipe(
    recipe: Recipe,
    *,
    stages: Sequence[StageName] = STAGES,
    sizes: Callable[[str], WhisperConfig] | None = None,
    has_data: bool = True,
) -> None:
    """Check that a recipe's settings, paths and models go together, before any work is done.

    Limits of the filter that look like per cent are logged. Where the recipe is only planned,
    ``sizes`` returns those of a model, by its folder or hub id; None: it runs here, and needs the
    models' files, the packages and the device. Manifests that are named are read if there is data.

    Raises:
        SettingsError: they do not; every fault is named, with its setting.
    """
    faults = _Faults()
    if sizes is None:
        _check_hardware(recipe, stages, faults)
    tokenizer = None
    if {*stages} - {"data", "filter", "report"}:
        teacher = _check_models(recipe, sizes or _sizes_here, faults)
        if sizes is None or Path(recipe.teacher).is_dir():
            tokenizer = faults.attempt("teacher", _tokenizer_here, recipe.teacher)
        for name, stage in (("label", recipe.label), ("evaluate", recipe.evaluate)):
            setting, decoding = f"{name}.decoding", stage.decoding
            if teacher is None or tokenizer is None:
                faults.attempt(setting, _check_language, decoding.language, None)
            else:
                faults.attempt(setting, check_settings, decoding, tokenizer, teacher.vocab_size)
        faults.attempt("data.language", _check_language, recipe.data.language, tokenizer)
    if "filter" in stages and recipe.filter.max_disagreement is not None:
        faults.append(
            "filter.max_disagreement: needs second labels, and a recipe makes none: leave it out"
        )
    if has_data:
        sets = _named_sets(recipe.data, faults, stages)
        _check_sets(sets, recipe, stages, faults)
        for setting, manifests in sets.items() if recipe.data.language is None else ():
            judge = recipe.label if setting == "data.train" else recipe.evaluate
            if judge.decoding.language is None:
                for language in {u.language for m in manifests for u in m.utterances}:
                    faults.attempt(setting, _check_language, language, tokenizer)
    faults.refuse()
    if "filter" in stages:
        warn_of_limits(recipe.filter)


class _Faults(list[str]):
    """What is wrong with a recipe, each fault behind its setting."""

    def attempt(
        self, setting: str, look_up: Callable[..., Thing], *arguments: object
    ) -> Thing | None:
        """Return what a look-up finds; where it fails, add why."""
        try:
            return look_up(*arguments)
        except (ValueError, OSError, ModelNotFound, BadCheckpoint) as error:
            self.append(f"{setting}: {error}")
            return None

    def refuse(self) -> None:
        """Raise a SettingsError if there are any."""
        faults = [*dict.fromkeys(self)]  # what a model lacks may show in several ways
        if faults:
            noun = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
            raise SettingsError("\n  ".join([f"the recipe cannot be run: {noun}", *faults]))


def _check_hardware(recipe: Recipe, stages: Sequence[StageName], faults: _Faults) -> None:
    hardware = recipe.hardware
    pick = hardware.pick_training_dtype if "train" in stages else hardware.pick_device
    faults.attempt("hardware", pick)
    packages = (
        ("hardware.backend", recipe.hardware.backend == "openvino", "openvino", "openvino"),
        ("engine.engine", recipe.engine.engine == "ray", "ray", "ray"),
        ("evaluate.decoding.vad_filter", recipe.evaluate.decoding.vad_filter, "silero_vad", "vad"),
    )
    for setting, is_needed, module, extra in packages:
        if is_needed and find_spec(module) is None:
            faults.append(f'{setting}: pip install "distilwhisper[{extra}]"')


def _check_models(
    recipe: Recipe, sizes: Callable[[str], WhisperConfig], faults: _Faults
) -> WhisperConfig | None:
    """Check the student's layers; return the teacher's sizes, where they can be had."""
    student = recipe.student
    teacher = faults.attempt("teacher", sizes, recipe.teacher)
    if teacher is None:
        return None
    source = teacher
    if student.start is not None:
        source = faults.attempt("student.start", sizes, student.start) or teacher
        faults += (f"student.start: {fault}" for fault in start_faults(source, teacher))
    kept = faults.attempt("student", student.decoder_sources, source.decoder_layers) or []
    pairs = source.width == teacher.width and len(kept) <= teacher.decoder_layers
    if recipe.training.mse_weight and not pairs:
        faults.append(
            "training.mse_weight: pairs states of one width, and each layer of the student with "
            f"one or more of the teacher's, found widths {source.width} and {teacher.width}, "
            f"{len(kept)} and {teacher.decoder_layers} decoder layers: set it to 0"
        )
    layers = faults.attempt("student", student.encoder_sources, source.encoder_layers)
    if layers and len(layers) < source.encoder_layers and not recipe.training.train_encoder:
        faults.append(
            "an encoder that has lost layers must be trained, found student.encoder_layers "
            f"{len(layers)} of {source.encoder_layers} and training.train_encoder false: set it to "
            "true, or leave encoder_layers out"
        )
    return teacher


def _check_language(language: str | None, tokenizer: Tokenizer | None) -> None:
    if language is not None:
        (language_code if tokenizer is None else tokenizer.language_code)(language)


def _named_sets(
    data: DataSettings, faults: _Faults, stages: Sequence[StageName]
) -> dict[str, list[Manifest]]:
    """Return the manifests that a recipe names, by the setting that does."""
    if data.source is not None and ("data" not in stages or Path(data.source).is_dir()):
        return {}
    found: dict[str, list[Manifest]] = {}
    for name in ("source", "train", "validation", "test"):
        for path in _one_or_more(getattr(data, name)):
            if manifest := faults.attempt(f"data.{name}", read_manifest, Path(path)):
                found.setdefault(f"data.{name}", []).append(manifest)
    return found


def _check_sets(
    sets: Mapping[str, Sequence[Manifest]],
    recipe: Recipe,
    stages: Sequence[StageName],
    faults: _Faults,
) -> None:
    for setting, manifest in ((setting, m) for setting, own in sets.items() for m in own):
        if setting == "data.validation" and "train" in stages:
            faults.attempt(setting, check_set, manifest)
        if setting == "data.test" and "evaluate" in stages:
            faults.attempt(setting, _check_texts, manifest)
    if "train" in stages and "data.train" in sets:
        _check_training(recipe, sets["data.train"], faults)
    noise = recipe.evaluate.degradation
    if noise is not None and "evaluate" in stages:
        faults.attempt("evaluate.noise", _check_noise, noise, sets.get("data.test", ()))


def _check_training(recipe: Recipe, train_sets: Sequence[Manifest], faults: _Faults) -> None:
    training = recipe.training
    if training.prompt_probability and not any(
        follow_each_other(manifest, max_gap_s=training.prompt_gap_s) for manifest in train_sets
    ):
        faults.append(
            "training.prompt_probability: needs utterances in data.train that begin at "
            f"most prompt_gap_s ({training.prompt_gap_s:g} s) behind another of the same file, "
            "recording and speaker, found none by start_s and duration_s: set it to 0"
        )
    ids = {u.id for manifest in train_sets for u in manifest.utterances}
    strays = [id_ for id_ in training.skip_utterances if id_ not in ids]
    if strays:
        faults.append(f"training.skip_utterances: not in data.train: {', '.join(strays)}")
    if training.source_weights:
        paths = recipe.data.train_sets
        names = {path: name for name, path in _by_name(paths).items()} if len(paths) > 1 else {}
        sources = [
            names.get(m.path) if u.source is None else u.source
            for m in train_sets
            for u in m.utterances
        ]
        weights = dict(training.source_weights)
        faults.attempt("training.source_weights", partial(Mixture, seed=0), sources, weights)


def _check_texts(manifest: Manifest) -> None:
    if not any((utterance.text or "").strip() for utterance in manifest.utterances):
        raise ValueError(
            f"{manifest.path} must hold utterances with a text to judge by, found none among "
            f"{len(manifest.utterances)}: transcribe some, or judge by the teacher's labels, with "
            'data.references = "teacher"'
        )


def _check_noise(noise: Degradation, tests: Sequence[Manifest]) -> None:
    """Refuse noise that cannot be made for the test, or for the long recording beside it."""
    if noise.kind == "babble" and noise.source is None:
        raise ValueError(
            "babble must have a manifest of voices, as in babble:5@other.jsonl: the long recording "
            "that is evaluated too has no other voices beside it"
        )
    if noise.source is not None and not noise.source.exists():
        raise ValueError(f"{noise.source} is not there")
    for manifest in tests:
        Degrader(noise, manifest)


def _sizes_here(name: str) -> WhisperConfig:
    return read_config(resolve_model(name))


def _tokenizer_here(name: str) -> Tokenizer:
    folder = resolve_model(name)
    return Tokenizer.from_json(read_complete_tokenizer(folder), where=folder)


# The stages


def _data(run: Run) -> None:
    """Make the manifests of the parts for training, validation and test."""
    data = run.recipe.data
    if data.source is None:
        _take_sets(run)
        return
    source, out = Path(data.source), run.path("data")
    table = {k: v for k, v in asdict(data).items() if k not in ("source", "references")}
    inputs = source_fingerprints(source, skip=run.folder)
    is_made = (out / "manifest.jsonl").exists()
    open_stage(out, settings=table, inputs=inputs, force=run.force or not is_made)
    if not (out / "manifest.jsonl").exists():
        if source.is_dir() or data.max_seconds is not None:
            settings = ImportSettings(language=data.language, max_seconds=data.max_seconds)
            summary = import_data(source, out / "manifest.jsonl", settings)
            n_longer = summary.n_by_length[-1]
            if n_longer and not summary.n_with_text and data.max_seconds is None:
                say("data: no transcripts: what is longer than 30 s is cut in its pauses")
                (out / "manifest.jsonl").unlink()
                settings = replace(settings, cut="vad")
                summary = import_data(source, out / "manifest.jsonl", settings)
            say(f"data: {summary} in {source}")
        else:
            write_manifest(out / "manifest.jsonl", moved_to(out, read_manifest(source)))
    fractions = {"test": data.test_fraction, "validation": data.validation_fraction}
    if not all((out / f"{part}.jsonl").exists() for part in ("train", *fractions)):
        parts = split_manifest(
            in_language(read_manifest(out / "manifest.jsonl"), data.language),
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


def _take_sets(run: Run) -> None:
    """Make manifests of those that are named, where several become one or get a language."""
    data = run.recipe.data
    validation = map(_one_or_more, data.validation_sets)
    sources = {
        run.manifest("train"): data.train_sets,
        run.manifest("test"): _one_or_more(data.test),
        **dict(zip(run.validation.values(), validation, strict=True)),
    }
    to_make = {
        dest: _by_name(paths) for dest, paths in sources.items() if dest.parent == run.path("data")
    }
    if not to_make:
        return
    paths = {path for sets in to_make.values() for path in sets.values()}
    table = {d.name: {n: p.resolve() for n, p in sets.items()} for d, sets in to_make.items()}
    inputs = {str(path): path for path in sorted(paths)}
    run.open_stage(run.path("data"), {"language": data.language, **table}, inputs)
    for dest, sets in to_make.items():
        if dest.exists():
            continue
        manifests = {n: in_language(read_manifest(p), data.language) for n, p in sets.items()}
        if len(manifests) > 1:
            merge_manifests(manifests, dest)
        else:
            write_manifest(dest, moved_to(dest.parent, *manifests.values()))
        sizes = (f"{name} {len(manifest.utterances)}" for name, manifest in manifests.items())
        say(f"data: utterances in {dest}: {', '.join(sizes)}")


def _label(run: Run) -> None:
    recipe = run.recipe
    held_out = (*run.validation.values(), run.manifest("test"))
    judged = held_out if recipe.data.references == "teacher" else ()
    summaries = label_manifests(
        {
            run.manifest("train"): run.path("labels"),
            **{run.path("data", path.name): path.with_suffix("") for path in judged},
        },
        str(run.teacher),
        recipe.label,
        hardware=recipe.hardware,
        engine=recipe.engine,
        force=run.force,
    )
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
    summary = filter_labels(manifest, labels, run.path("verdicts"), settings, force=run.force)
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
    run.open_stage(
        out,
        {
            **what_shapes_student(recipe.training),
            "dtype": dtype,
            "validation_task": recipe.evaluate.decoding.task,
            "validation_language": recipe.evaluate.decoding.language,
        },
        {
            "teacher": run.teacher,
            "manifest": run.manifest("train"),
            "labels": run.path("labels"),
            "verdicts": run.path("verdicts"),
            "student": run.path("student-init"),
            **{f"validation {name}": path for name, path in run.validation.items()},
        },
    )
    done = out / "done"
    if not run.ranks.as_first_has_it(not done.exists()):
        return
    shutil.rmtree(dest, ignore_errors=True)
    trainer = _trainer(run)
    say(
        f"train: {recipe.training.steps} steps of {recipe.training.batch_size} windows, out of "
        f"{len(trainer.data.examples)} with "
        f"{sum(len(example.utterances) for example in trainer.data.examples)} utterances "
        f"({recipe.hardware.pick_device()}, {dtype})"
    )
    with progress_bar("train", recipe.training.steps, "steps") as advance:
        result = trainer.fit(on_steps=advance)
    student = trainer.student
    try:
        first_set = next(iter(trainer.data.validation.values()))
        student = add_alignment_heads(student, first_set)
    except ValueError as error:
        say(f"train: word times will be rough: {error}")
    save_checkpoint(student, dest)
    done.touch()
    best = "unknown" if result.best_wer is None else error_rate(result.best_wer)
    say(f"train: best validation WER {best} at step {result.best_step}")


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


def _trainer(run: Run) -> Trainer:
    recipe = run.recipe
    device, dtype = recipe.hardware.pick_device(), recipe.hardware.pick_training_dtype()
    manifest = read_manifest(run.manifest("train"))
    teacher = load_checkpoint(run.teacher, device=device, dtype=dtype)
    student = load_checkpoint(run.path("student-init"), device=device)
    tokenizer = Tokenizer.from_json(teacher.files.tokenizer_json, where=run.teacher)
    return Trainer(
        teacher=teacher.model,
        student=allow_silence(student) if recipe.filter.keep_silence else student,
        tokenizer=tokenizer,
        data=TrainingData(
            manifest=manifest,
            examples=_examples(run, manifest, tokenizer),
            validation={
                name: in_language(read_manifest(path), recipe.evaluate.decoding.language)
                for name, path in run.validation.items()
            },
            task=recipe.evaluate.decoding.task,
        ),
        settings=recipe.training,
        out=run.path("train"),
        ranks=run.ranks,
    )


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
        summaries = evaluate_tasks(
            str(model),
            [
                EvaluationTask(manifest, recipe.evaluate, run.path("eval", f"{name}-{set_}"))
                for set_, manifest in sets.items()
            ],
            hardware=recipe.hardware,
            engine=recipe.engine,
            force=run.force,
        )
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


# What runs each stage, and what that leaves in the run's folder.
_STAGES: Mapping[StageName, tuple[Callable[[Run], None], tuple[str, ...]]] = {
    "data": (_data, ("data",)),
    "label": (_label, ("labels", "references")),
    "filter": (_filter, ("verdicts",)),
    "student": (_student, ("student-init", "stages/student")),
    "train": (_train, ("train", "student")),
    "evaluate": (_evaluate, ("long", "eval")),
    "transcribe": (_transcribe, ("transcripts",)),
    "report": (_report, (REPORT,)),
}
