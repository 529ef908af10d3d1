"""What a recipe will take, before it runs: hours, memory, disk and price of every stage.

Every row says where its hours come from: from a measured rate, or from the roofline. The roofline
of a step is the larger of its arithmetic over the device's peak and its bytes over the device's
bandwidth; a stated efficiency divides it, since no program reaches the roof. Memory and disk are
estimates of the large pieces, and nothing is taken off for what the filter will drop.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.decoding.packed_windows import PACKED_S, PAUSE_S
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.layout import read_complete_tokenizer, read_json_object
from distilwhisper.model.roofline import (
    Roof,
    cache_values,
    cross_flops,
    encoder_flops,
    token_flops,
    window_s,
)
from distilwhisper.model.whisper import Whisper, WhisperConfig
from distilwhisper.pipeline import Recipe, check_recipe
from distilwhisper.run.settings import SettingsError, build_settings, read_recipe
from distilwhisper.speech.units import WINDOW_S
from distilwhisper.stages.settings import GpuName, PlanSettings
from distilwhisper.tables import table_lines
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.fused import chunk_logits
from distilwhisper.training.state import N_KEPT

TOKENS_PER_S = 110 / 30  # of speech, as large-v2 writes English
PACKED_SHARE = 0.95  # of a packed window that is filled
LABEL_BYTES, LABEL_BYTES_PER_TOKEN = 300, 8  # an estimate, of JSON rows as label.py writes them
VERDICT_BYTES, SCORE_BYTES = 150, 400
ADAM_BYTES = 16  # of a trained weight in float32: itself, its gradient and two moments


@dataclass(frozen=True)
class Device:
    """What a device's vendor says of it, in 16 bits (CPU: 32)."""

    roof: Roof
    memory_gb: float


# As remembered of the vendors' data sheets, not looked up again: --rates overrules them. SXM
# modules where there are several; dense, without structured sparsity.
DEVICES: Mapping[GpuName, Device] = {
    "h100": Device(Roof(989e12, 3.35e12), 80),  # NVIDIA H100 SXM5
    "h200": Device(Roof(989e12, 4.8e12), 141),  # NVIDIA H200 SXM
    "a100": Device(Roof(312e12, 2.039e12), 80),  # NVIDIA A100 80GB SXM
    "a100-40gb": Device(Roof(312e12, 1.555e12), 40),  # NVIDIA A100 40GB SXM
    "l40s": Device(Roof(362e12, 0.864e12), 48),  # NVIDIA L40S
    "l4": Device(Roof(121e12, 0.3e12), 24),  # NVIDIA L4; its sheet's 242 are with sparsity
    "a10": Device(Roof(125e12, 0.6e12), 24),  # NVIDIA A10
    "v100": Device(Roof(125e12, 0.9e12), 32),  # NVIDIA V100 SXM2 32GB, float16
    "t4": Device(Roof(65e12, 0.32e12), 16),  # NVIDIA T4, float16
    # No data sheet but arithmetic: 3 GHz x 2 AVX2 units x 8 floats x 2 a core of this machine, and
    # two channels of DDR4-3200.
    "cpu": Device(
        Roof(96e9 * (os.cpu_count() or 1), 51.2e9, weight_bytes=4),
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
    ),
}

# (width, encoder layers, decoder layers), of models whose files need not be at hand.
_SIZES = {
    "tiny": (384, 4, 4),
    "base": (512, 6, 6),
    "small": (768, 12, 12),
    "medium": (1024, 24, 24),
    "large": (1280, 32, 32),
    "large-v1": (1280, 32, 32),
    "large-v2": (1280, 32, 32),
    "large-v3": (1280, 32, 32),
    "large-v3-turbo": (1280, 32, 4),
}


@dataclass(frozen=True)
class Rates:
    """Measured rates of one device; none: not measured."""

    teacher_windows_per_s: float | None = None
    """Windows that the teacher decodes."""
    student_windows_per_s: float | None = None
    """Windows that the student decodes."""
    train_windows_per_s: float | None = None
    """Windows that go through a training update."""


