"""What an experiment runs on: models, sets, and how far to go. Users bend all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.model.hardware import DTypeName, Hardware
from distilwhisper.run import build_settings, put_override, read_toml

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
    """Table 6: name of the short set that is like the training data; left out: the first."""
    train: str | None = None
    """Manifest of utterances with references, for the experiments that label or train."""
    validation: str | None = None
    """Manifest that picks the best checkpoint of those that train."""

    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    """How audio becomes text. chunk_s is set by the next two."""
    teacher_chunk_s: float = 30.0
    """Length of chunks for the teacher and all others."""
    student_chunk_s: float = 15.0
    """Length of chunks for the student."""
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

    resamples: int = 10_000
    """Bootstrap intervals: how often the files are drawn."""
    seed: int = 0
    """Of all that is drawn."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least 1, found {getattr(self, name)}"
            for name in (
                "rounds", "timed_utterances", "timed_recordings", "prompt_utterances", "resamples"
            )
            if getattr(self, name) < 1
        ]  # fmt: skip
        faults += [
            f"{name} must name at least one, found none"
            for name in (
                "batch_sizes", "dtypes", "exit_confidences", "chunks_s", "seam_chunks_s", "snrs_db",
                "prompt_tokens",
            )
            if not getattr(self, name)
        ]  # fmt: skip
        if self.nonspeech_minutes <= 0:
            faults.append(f"nonspeech_minutes must be above 0, found {self.nonspeech_minutes:g}")
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
    },
    "small": {"teacher": "openai/whisper-base", "others": ["openai/whisper-tiny.en"]},
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
        overrides: as for :func:`distilwhisper.run.read_recipe`.
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
