"""What a recipe takes, before it runs: windows, memory and disk of every stage, and its hours.

Hours are windows over a measured rate, and are left open where no rate was measured. Memory and
disk are estimates of the large pieces, and nothing is taken off for what the filter will drop.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distilwhisper.checks import ABOVE_0, Checked, ruled
from distilwhisper.corpus.records import read_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.decoding.packed_windows import PACKED_S, PAUSE_S
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.model.checkpoint import count_parameters, read_config
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.roofline import cache_values
from distilwhisper.model.whisper import WhisperConfig
from distilwhisper.recipe import Recipe, check_recipe
from distilwhisper.report.facts import over
from distilwhisper.run.files import read_json
from distilwhisper.run.settings import SettingsError, build_settings, read_recipe
from distilwhisper.speech.units import WINDOW_S
from distilwhisper.stages.settings import GpuName, PlanSettings
from distilwhisper.tables import table_lines
from distilwhisper.training.loss import chunk_logits
from distilwhisper.training.state import N_KEPT

TOKENS_PER_S = 110 / 30  # of speech, as large-v2 writes English
PACKED_SHARE = 0.95  # of a packed window that is filled
LABEL_BYTES, LABEL_BYTES_PER_TOKEN = 300, 8  # an estimate, of JSON rows as label.py writes them
VERDICT_BYTES, SCORE_BYTES = 150, 400
ADAM_BYTES = 16  # of a trained weight in float32: itself, its gradient and two moments

MEMORY_GB: Mapping[GpuName, float] = {
    "h100": 80,
    "h200": 141,
    "a100": 80,
    "a100-40gb": 40,
    "l40s": 48,
    "l4": 24,
    "a10": 24,
    "v100": 32,
    "t4": 16,
    "cpu": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
}

# (width, encoder layers, decoder layers), of models whose files need not be at hand.
_SIZES = {
    "tiny": (384, 4, 4),
    "base": (512, 6, 6),
    "small": (768, 12, 12),
    "medium": (1024, 24, 24),
    **dict.fromkeys(("large", "large-v1", "large-v2", "large-v3"), (1280, 32, 32)),
    "large-v3-turbo": (1280, 32, 4),
}


@dataclass(frozen=True)
class Rates(Checked):
    """Measured rates of one device; none: not measured."""

    teacher_windows_per_s: float | None = ruled(None, ABOVE_0)  # decoded
    student_windows_per_s: float | None = ruled(None, ABOVE_0)  # decoded
    train_windows_per_s: float | None = ruled(None, ABOVE_0)  # through a training update


@dataclass(frozen=True)
class Amount:
    """An amount of speech."""

    n_utterances: int
    n_windows: int  # of the encoder: one an utterance, or one a chunk of a long one
    audio_s: float


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes."""

    stage: str
    n_windows: int = 0  # that are decoded or trained on
    device_hours: float | None = 0.0  # None: no rate was measured
    memory_gb: float = 0.0
    disk_gb: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a recipe takes, stage by stage."""

    name: str
    gpu: GpuName
    device_memory_gb: float
    assumptions: tuple[str, ...]  # what was counted and what was assumed
    stages: tuple[StagePlan, ...]
    price: float | None  # of all hours

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        total = StagePlan(
            "total",
            sum(stage.n_windows for stage in self.stages),
            _sum(stage.device_hours for stage in self.stages),
            max(stage.memory_gb for stage in self.stages),
            sum(stage.disk_gb for stage in self.stages),
        )
        rows = [["stage", "windows", f"{self.gpu} hours", "memory GB", "disk GB", ""]]
        for stage in (*self.stages, total):
            hours = "?" if stage.device_hours is None else f"{stage.device_hours:,.2f}"
            sizes = f"{stage.memory_gb:,.1f}", f"{stage.disk_gb:,.2f}"
            mark = "DOES NOT FIT" if stage.memory_gb > self.device_memory_gb else ""
            rows.append([stage.stage, f"{stage.n_windows:,}", hours, *sizes, mark])
        price = [] if self.price is None else [f"price: {self.price:,.2f}"]
        return "\n".join([*self.assumptions, "", *table_lines(rows), *price])


def _sum(numbers: Iterable[float | None]) -> float | None:
    """Return a sum; None where a part of it is not known."""
    values = list(numbers)
    return None if None in values else sum(n for n in values if n is not None)


def plan_recipe(recipe: Recipe, settings: PlanSettings) -> Plan:
    """Estimate what a recipe takes.

    Nothing of it is run, and no model is loaded or, if its name is known, fetched.

    Raises:
        SettingsError: the recipe cannot be run, or the rates do not fit.
        ValueError: the data cannot be counted.
    """
    check_recipe(recipe, sizes=model_sizes, has_data=settings.hours is None)
    teacher = model_sizes(recipe.teacher)
    source = teacher if recipe.student.start is None else model_sizes(recipe.student.start)
    student = replace(
        source,
        encoder_layers=len(recipe.student.encoder_sources(source.encoder_layers)),
        decoder_layers=len(recipe.student.decoder_sources(source.decoder_layers)),
    )
    parts = _amounts(recipe, settings)
    rates = Rates() if settings.rates is None else read_rates(settings.rates, recipe)
    stages = _Estimate(recipe, settings, rates, teacher, student).stages(parts)
    hours, price = _sum(stage.device_hours for stage in stages), settings.price_per_hour
    millions = [f"{count_parameters(sizes) / 1e6:,.0f} M" for sizes in (teacher, student)]
    amounts = (
        f"{name}: {part.audio_s / 3600:,.1f} h in {part.n_utterances:,} utterances"
        for name, part in parts.items()
    )
    what = "hours" if price is None else "hours and price"
    known = f"from the rates measured in {settings.rates}"
    return Plan(
        recipe.name,
        settings.gpu,
        MEMORY_GB[settings.gpu],
        assumptions=(
            f"{recipe.name}: {recipe.teacher} ({millions[0]} parameters) to "
            f"{student.decoder_layers} decoder layers ({millions[1]})",
            "; ".join(amounts),
            f"assumed: {TOKENS_PER_S:.2f} tokens a second of speech, no window decoded twice, "
            "nothing dropped by the filter",
            f"{what}: {known if settings.rates else 'unknown without a measured rate (--rates)'}",
        ),
        stages=stages,
        price=None if hours is None or price is None else hours * price,
    )


# Models


def model_sizes(name: str) -> WhisperConfig:
    """Return a model's sizes: from its folder, by its name, or from the hub."""
    owner, _, rest = name.partition("@")[0].partition("/whisper-")
    size = rest.removesuffix(".en")
    if Path(name).is_dir() or owner != "openai" or size not in _SIZES:
        return read_config(resolve_model(name))
    width, encoder_layers, decoder_layers = _SIZES[size]
    v3 = size.startswith("large-v3")
    return WhisperConfig(
        vocab_size=51_866 if v3 else 51_864 if rest != size else 51_865,
        n_mels=128 if v3 else 80,
        width=width,
        encoder_layers=encoder_layers,
        encoder_heads=width // 64,
        encoder_ffn=4 * width,
        decoder_layers=decoder_layers,
        decoder_heads=width // 64,
        decoder_ffn=4 * width,
    )


