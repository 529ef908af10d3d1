"""What an experiment runs on: models, sets, and how far to go. Users bend all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.filter import FilterSettings
from distilwhisper.label import LabelSettings
from distilwhisper.model.hardware import DTypeName, Hardware
from distilwhisper.run.settings import build_settings, put_override, read_toml
from distilwhisper.speech.augment import AugmentSettings
from distilwhisper.student import StudentSettings
from distilwhisper.training.settings import TrainingSettings

Scale = Literal["unit", "small", "paper"]


@dataclass(frozen=True)
class ReproduceSettings:
    """What an experiment runs on; each says which of these it needs (``reproduce --list``)."""

    teacher: str
    """Model folder or hub id: every comparison's other side."""
    student: str | None = None
    """Model folder or hub id: what was distilled from the teacher."""
    others: tuple[str, ...] = ()
    """More models to compare with."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Table 22: more models, each with one that drafts for it."""
    short: tuple[str, ...] = ()
    """Manifests of utterances of 30 s at most, with references: one set each."""
    long: tuple[str, ...] = ()
    """Manifests of long recordings, with references: one set each."""
    reference_set: str | None = None
    """Table 6: name of the short set that is like what the student was trained on."""
    train: str | None = None
    """Manifest of utterances with references, for the experiments that label or train."""
    validation: str | None = None
    """Manifest that picks the best checkpoint of those that train."""

    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    """How audio becomes text. chunk_s is set by the next two."""
    teacher_chunk_s: float = 30.0
    """Length of chunks for the teacher and all others."""
    student_chunk_s: float = 15.0
    """Length of chunks for the student, and for those that draft in pairs."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where the networks run, and in which numbers."""

    rounds: int = 3
    """Timings: how often every arm is timed, in turn."""
    timed_utterances: int = 20
    """Timings: so many of every short set, the first."""
    timed_recordings: int = 2
    """Timings: so many of every long set, the first."""
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    """Tables 9, 22 and 24."""
    dtypes: tuple[DTypeName, ...] = ("float32",)
    """Table 24: precisions."""
    exit_confidences: tuple[float, ...] = (1.0, 0.9875, 0.975, 0.95, 0.925)
    """Table 20: thresholds."""
    chunks_s: tuple[float, ...] = (30.0, 25.0, 20.0, 15.0, 10.0)
    """Table 23: lengths."""
    seam_chunks_s: tuple[float, ...] = (30.0, 15.0)
    """Overlap: lengths of chunks."""
    overlaps_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Overlap: what neighbours share, beside the default of a third."""
    noises: tuple[str, ...] = ("white", "pink", "babble")
    """Figure 2: kinds of noise."""
    noise_folder: Path | None = None
    """Figure 2: a folder of recorded noise, as one more kind."""
    snrs_db: tuple[float, ...] = (40.0, 30.0, 20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
    """Figure 2: ratios of speech to noise."""
    prompt_tokens: tuple[int, ...] = (10, 20, 40, 60, 80, 120, 160, 200)
    """Prompts: their lengths, beside none."""
    prompt_utterances: int = 40
    """Prompts: so many of every short set, the first."""
    nonspeech_minutes: float = 2.0
    """Hallucination: of every sound."""

    label: LabelSettings = field(default_factory=LabelSettings)
    """How the teacher labels what is trained on."""
    filter: FilterSettings = field(default_factory=FilterSettings)
    """Which of its labels are kept. max_wer is set by max_wers in table 10."""
    student_init: StudentSettings = field(default_factory=StudentSettings)
    """Layers of the students that are trained, but for what an experiment varies."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How they are trained, but for what an experiment varies."""
    max_wers: tuple[float, ...] = (1.0, 0.8, 0.4, 0.2, 0.15, 0.1, 0.05)
    """Table 10: limits on the label's error rate, lambda. The loosest is what the others are
    compared with."""
    data_shares: tuple[float, ...] = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)
    """Table 11: shares of the hours that are kept; each holds the smaller ones."""
    decoder_depths: tuple[int, ...] = (16, 8, 4, 2)
    """Table 12: decoder layers, under the teacher's encoder."""
    encoder_depths: tuple[int, ...] = (16,)
    """Table 12 and encoder: layers of encoders that are trained, with the decoder of
    student_init."""
    mse_weight: float = 1.0
    """Table 21: of the distance between hidden states."""
    augment: AugmentSettings = field(
        default_factory=lambda: AugmentSettings(noise_probability=0.5, time_mask_share=0.05)
    )
    """Encoder: what the augmented arm hears in training."""
    encoder_noises: tuple[str, ...] = ("white:20", "white:10", "white:0")
    """Encoder: what is done to the sound that the students are judged by, beside nothing."""
    similarity_utterances: int = 100
    """Encoder: so many of every short set, the first, to compare encoder states on."""
    corrupted_share: float = 0.2
    """Label quality: share of the utterances that are spoilt, the same ones in every way."""
    corrupted_words: float = 0.2
    """Label quality: share of the words of a spoilt reference that are wrong, or gone."""
    corrupted_snr_db: float = 0.0
    """Label quality: ratio of speech to white noise in spoilt sound."""
    window_lengths_s: tuple[float, ...] = (10.0, 20.0, 30.0)
    """Label quality: windows to pack before filtering."""

    resamples: int = 10_000
    """Bootstrap intervals: how often the files are drawn."""
    seed: int = 0
    """Of noise, of what is chosen by chance and of the intervals' draws; training and decoding have
    their own (training.seed, decoding.seed)."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least 1, found {getattr(self, name)}"
            for name in (
                "rounds", "timed_utterances", "timed_recordings", "prompt_utterances", "resamples",
                "similarity_utterances",
            )
            if getattr(self, name) < 1
        ]  # fmt: skip
        faults += [
            f"{name} must name at least one, found none"
            for name in (
                "batch_sizes", "dtypes", "exit_confidences", "chunks_s", "seam_chunks_s", "snrs_db",
                "prompt_tokens", "max_wers", "data_shares", "decoder_depths", "encoder_depths",
                "window_lengths_s",
            )
            if not getattr(self, name)
        ]  # fmt: skip
        if self.nonspeech_minutes <= 0:
            faults.append(f"nonspeech_minutes must be above 0, found {self.nonspeech_minutes:g}")
        faults += [
            f"{name} must lie above 0 and be at most 1, found {found:g}"
            for name, values in (
                ("data_shares", self.data_shares),
                ("corrupted_share", (self.corrupted_share,)),
                ("corrupted_words", (self.corrupted_words,)),
            )
            for found in values
            if not 0 < found <= 1
        ]
        if self.mse_weight <= 0:
            faults.append(f"mse_weight must be above 0, found {self.mse_weight:g}")
        if faults:
            raise ValueError("; ".join(faults))


# What each scale sets otherwise than the defaults above. Sets are the user's to name, but for the
# unit scale, whose models and sets inputs.py makes.
SCALES: Mapping[Scale, Mapping[str, Any]] = {
    "unit": {
        "decoding": {"temperatures": [0.0], "max_new_tokens": 8, "batch_size": 4},
        "hardware": {"device": "cpu", "dtype": "float32"},
        "rounds": 1,
        "timed_utterances": 2,
        "timed_recordings": 1,
        "batch_sizes": [1, 2],
        "exit_confidences": [1.0, 0.5],
        "chunks_s": [30.0, 15.0],
        "seam_chunks_s": [15.0],
        "overlaps_s": [2.0],
        "noises": ["babble"],
        "snrs_db": [20.0, -10.0],
        "prompt_tokens": [20],
        "prompt_utterances": 2,
        "nonspeech_minutes": 0.05,
        "resamples": 200,
        "label": {"decoding": {"temperatures": [0.0], "max_new_tokens": 32}},
        "training": {
            "steps": 4,
            "batch_size": 2,
            "micro_batch_size": 2,
            "peak_lr": 1e-2,
            "warmup_steps": 0,
            "checkpoint_every": 4,
            "log_every": 1,
        },
        "max_wers": [9.0, 1.0],
        "filter": {"max_wer": 9.0},
        "data_shares": [0.5, 1.0],
        "decoder_depths": [4, 2],
        "encoder_depths": [1],
        "encoder_noises": ["white:0"],
        "similarity_utterances": 2,
        "corrupted_share": 0.5,
        "window_lengths_s": [2.0, 30.0],
    },
    "small": {
        "teacher": "openai/whisper-base",
        "others": ["openai/whisper-tiny.en"],
        "training": {
            "steps": 600,
            "batch_size": 16,
            "micro_batch_size": 8,
            "warmup_steps": 30,
            "checkpoint_every": 200,
            "pack_s": 30.0,
            "pack_across_recordings": True,
        },
        "data_shares": [0.0625, 0.125, 0.25, 0.5, 1.0],
        "decoder_depths": [6, 4, 2, 1],
        "encoder_depths": [3],
    },
    "paper": {
        "teacher": "openai/whisper-large-v2",
        "student": "distil-whisper/distil-large-v2",
        "others": [
            "openai/whisper-tiny.en",
            "openai/whisper-base.en",
            "openai/whisper-small.en",
            "openai/whisper-medium.en",
            "distil-whisper/distil-medium.en",
        ],
        "pairs": [["openai/whisper-medium.en", "distil-whisper/distil-medium.en"]],
        "dtypes": ["bfloat16"],
        "timed_utterances": 256,
        "timed_recordings": 8,
        "prompt_utterances": 500,
        "nonspeech_minutes": 30.0,
        "training": {"steps": 10_000, "checkpoint_every": 2_500, "pack_s": 30.0},
        "similarity_utterances": 1_000,
    },
}


def reproduce_settings(
    scale: Scale,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    made_up: Mapping[str, Any] | None = None,
) -> ReproduceSettings:
    """Return a scale's settings, bent by a file and then by ``key=value`` each.

    Args:
        scale: whose values stand where nothing else is said.
        path: a TOML file of settings.
        overrides: as for :func:`distilwhisper.run.settings.read_recipe`.
        made_up: models and sets of the unit scale.

    Raises:
        SettingsError: with all faults.
    """
    mapping: dict[str, Any] = {**SCALES[scale], **(made_up or {})}
    for name, value in (read_toml(path) if path is not None else {}).items():
        both_tables = isinstance(value, dict) and isinstance(mapping.get(name), Mapping)
        mapping[name] = {**mapping[name], **value} if both_tables else value
    mapping = {k: dict(v) if isinstance(v, Mapping) else v for k, v in mapping.items()}
    for override in overrides:
        put_override(mapping, override)
    return build_settings(ReproduceSettings, mapping, where=path or f"scale {scale}")