@dataclass(frozen=True)
class Amount:
    """Speech, counted."""

    n_utterances: int
    n_windows: int  # of the encoder: one an utterance, or one a chunk of a long one
    audio_s: float

    @property
    def tokens_per_window(self) -> float:
        """Tokens that a decoder says, on average."""
        return TOKENS_PER_S * self.audio_s / self.n_windows if self.n_windows else 0.0


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes."""

    stage: str
    device_hours: float
    memory_gb: float
    disk_gb: float
    how: str  # where the hours come from
    price: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a recipe takes, stage by stage."""

    name: str
    gpu: GpuName
    device_memory_gb: float
    supposed: tuple[str, ...]  # what was counted and what was assumed, in words
    stages: tuple[StagePlan, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        priced = any(stage.price is not None for stage in self.stages)
        total = StagePlan(
            "total",
            sum(stage.device_hours for stage in self.stages),
            max(stage.memory_gb for stage in self.stages),
            sum(stage.disk_gb for stage in self.stages),
            "",
            sum(stage.price or 0 for stage in self.stages),
        )
        stages = (*self.stages, total)
        head = ["stage", f"{self.gpu} hours", "memory GB", "disk GB", *["price"] * priced]
        rows = [
            [
                row.stage,
                f"{row.device_hours:,.2f}",
                f"{row.memory_gb:,.1f}",
                f"{row.disk_gb:,.2f}",
                *[f"{row.price or 0:,.2f}"] * priced,
            ]
            for row in stages
        ]
        warnings = [" DOES NOT FIT" * (s.memory_gb > self.device_memory_gb) for s in stages]
        notes = ["hours from", *(s.how + w for s, w in zip(stages, warnings, strict=True))]
        lines = zip(table_lines([head, *rows]), notes, strict=True)
        noted = (f"{line}  {note}".rstrip() for line, note in lines)
        return "\n".join([*self.supposed, "", *noted])


def plan_recipe(recipe: Recipe, settings: PlanSettings) -> Plan:
    """Reckon what a recipe takes.

    Args:
        recipe: nothing of it is run, and no model is loaded or, if its name is known, fetched.
        settings: the device, and what is supposed.

    Raises:
        SettingsError: the recipe cannot be run, or the rates do not fit.
        ValueError: the data cannot be counted.
    """
    check_recipe(
        recipe,
        sizes=model_sizes,
        tokenizer=_tokenizer_at_hand,
        is_run_here=False,
        has_data=settings.hours is None,
    )
    device = DEVICES[settings.gpu]
    teacher = model_sizes(recipe.teacher)
    student = _student_sizes(recipe, teacher)
    parts = _amounts(recipe, settings)
    rates = Rates() if settings.rates is None else read_rates(settings.rates, recipe)
    reckoner = _Reckoner(recipe, settings, device, rates)
    stages = (
        reckoner.label(teacher, parts["train"]),
        StagePlan("filter", 0, 0, parts["train"].n_utterances * VERDICT_BYTES / 1e9, "no device"),
        StagePlan("student", 0, 0, 4 * n_parameters(student) / 1e9, "no device"),
        reckoner.train(teacher, student, parts["train"], parts["validation"]),
        reckoner.evaluate(teacher, student, parts["test"]),
    )
    counted = "; ".join(
        f"{name}: {part.audio_s / 3600:,.1f} h in {part.n_utterances:,} utterances"
        for name, part in parts.items()
    )
    return Plan(
        name=recipe.name,
        gpu=settings.gpu,
        device_memory_gb=device.memory_gb,
        supposed=(
            f"{recipe.name}: {recipe.teacher} ({n_parameters(teacher) / 1e6:,.0f} M parameters) to "
            f"{student.decoder_layers} decoder layers ({n_parameters(student) / 1e6:,.0f} M)",
            counted,
            f"supposed: {TOKENS_PER_S:.2f} tokens a second of speech, no window decoded twice, "
            "nothing dropped by the filter",
        ),
        stages=stages,
    )


# Models


def model_sizes(name: str) -> WhisperConfig:
    """Return a model's sizes: from its folder, by its name, or from the hub."""
    if not Path(name).is_dir():
        owner, _, rest = name.partition("@")[0].partition("/whisper-")
        size = rest.removesuffix(".en")
        if owner == "openai" and size in _SIZES:
            return _named_sizes(size, english=rest != size)
    folder = resolve_model(name)
    return WhisperConfig.from_hf(read_json_object(folder / "config.json"))


def _named_sizes(size: str, *, english: bool) -> WhisperConfig:
    width, encoder_layers, decoder_layers = _SIZES[size]
    v3 = size.startswith("large-v3")
    return WhisperConfig(
        vocab_size=51_866 if v3 else 51_864 if english else 51_865,
        n_mels=128 if v3 else 80,
        width=width,
        encoder_layers=encoder_layers,
        encoder_heads=width // 64,
        encoder_ffn=4 * width,
        decoder_layers=decoder_layers,
        decoder_heads=width // 64,
        decoder_ffn=4 * width,
    )


def _student_sizes(recipe: Recipe, teacher: WhisperConfig) -> WhisperConfig:
    student = recipe.student
    source = teacher if student.start is None else model_sizes(student.start)
    return replace(
        source,
        encoder_layers=len(student.encoder_sources(source.encoder_layers)),
        decoder_layers=len(student.decoder_sources(source.decoder_layers)),
    )


def _tokenizer_at_hand(name: str) -> Tokenizer | None:
    folder = Path(name)
    if not folder.is_dir():
        return None
    return Tokenizer.from_json(read_complete_tokenizer(folder), where=folder)


@cache
def n_parameters(config: WhisperConfig) -> int:
    """Return how many parameters a network of these sizes has."""
    with torch.device("meta"):
        return Whisper(config).n_parameters()


# Speech


def _amounts(recipe: Recipe, settings: PlanSettings) -> dict[str, Amount]:
    data = recipe.data
    held_out = {"validation": data.validation_sets, "test": (data.test,) if data.test else ()}
    if settings.hours is not None:
        n = max(1, round(settings.hours * 3600 / settings.utterance_s))
        one = _amount([settings.utterance_s], recipe)
        counted = {"train": Amount(n, n * one.n_windows, n * one.audio_s)}
        for part, paths in held_out.items():
            known = [Path(path) for path in paths if Path(path).exists()]
            counted[part] = _counted(known, recipe)
        return counted
    if data.train_sets:
        parts = {"train": data.train_sets, **held_out}
        return {part: _counted(list(map(Path, paths)), recipe) for part, paths in parts.items()}
    source = Path(data.source or "")
    if source.is_dir() and not any(source.glob("*-00000.jsonl")):
        raise ValueError(
            f"{source} must be a manifest to be counted, found a folder of audio: make one "
            "(distilwhisper data), or say --hours"
        )
    lengths = _lengths(source)
    n_validation = round(len(lengths) * data.validation_fraction)
    n_test = round(len(lengths) * data.test_fraction)
    ends = (n_validation, n_validation + n_test)
    return {
        "train": _amount(lengths[ends[1] :], recipe),
        "validation": _amount(lengths[: ends[0]], recipe),
        "test": _amount(lengths[ends[0] : ends[1]], recipe),
    }


def _counted(paths: Iterable[Path], recipe: Recipe) -> Amount:
    return _amount([length for path in paths for length in _lengths(path)], recipe)


def _lengths(path: Path) -> list[float]:
    """Return all utterances' lengths; one that is not stated counts as the mean of the others."""
    utterances: tuple[Utterance, ...] = read_manifest(path).utterances
    known = [u.duration_s for u in utterances if u.duration_s is not None]
    if not known:
        raise ValueError(
            f"{path} must state duration_s to be counted, found it in no utterance: say --hours"
        )
    mean = sum(known) / len(known)
    return [mean if u.duration_s is None else u.duration_s for u in utterances]


def _amount(lengths: Iterable[float], recipe: Recipe) -> Amount:
    decoding = recipe.evaluate.decoding
    overlap_s = decoding.chunk_s / 3 if decoding.overlap_s is None else decoding.overlap_s
    step_s = decoding.chunk_s - overlap_s if decoding.long_form == "chunked" else WINDOW_S
    lengths = list(lengths)
    windows = (1 if s <= WINDOW_S else 1 + -(-(s - WINDOW_S) // step_s) for s in lengths)
    return Amount(len(lengths), int(sum(windows)), sum(lengths))


# Rates


def read_rates(path: Path, recipe: Recipe) -> Rates:
    """Read measured rates: a JSON file, or what a finished run left.

    Args:
        path: a file of :class:`Rates`, or the folder of a run.
        recipe: whose teacher and student it must be of, if it is a run.

    Raises:
        SettingsError: the file does not fit, or the run is of other models.
    """
    if not path.is_dir():
        return build_settings(Rates, read_json_object(path), where=path)
    made = read_recipe(path / "recipe.toml", Recipe)
    if (made.teacher, made.student) != (recipe.teacher, recipe.student):
        raise SettingsError(
            f"{path} must be a run of {recipe.teacher} with {recipe.student}, found "
            f"{made.teacher} with {made.student}: its rates are of other models"
        )
    rows = read_jsonl(path / "train/metrics.jsonl")
    speeds = [row["windows_per_s"] for row in rows if "windows_per_s" in row]
    return Rates(
        teacher_windows_per_s=_decoded_per_s(path / "eval/teacher-test"),
        student_windows_per_s=_decoded_per_s(path / "eval/student-test"),
        train_windows_per_s=speeds[-1] if speeds else None,
    )


def _decoded_per_s(folder: Path) -> float:
    """Return the rate of an evaluation; its utterances are taken for one window each."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return float(summary["n_utterances"] / summary["compute_s"])


# Stages


@dataclass(frozen=True)
class _Reckoner:
    recipe: Recipe
    settings: PlanSettings
    device: Device
    rates: Rates

    def label(self, teacher: WhisperConfig, part: Amount) -> StagePlan:
        batch = self.recipe.label.decoding.batch_size
        rate = self.rates.teacher_windows_per_s
        seconds, how = self._decoding(teacher, self._labelled(part), batch, rate)
        tokens = TOKENS_PER_S * part.audio_s
        disk = LABEL_BYTES * part.n_utterances + LABEL_BYTES_PER_TOKEN * tokens
        return self._stage("label", seconds, self._decoding_bytes(teacher, batch), disk, how)

    def _labelled(self, part: Amount) -> Amount:
        """Return the windows that short utterances share; none is decoded again alone."""
        if not self.recipe.label.pack:
            return part
        sounding_s = part.audio_s + PAUSE_S * part.n_utterances
        n_shared = math.ceil(sounding_s / (PACKED_S + PAUSE_S))
        return replace(part, n_windows=min(part.n_windows, n_shared))

    def evaluate(self, teacher: WhisperConfig, student: WhisperConfig, part: Amount) -> StagePlan:
        """Both models hear the test set, and a part of it once more as one long recording."""
        share = min(1.0, self.recipe.long_form.utterances / max(1, part.n_utterances))
        joined_s = share * part.audio_s
        joined = _amount([joined_s] if joined_s else [], self.recipe)
        both = Amount(part.n_utterances, part.n_windows + joined.n_windows, part.audio_s + joined_s)
        batch = self.recipe.evaluate.decoding.batch_size
        taught, how = self._decoding(teacher, both, batch, self.rates.teacher_windows_per_s)
        learnt, how_too = self._decoding(student, both, batch, self.rates.student_windows_per_s)
        return self._stage(
            "evaluate",
            taught + learnt,
            self._decoding_bytes(teacher, batch),
            2 * part.n_utterances * SCORE_BYTES,
            how if how == how_too else f"teacher {how}, student {how_too}",
        )

    def train(
        self, teacher: WhisperConfig, student: WhisperConfig, part: Amount, validation: Amount
    ) -> StagePlan:
        t = self.recipe.training
        n_windows = t.steps * t.batch_size
        n_distinct = part.n_windows
        if t.pack_s:
            n_distinct = max(1, round(part.audio_s / (t.pack_s * PACKED_SHARE)))
        tokens = TOKENS_PER_S * part.audio_s / max(1, n_distinct)
        if self.rates.train_windows_per_s is not None:
            seconds = n_windows / self.rates.train_windows_per_s
            how = self._measured()
        else:
            flops = cross_flops(teacher) + tokens * token_flops(teacher)
            flops += 3 * (cross_flops(student) + tokens * token_flops(student))  # and back
            n_encoded = n_distinct if t.cache_encoder else n_windows
            flops = n_windows * flops + n_encoded * encoder_flops(teacher)
            flops += n_windows * self._student_encoder_flops(student, part.audio_s / n_distinct)
            seconds, how = (
                flops / (self.device.roof.flops * self.settings.efficiency),
                self._roofline(),
            )
        n_checks = -(-t.steps // t.checkpoint_every)
        checking, _ = self._decoding(student, validation, 16, self.rates.student_windows_per_s)
        trained = n_parameters(student)
        if not t.train_encoder:
            decoder_less = WhisperConfig(**{**asdict(student), "decoder_layers": 0})
            trained += student.vocab_size * student.width - n_parameters(decoder_less)
        states = teacher.max_frames * teacher.width * self.device.roof.weight_bytes
        cached = n_distinct * states if t.cache_encoder else 0
        disk = N_KEPT * 12 * trained + 4 * n_parameters(student) + cached
        return self._stage(
            "train",
            seconds + n_checks * checking,
            self._training_bytes(teacher, student, trained, tokens),
            disk,
            how,
        )

    def _student_encoder_flops(self, student: WhisperConfig, sound_s: float) -> float:
        """Return what a window costs in the student's encoder, beside the teacher's.

        It hears what is cut short, and where it is trained everything, forth and back.
        """
        t = self.recipe.training
        cut, margins_s = t.augment.short_context_probability, t.augment.short_context_margin_s
        heard = cut * min(1.0, (sound_s + sum(margins_s) / 2) / WINDOW_S)
        if t.train_encoder:
            heard = 3 * (1 - cut + heard)
        return heard * encoder_flops(student)

    def _decoding(
        self, model: WhisperConfig, part: Amount, batch: int, rate: float | None
    ) -> tuple[float, str]:
        """Return the seconds that decoding takes, and where they come from."""
        if rate is not None:
            return part.n_windows / rate, self._measured()
        each_s = window_s(
            model, batch=batch, n_tokens=part.tokens_per_window, roof=self.device.roof
        )
        seconds = part.n_windows * each_s / self.settings.efficiency
        return seconds, self._roofline()

    def _decoding_bytes(self, model: WhisperConfig, batch: int) -> float:
        held = cache_values(model, model.max_frames + model.max_tokens)
        passing = model.max_frames * (4 * model.width + 2 * model.encoder_ffn)
        return self.device.roof.weight_bytes * (n_parameters(model) + batch * (held + passing))

    def _training_bytes(
        self, teacher: WhisperConfig, student: WhisperConfig, trained: int, tokens: float
    ) -> float:
        """Return weights, optimiser, a micro-batch's encoder and caches, and a chunk's logits."""
        micro, size = self.recipe.training.micro_batch_size, self.device.roof.weight_bytes
        weights = size * n_parameters(teacher) + 4 * n_parameters(student)
        window = (
            teacher.max_frames * (4 * teacher.width + 2 * teacher.encoder_ffn)
            + cache_values(teacher, teacher.max_frames)
            + 3 * cache_values(student, student.max_frames)
        )
        kind: Literal["cpu", "cuda"] = "cpu" if self.settings.gpu == "cpu" else "cuda"
        n_logits = min(micro * tokens * student.vocab_size, chunk_logits(kind))
        logits = 4 * 4 * n_logits  # of two sides, each with its softmax, float32
        return weights + (ADAM_BYTES - 4) * trained + micro * size * window + logits

    def _measured(self) -> str:
        return f"measured: {self.settings.rates}"

    def _roofline(self) -> str:
        return f"roofline / {self.settings.efficiency:g} (assumed efficiency)"

    def _stage(self, name: str, seconds: float, memory: float, disk: float, how: str) -> StagePlan:
        hours, price = seconds / 3600, self.settings.price_per_hour
        cost = None if price is None else hours * price
        return StagePlan(name, hours, memory / 1e9, disk / 1e9, how, cost)