# Speech


def _amounts(recipe: Recipe, settings: PlanSettings) -> dict[str, Amount]:
    data, hours = recipe.data, settings.hours
    if hours is None and data.source is not None:
        lengths = _lengths(data.source)
        n_validation = round(len(lengths) * data.validation_fraction)
        n_held_out = n_validation + round(len(lengths) * data.test_fraction)
        train, test = lengths[n_held_out:], lengths[n_validation:n_held_out]
        parts = {"train": train, "validation": lengths[:n_validation], "test": test}
    else:  # with hours, what is held out counts where it is there
        held_out = {part: data.named(part) for part in ("validation", "test")}
        named = {"train": data.named("train") if hours is None else (), **held_out}
        parts = {
            part: [
                s for path in paths if hours is None or Path(path).exists() for s in _lengths(path)
            ]
            for part, paths in named.items()
        }
    amounts = {part: _amount(lengths, recipe) for part, lengths in parts.items()}
    if hours is not None:
        n = max(1, round(hours * 3600 / settings.utterance_s))
        one = _amount([settings.utterance_s], recipe)
        amounts["train"] = Amount(n, n * one.n_windows, n * one.audio_s)
    return amounts


def _lengths(source: str) -> list[float]:
    """Return all utterances' lengths; one that is not stated counts as the mean of the others."""
    path = Path(source)
    if path.is_dir() and not any(path.glob("*-00000.jsonl")):
        raise ValueError(
            f"{path} must be a manifest to be counted, found a folder of audio: make one "
            "(distilwhisper data), or give --hours"
        )
    utterances = read_manifest(path).utterances
    durations = [u.duration_s for u in utterances if u.duration_s is not None]
    if not durations:
        raise ValueError(f"{path} must state duration_s to be counted, found none: give --hours")
    mean = sum(durations) / len(durations)
    return [mean if u.duration_s is None else u.duration_s for u in utterances]


