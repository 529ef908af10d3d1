"""Settings of the stages and of a plan, without tensors, so that a command line parses fast."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from distilwhisper.checks import ABOVE_0, AT_LEAST_1, Checked, check_rules, ruled
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.model.hardware import Hardware
from distilwhisper.run.processes import EngineSettings
from distilwhisper.speech.units import WINDOW_S

if TYPE_CHECKING:
    from distilwhisper.evaluation.degradation import Degradation

StageName = Literal[
    "data", "label", "filter", "student", "train", "evaluate", "transcribe", "report"
]
STAGES: tuple[StageName, ...] = get_args(StageName)
GpuName = Literal["h100", "h200", "a100", "a100-40gb", "l40s", "l4", "a10", "v100", "t4", "cpu"]


@dataclass(frozen=True)
class LabelSettings:
    """How a corpus is labelled."""

    decoding: DecodingSettings = field(default_factory=lambda: DecodingSettings(temperature=(0.0,)))
    """How audio becomes text. Labels are greedy: what fails is filtered out, not sampled again."""
    pack: bool = False
    """Decode short utterances of one language several to a window: sooner, but not always the
    same text. Greedy, with timestamps; languages must be given."""
    shard_size: int = ruled(256, AT_LEAST_1)
    """Utterances per shard: what a killed run loses at most."""

    def __post_init__(self) -> None:
        default = DecodingSettings()
        faults = [
            f"{name} must be left out: it is of recordings over {WINDOW_S:g} s, and labels are not"
            for name in _OF_LONG_RECORDINGS
            if getattr(self.decoding, name) != getattr(default, name)
        ]
        if self.pack and (fault := self.decoding.packing_fault()):
            faults.append(fault)
        check_rules(self, *faults)


_OF_LONG_RECORDINGS = (
    "multilingual language_windows word_timestamps long_form chunk_s overlap_s vad_filter "
    "clip_timestamps condition_on_previous_text"
).split()


@dataclass(frozen=True)
class EvaluateSettings:
    """How a model is judged."""

    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    """How audio becomes text."""
    shard_size: int = ruled(64, AT_LEAST_1)
    """Utterances per shard: what a killed run loses at most."""
    noise: str | None = None
    """What the sound goes through first, as `KIND[:LEVEL][@PATH]`: white:10, pink:0, babble:5,
    recorded:10@FOLDER (dB of speech over noise), reverberation:0.6 (seconds of RT60) or
    reverberation@FOLDER, codec:opus-6k, codec:mp3-16k, codec:mulaw, clipping:12 (dB)."""
    noise_seed: int = 0
    """Seed of the noise of each utterance; the draws are the same for all models and levels."""

    def __post_init__(self) -> None:
        faults = []
        try:
            _ = self.degradation
        except ValueError as error:
            faults.append(str(error))
        check_rules(self, *faults)

    @property
    def degradation(self) -> "Degradation | None":
        """The noise, its path absolute: the same in whatever folder a process runs."""
        if self.noise is None:
            return None
        from distilwhisper.evaluation.degradation import Degradation

        parsed = Degradation.parse(self.noise)
        return replace(parsed, source=parsed.source and parsed.source.absolute())


@dataclass(frozen=True)
class Workers:
    """What decodes for a stage besides its model, and where."""

    hardware: Hardware = field(default_factory=Hardware)
    engine: EngineSettings = field(default_factory=EngineSettings)
    draft: str | None = None
    """A smaller model that drafts for the one that labels or is judged, such as its student: the
    same text, sooner if most of what it proposes is right."""


@dataclass(frozen=True)
class PlanSettings(Checked):
    """What a plan assumes."""

    gpu: GpuName = "h100"
    """Device that the stages run on."""
    hours: float | None = ruled(None, ABOVE_0)
    """Hours of audio to label, in place of counting the recipe's data, which need not be there."""
    utterance_s: float = ruled(10.0, ABOVE_0)
    """With hours: mean length of an utterance."""
    rates: Path | None = None
    """Measured rates: a JSON file of Rates, or a finished run of the same teacher and device."""
    price_per_hour: float | None = ruled(None, ABOVE_0)
    """Price of an hour of the device, in any currency; needs rates. Left out: none is printed."""
