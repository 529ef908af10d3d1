"""What experiments run on. Those of one experiment stand in its own file, and build on these."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, TypeVar

from distilwhisper.checks import AT_LEAST_1, check_rules, ruled
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.model.hardware import Hardware
from distilwhisper.run.settings import build_settings, put_override, read_toml
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import LabelSettings
from distilwhisper.training.settings import TrainingSettings

Scale = Literal["small", "paper"]
SCALES = Path(__file__).parent / "scales"


@dataclass(frozen=True)
class Settings:
    """What every experiment runs on; each says which of these it needs (``--list``)."""

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
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    """How audio becomes text. chunk_s is set by the next two."""
    teacher_chunk_s: float = 30.0
    """Length of chunks for the teacher and all others."""
    student_chunk_s: float = 15.0
    """Length of chunks for the student, and for those that draft in pairs."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where the networks run, and in which numbers."""
    resamples: int = ruled(10_000, AT_LEAST_1)
    """Bootstrap intervals: how often the files are drawn."""
    seed: int = 0
    """Of noise, of what is chosen by chance and of the intervals' draws; training and decoding have
    their own (training.seed, decoding.seed)."""

    def __post_init__(self) -> None:
        check_rules(self)


@dataclass(frozen=True)
class TimingSettings(Settings):
    """Of experiments that time models."""

    rounds: int = ruled(3, AT_LEAST_1)
    """How often every arm is timed, in turn."""
    timed_utterances: int = ruled(20, AT_LEAST_1)
    """So many of every short set, the first."""
    timed_recordings: int = ruled(2, AT_LEAST_1)
    """So many of every long set, the first."""


@dataclass(frozen=True)
class LabelledSettings(Settings):
    """Of experiments on labels."""

    train: str | None = None
    """Manifest of utterances with references, to be labelled and trained on."""
    label: LabelSettings = field(default_factory=LabelSettings)
    """How the teacher labels them."""
    filter: FilterSettings = field(default_factory=FilterSettings)
    """Which of its labels are kept. max_wer is set by max_wers in table 10."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How students are trained, but for what an experiment varies."""


@dataclass(frozen=True)
class StudentsSettings(LabelledSettings):
    """Of experiments that train students."""

    validation: str | None = None
    """Manifest that picks the best checkpoint of each."""
    student_init: StudentSettings = field(default_factory=StudentSettings)
    """Their layers, but for what an experiment varies."""


AnySettings = TypeVar("AnySettings", bound=Settings)
OwnSettings = TypeVar("OwnSettings", bound=Settings, covariant=True)


def read_settings(
    cls: type[AnySettings],
    scale: Scale,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    known: Iterable[type[Settings]] = (),
) -> AnySettings:
    """Return a scale's settings, bent by a file and then by ``key=value`` each.

    Args:
        cls: settings of the experiment.
        scale: whose values stand where nothing else is given.
        path: a TOML file of settings.
        overrides: as for :func:`distilwhisper.run.settings.read_recipe`.
        known: settings of all experiments: a file may hold what is of others alone.

    Raises:
        SettingsError: with all faults.
    """
    mapping = read_toml(SCALES / f"{scale}.toml")
    for name, value in (read_toml(path) if path is not None else {}).items():
        both_tables = isinstance(value, Mapping) and isinstance(mapping.get(name), Mapping)
        mapping[name] = {**mapping[name], **value} if both_tables else value
    for override in overrides:
        put_override(mapping, override)
    others = {f.name for each in known for f in fields(each)} - {f.name for f in fields(cls)}
    own = {name: value for name, value in mapping.items() if name not in others}
    return build_settings(cls, own, where=path or f"scale {scale}")
