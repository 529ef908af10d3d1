"""What a run is told: its settings, and whether they can be run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

from distilwhisper.checks import ABOVE_0, AT_LEAST_0, AT_LEAST_1, Checked, Rule, check_rules, ruled
from distilwhisper.corpus.batches import Mixture, follow_each_other
from distilwhisper.corpus.records import Manifest, read_manifest
from distilwhisper.decoding.transcriber import check_settings
from distilwhisper.evaluation.degradation import Degradation, Degrader
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.languages import language_code
from distilwhisper.model.checkpoint import read_config
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import ModelNotFound, resolve_model
from distilwhisper.model.layout import BadCheckpoint, read_complete_tokenizer
from distilwhisper.model.whisper import WhisperConfig
from distilwhisper.run.processes import EngineSettings
from distilwhisper.run.settings import SettingsError, listed
from distilwhisper.stages.filter import warn_of_limits
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import STAGES, EvaluateSettings, LabelSettings, StageName
from distilwhisper.stages.student import start_faults
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.transcript import TranscriptFormat
from distilwhisper.training.settings import TrainingSettings
from distilwhisper.training.validation import check_set

Thing = TypeVar("Thing")

_HELD_OUT: Rule = ("lie between 0 and 0.5", lambda share: 0 < share < 0.5)
_OF_A_SPLIT = (
    "references max_seconds validation_fraction test_fraction seed keep_speakers_together"
).split()


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
        if (self.source is None) == (not self.named("train")):
            raise ValueError("name either source (to be split) or train (with validation and test)")
        unused = ("validation", "test") if self.source else _OF_A_SPLIT
        surplus = [name for name in unused if getattr(self, name) != getattr(DataSettings, name)]
        why = "a source is split into its own" if self.source else "only a source is split"
        check_rules(
            self,
            bool(self.train and not (self.test and self.validation))
            and "train needs validation and test beside it: the manifest that picks the best "
            "checkpoint, and the one that judges the student",
            bool(surplus) and f"{' and '.join(surplus)} must be left out: {why}",
            *(
                len(set(self.named(part))) < len(self.named(part))
                and f"{part} must name every manifest once"
                for part in ("train", "validation")
            ),
        )

    def named(self, part: str) -> tuple[str, ...]:
        """Return the manifests that are named as a part; none where a source is split."""
        paths = getattr(self, part)
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


def sets_by_name(paths: Sequence[str]) -> dict[str, Path]:
    """Return paths by their file's name, or by the whole where two share it."""
    stems = [Path(path).stem for path in paths]
    return {
        stem if stems.count(stem) == 1 else path: Path(path)
        for path, stem in zip(paths, stems, strict=True)
    }


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
    check, tokenizer = _Check(recipe, stages), None
    if sizes is None:
        check.hardware()
    if {*stages} - {"data", "filter", "report"}:
        teacher = check.models(sizes or (lambda name: read_config(resolve_model(name))))
        if sizes is None or Path(recipe.teacher).is_dir():
            tokenizer = check.attempt("teacher", _tokenizer_of, recipe.teacher)
        for name, stage in (("label", recipe.label), ("evaluate", recipe.evaluate)):
            setting, decoding = f"{name}.decoding", stage.decoding
            if teacher is None or tokenizer is None:
                check.attempt(setting, _check_language, decoding.language, None)
            else:
                check.attempt(setting, check_settings, decoding, tokenizer, teacher.vocab_size)
        check.attempt("data.language", _check_language, recipe.data.language, tokenizer)
    if "filter" in stages and recipe.filter.max_disagreement is not None:
        check.faults.append("filter.max_disagreement: a recipe has no second labels: leave it out")
    if has_data:
        sets = check.named_sets()
        check.sets(sets)
        for setting, manifests in sets.items() if recipe.data.language is None else ():
            judge = recipe.label if setting == "data.train" else recipe.evaluate
            if judge.decoding.language is None:
                for language in {u.language for m in manifests for u in m.utterances}:
                    check.attempt(setting, _check_language, language, tokenizer)
    check.refuse()
    if "filter" in stages:
        warn_of_limits(recipe.filter)


def check_sets(
    recipe: Recipe, sets: Mapping[str, Sequence[Manifest]], stages: Sequence[StageName]
) -> None:
    """Check manifests, by the setting that each is of, as :func:`check_recipe` does."""
    check = _Check(recipe, stages)
    check.sets(sets)
    check.refuse()


