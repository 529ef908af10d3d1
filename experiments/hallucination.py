"""Words in the transcripts of sound in which nobody speaks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

from distilwhisper.checks import ABOVE_0, ruled
from distilwhisper.speech.units import seconds_to_samples
from experiments.cells import Arm
from experiments.context import Context
from experiments.experiment import Outcome, experiment
from experiments.figures import draw_bars
from experiments.nonspeech import SOUNDS
from experiments.settings import Settings
from experiments.tables import Column, Table

UNCHECKED: Mapping[str, Any] = {
    "temperature": (0.0,),
    "compression_ratio_threshold": None,
    "logprob_threshold": None,
    "no_speech_threshold": None,
}
MODES: Mapping[str, Mapping[str, Any]] = {
    "chunked": {},
    "chunked, no checks": UNCHECKED,
    "sequential": {"long_form": "sequential"},
}


@dataclass(frozen=True)
class HallucinationSettings(Settings):
    """Of this experiment."""

    nonspeech_minutes: float = ruled(2.0, ABOVE_0)
    """Of every sound."""


@experiment("hallucination", settings=HallucinationSettings)
def hallucination(context: Context[HallucinationSettings]) -> Outcome:
    """Words a minute on silence, noise, hum and music."""
    has_vad = find_spec("silero_vad") is not None
    modes = {**MODES, **({"chunked, vad_filter": {"vad_filter": True}} if has_vad else {})}
    arms = [
        context.arm(model, f"{model.name}, {mode}", language="en", **named)
        for model in context.distilled
        for mode, named in modes.items()
    ]
    minutes = context.settings.nonspeech_minutes
    words = {arm.name: _words_per_minute(context, arm, minutes) for arm in arms}
    missing = "" if has_vad else " Without vad_filter: the extra vad is not installed."
    table = Table(
        "Hallucination: words a minute where nobody speaks",
        of="model, decoding",
        columns=[Column(sound, itemgetter(sound)) for sound in SOUNDS],
        rows=words,
        notes=(f"{minutes:g} minutes of each sound; every word is one too many.{missing}",),
    )
    figure = draw_bars(
        {
            f"{sound}: {model.name}": {
                mode: words[f"{model.name}, {mode}"][sound] for mode in modes
            }
            for sound in SOUNDS
            for model in context.distilled
        },
        x="words a minute",
        title="words where nobody speaks",
    )
    return Outcome(table, figure=figure, more={"words_per_minute": words, "minutes": minutes})


def _words_per_minute(
    context: Context[HallucinationSettings], arm: Arm, minutes: float
) -> dict[str, float]:
    key = {
        **arm.key(),
        "weights": context.fingerprint(arm.model),
        "minutes": minutes,
        "sounds": list(SOUNDS),
    }
    texts: dict[str, str] = context.remember(
        "hallucination", key, partial(_transcribe, context, arm, minutes)
    )
    return {sound: len(text.split()) / minutes for sound, text in texts.items()}


def _transcribe(
    context: Context[HallucinationSettings], arm: Arm, minutes: float
) -> dict[str, str]:
    transcriber, n_samples = context.transcriber(arm), seconds_to_samples(60 * minutes)
    return {sound: transcriber.transcribe(make(n_samples)).text for sound, make in SOUNDS.items()}