def _amount(lengths: Sequence[float], recipe: Recipe) -> Amount:
    decoding = recipe.evaluate.decoding
    # Chunks that meet in pauses end anywhere in their last third.
    unused_s = decoding.shared_s / 2 if decoding.cuts_in_pauses else decoding.shared_s
    step_s = decoding.chunk_s - unused_s if decoding.long_form == "chunked" else WINDOW_S
    windows = (1 if s <= WINDOW_S else 1 + -(-(s - WINDOW_S) // step_s) for s in lengths)
    return Amount(len(lengths), int(sum(windows)), sum(lengths))


# Rates


def read_rates(path: Path, recipe: Recipe) -> Rates:
    """Read measured rates: a JSON file, or the folder of a run, which must be of these models."""
    if not path.is_dir():
        rates = read_json(path, remedy="name a file of rates, or the folder of a finished run")
        return build_settings(Rates, rates, where=path)
    other = read_recipe(path / "recipe.toml", Recipe)
    if (other.teacher, other.student) != (recipe.teacher, recipe.student):
        raise SettingsError(
            f"{path} must be a run of {recipe.teacher} with {recipe.student}, found "
            f"{other.teacher} with {other.student}: its rates are of other models"
        )
    rows = read_jsonl(path / "train/metrics.jsonl")
    speeds = [row["windows_per_s"] for row in rows if "windows_per_s" in row]
    return Rates(
        teacher_windows_per_s=_decoded_per_s(path / "eval/teacher-test"),
        student_windows_per_s=_decoded_per_s(path / "eval/student-test"),
        train_windows_per_s=speeds[-1] if speeds else None,
    )


def _decoded_per_s(folder: Path) -> float | None:
    """Return the rate of an evaluation; its utterances are taken for one window each."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return over(summary["n_utterances"], summary["compute_s"]) or None


# Stages


@dataclass(frozen=True)
class _Estimate:
    recipe: Recipe
    settings: PlanSettings
    rates: Rates
    teacher: WhisperConfig
    student: WhisperConfig

    def stages(self, parts: Mapping[str, Amount]) -> tuple[StagePlan, ...]:
        verdicts_gb = parts["train"].n_utterances * VERDICT_BYTES / 1e9
        return (
            self._label(parts["train"]),
            StagePlan("filter", disk_gb=verdicts_gb),
            StagePlan("student", disk_gb=4 * count_parameters(self.student) / 1e9),
            self._train(parts["train"]),
            self._evaluate(parts["test"]),
        )

    def _label(self, part: Amount) -> StagePlan:
        n_windows = part.n_windows
        if self.recipe.label.pack:  # none is decoded again alone
            sounding_s = part.audio_s + PAUSE_S * part.n_utterances
            n_windows = min(n_windows, math.ceil(sounding_s / (PACKED_S + PAUSE_S)))
        disk = LABEL_BYTES * part.n_utterances + LABEL_BYTES_PER_TOKEN * TOKENS_PER_S * part.audio_s
        memory = self._decoding_bytes(self.recipe.label.decoding)
        hours = _hours(n_windows, self.rates.teacher_windows_per_s)
        return StagePlan("label", n_windows, hours, memory / 1e9, disk / 1e9)

    def _evaluate(self, part: Amount) -> StagePlan:
        """Both models transcribe the test set, and a part of it again as one long recording."""
        share = min(1.0, self.recipe.long_form.utterances / max(1, part.n_utterances))
        joined_s = share * part.audio_s
        long_form = _amount([joined_s] if joined_s else [], self.recipe)
        n_windows = part.n_windows + long_form.n_windows
        rates = self.rates.teacher_windows_per_s, self.rates.student_windows_per_s
        hours = _sum(_hours(n_windows, rate) for rate in rates)
        memory = self._decoding_bytes(self.recipe.evaluate.decoding)
        disk = 2 * part.n_utterances * SCORE_BYTES
        return StagePlan("evaluate", 2 * n_windows, hours, memory / 1e9, disk / 1e9)

    def _train(self, part: Amount) -> StagePlan:
        t, teacher, student = self.recipe.training, self.teacher, self.student
        n_windows, n_distinct = t.steps * t.batch_size, part.n_windows
        if t.pack_s:
            n_distinct = max(1, round(part.audio_s / (t.pack_s * PACKED_SHARE)))
        n_trained = count_parameters(student)
        if not t.train_encoder:
            decoder_less = replace(student, decoder_layers=0)
            n_trained += student.vocab_size * student.width - count_parameters(decoder_less)
        states = teacher.max_frames * teacher.width * self._weight_bytes
        cache_bytes = n_distinct * states if t.cache_encoder else 0
        disk = N_KEPT * 12 * n_trained + 4 * count_parameters(student) + cache_bytes
        # Weights, optimiser, a micro-batch's encoder and caches, and a chunk's logits.
        size, frames = self._weight_bytes, teacher.max_frames
        weights = size * count_parameters(teacher) + 4 * count_parameters(student)
        caches = cache_values(teacher, frames) + 3 * cache_values(student, student.max_frames)
        window = _encoder_values(teacher) + caches
        tokens = TOKENS_PER_S * part.audio_s / max(1, n_distinct)
        kind: Literal["cpu", "cuda"] = "cpu" if self.settings.gpu == "cpu" else "cuda"
        n_logits = min(t.micro_batch_size * tokens * student.vocab_size, chunk_logits(kind))
        logits = 4 * 4 * n_logits  # of two sides, each with its softmax, float32
        optimiser = (ADAM_BYTES - 4) * n_trained
        memory = weights + optimiser + t.micro_batch_size * size * window + logits
        hours = _hours(n_windows, self.rates.train_windows_per_s)
        return StagePlan("train", n_windows, hours, memory / 1e9, disk / 1e9)

    @property
    def _weight_bytes(self) -> int:
        return 4 if self.settings.gpu == "cpu" else 2

    def _decoding_bytes(self, decoding: DecodingSettings) -> float:
        model = self.teacher
        window = cache_values(model, model.max_frames + model.max_tokens) + _encoder_values(model)
        return self._weight_bytes * (count_parameters(model) + decoding.batch_size * window)


def _encoder_values(model: WhisperConfig) -> int:
    return model.max_frames * (4 * model.width + 2 * model.encoder_ffn)


def _hours(n_windows: int, windows_per_s: float | None) -> float | None:
    if not n_windows:
        return 0.0
    return None if windows_per_s is None else n_windows / windows_per_s / 3600