@dataclass
class _Check:
    """Looks for what is wrong with a recipe; each fault stands behind its setting."""

    recipe: Recipe
    stages: Sequence[StageName]
    faults: list[str] = field(default_factory=list)

    def attempt(
        self, setting: str, look_up: Callable[..., Thing], *arguments: object
    ) -> Thing | None:
        """Return what a look-up finds; where it fails, note why."""
        try:
            return look_up(*arguments)
        except (ValueError, OSError, ModelNotFound, BadCheckpoint) as error:
            self.faults.append(f"{setting}: {error}")
            return None

    def refuse(self) -> None:
        """Raise a SettingsError if there are faults."""
        if self.faults:  # what a model lacks may show in several ways
            faults = [*dict.fromkeys(self.faults)]
            raise SettingsError(listed("the recipe cannot be run: %s", faults))

    def hardware(self) -> None:
        """Look for the device, and for the packages that the settings need."""
        hardware, recipe = self.recipe.hardware, self.recipe
        pick = hardware.pick_training_dtype if "train" in self.stages else hardware.pick_device
        self.attempt("hardware", pick)
        vad = recipe.evaluate.decoding.vad_filter
        for setting, is_needed, module, extra in (
            ("hardware.backend", hardware.backend == "openvino", "openvino", "openvino"),
            ("engine.engine", recipe.engine.engine == "ray", "ray", "ray"),
            ("evaluate.decoding.vad_filter", vad, "silero_vad", "vad"),
        ):
            if is_needed and find_spec(module) is None:
                self.faults.append(f'{setting}: pip install "distilwhisper[{extra}]"')

    def models(self, sizes: Callable[[str], WhisperConfig]) -> WhisperConfig | None:
        """Check the student's layers; return the teacher's sizes, where they can be had."""
        student, training = self.recipe.student, self.recipe.training
        teacher = self.attempt("teacher", sizes, self.recipe.teacher)
        if teacher is None:
            return None
        source = teacher
        if student.start is not None:
            source = self.attempt("student.start", sizes, student.start) or teacher
            self.faults += (f"student.start: {fault}" for fault in start_faults(source, teacher))
        kept = self.attempt("student", student.decoder_sources, source.decoder_layers) or []
        pairs = source.width == teacher.width and len(kept) <= teacher.decoder_layers
        if training.mse_weight and not pairs:
            self.faults.append(
                "training.mse_weight: pairs states of one width, and each layer of the student "
                f"with one or more of the teacher's, found widths {source.width} and "
                f"{teacher.width}, {len(kept)} and {teacher.decoder_layers} layers: set it to 0"
            )
        layers = self.attempt("student", student.encoder_sources, source.encoder_layers)
        if layers and len(layers) < source.encoder_layers and not training.train_encoder:
            self.faults.append(
                "an encoder that has lost layers must be trained, found student.encoder_layers "
                f"{len(layers)} of {source.encoder_layers} and training.train_encoder false: set "
                "it to true, or leave encoder_layers out"
            )
        return teacher

    def named_sets(self) -> dict[str, list[Manifest]]:
        """Return the manifests that the recipe names, by the setting that does."""
        data, found = self.recipe.data, dict[str, list[Manifest]]()
        if data.source is not None and ("data" not in self.stages or Path(data.source).is_dir()):
            return found
        for name in ("source", "train", "validation", "test"):
            for path in data.named(name):
                if manifest := self.attempt(f"data.{name}", read_manifest, Path(path)):
                    found.setdefault(f"data.{name}", []).append(manifest)
        return found

    def sets(self, sets: Mapping[str, Sequence[Manifest]]) -> None:
        """Check manifests, by the setting that names them, for what the stages want of them."""
        for setting, manifest in ((setting, m) for setting, own in sets.items() for m in own):
            if setting == "data.validation" and "train" in self.stages:
                self.attempt(setting, check_set, manifest)
            if setting == "data.test" and "evaluate" in self.stages:
                self.attempt(setting, _check_texts, manifest)
        if "train" in self.stages and "data.train" in sets:
            self.training(sets["data.train"])
        noise = self.recipe.evaluate.degradation
        if noise is not None and "evaluate" in self.stages:
            self.attempt("evaluate.noise", _check_noise, noise, sets.get("data.test", ()))

    def training(self, manifests: Sequence[Manifest]) -> None:
        """Check what the settings of training want of the manifests to train on."""
        training = self.recipe.training
        if training.prompt_probability and not any(
            follow_each_other(manifest, max_gap_s=training.prompt_gap_s) for manifest in manifests
        ):
            self.faults.append(
                "training.prompt_probability: needs utterances in data.train that begin at "
                f"most prompt_gap_s ({training.prompt_gap_s:g} s) behind another of the same file, "
                "recording and speaker, found none by start_s and duration_s: set it to 0"
            )
        if training.skip_utterances:  # else nobody's ids need be gathered
            ids = {u.id for manifest in manifests for u in manifest.utterances}
            strays = ", ".join(id_ for id_ in training.skip_utterances if id_ not in ids)
            if strays:
                self.faults.append(f"training.skip_utterances: not in data.train: {strays}")
        if training.source_weights:
            paths = self.recipe.data.named("train")
            names = {path: name for name, path in sets_by_name(paths).items()} if paths[1:] else {}
            sources = [
                names.get(m.path) if u.source is None else u.source
                for m in manifests
                for u in m.utterances
            ]
            weights = dict(training.source_weights)
            self.attempt("training.source_weights", partial(Mixture, seed=0), sources, weights)


def _check_language(language: str | None, tokenizer: Tokenizer | None) -> None:
    if language is not None:
        (language_code if tokenizer is None else tokenizer.language_code)(language)


def _check_texts(manifest: Manifest) -> None:
    if not any((utterance.text or "").strip() for utterance in manifest.utterances):
        raise ValueError(
            f"{manifest.path} must hold utterances with a text to judge by, found none among "
            f'{len(manifest.utterances)}: transcribe some, or set data.references = "teacher"'
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


def _tokenizer_of(model: str) -> Tokenizer:
    folder = resolve_model(model)
    return Tokenizer.from_json(read_complete_tokenizer(folder), where=folder)
