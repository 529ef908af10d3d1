"""What the encoder contributes: kept as it is, trained, trained on spoilt sound, with fewer layers.

The paper keeps the teacher's encoder and does not ask what another would do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distilwhisper.checks import AT_LEAST_1, NOT_EMPTY, ruled
from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import read_manifest
from distilwhisper.model.checkpoint import load_checkpoint, read_config
from distilwhisper.model.whisper import Whisper
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.augment import AugmentSettings
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.speech.units import WINDOW_SAMPLES
from experiments.cells import Arm, model_folder
from experiments.context import Context, Model
from experiments.designs import TRAINED_ENCODER
from experiments.experiment import TRAINS, Outcome, experiment
from experiments.figures import draw_bars
from experiments.results import interval_notes
from experiments.settings import StudentsSettings
from experiments.students import NOTE, Plan, kept_ids, label_corpus, plan, train_students
from experiments.tables import WER, Column, P, Table, fact, less

SAMPLES_PER_STATE = 320  # 20 ms
CLEAN = "clean"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EncoderSettings(StudentsSettings):
    """Of this experiment."""

    encoder_depths: tuple[int, ...] = ruled((16,), NOT_EMPTY)
    """Layers of encoders that are cut and trained."""
    augment: AugmentSettings = field(
        default_factory=lambda: AugmentSettings(noise_probability=0.5, time_mask_share=0.05)
    )
    """What is done to the sound that the augmented arm trains on."""
    encoder_noises: tuple[str, ...] = ("white:20", "white:10", "white:0")
    """What is done to the sound that the students are judged by, beside nothing."""
    similarity_utterances: int = ruled(100, AT_LEAST_1)
    """So many of every short set, the first, to compare encoder states on."""


@experiment("encoder", needs=TRAINS, settings=EncoderSettings)
def encoder(context: Context[EncoderSettings]) -> Outcome:
    """Encoders frozen, trained, augmented, cut: error rate clean and noisy, likeness, drafts."""
    settings, teacher = context.settings, context.teacher
    corpus = label_corpus(context)
    plans = _plans(context, kept_ids(context, corpus, settings.filter))
    students = train_students(context, corpus, plans)
    models = [teacher, *(student.model for student in students.values())]
    conditions = (CLEAN, *settings.encoder_noises)
    arms = {(m.name, on): _arm(context, m, on) for m in models for on in conditions}
    more = {
        (name, CLEAN): {
            **student.facts,
            "similarity": _similarity(context, student.model),
            "acceptance": _acceptance(context, student.model),
        }
        for name, student in students.items()
    }
    results = context.evaluate(
        arms, context.short, against=lambda arm: (teacher.name, arm[1]), more=more
    )
    rows = {m.name: {on: results[m.name, on] for on in conditions} for m in models}
    table = Table(
        "Encoder: what it contributes",
        of="encoder of the student",
        columns=(
            *(WER.at(on) for on in conditions),
            less(f"{teacher.name}'s").at(CLEAN, f"{CLEAN}, less {teacher.name}'s, points"),
            P.at(CLEAN, "p"),
            Column("", fact("similarity"), 3).at(CLEAN, "likeness to the teacher's"),
            Column("", fact("acceptance"), percent=True).at(CLEAN, "accepted as its draft, %"),
        ),
        rows=rows,
        notes=(
            *interval_notes(results.values()),
            NOTE,
            "Likeness: linear CKA of the encoders' last states over all 20 ms steps of "
            f"{settings.similarity_utterances} utterances of each set, clean; 1 is the "
            "same up to a rotation and one scale (arXiv:1905.00414).",
            "Accepted: of the tokens that the student drafts for the teacher, clean.",
        ),
    )
    figure = draw_bars(
        {on: {name: 100 * row[on].mean() for name, row in rows.items()} for on in conditions},
        x="WER, %",
        title="error rate by encoder",
    )
    return Outcome(table, results, figure, problems=corpus.problems)


def _plans(context: Context[EncoderSettings], kept: Sequence[str]) -> dict[str, Plan]:
    n_layers = read_config(model_folder(context.teacher.path)).encoder_layers
    augmented = {**TRAINED_ENCODER, "augment": context.settings.augment}
    designs: dict[str, tuple[int | None, Mapping[str, Any]]] = {
        "the teacher's, frozen": (None, {}),
        "trained": (None, TRAINED_ENCODER),
        "trained, augmented": (None, augmented),
        **{
            f"trained, {depth} of {n_layers} layers": (depth, TRAINED_ENCODER)
            for depth in context.settings.encoder_depths
        },
    }
    return {
        name: plan(context, name, kept, student={"encoder_layers": depth}, training=training)
        for name, (depth, training) in designs.items()
    }


def _arm(context: Context[EncoderSettings], model: Model, condition: str) -> Arm:
    if condition == CLEAN:
        return context.arm(model)
    return replace(context.arm(model, f"{model.name}, {condition}"), noise=condition)


def _acceptance(context: Context[EncoderSettings], student: Model) -> float | None:
    """Return the share of the student's drafts that are the teacher's own tokens."""
    arm = replace(context.arm(context.teacher), draft=student.path)
    costs = [cell.summary for cell in context.cells(arm, context.short)]
    drafted = sum(cost["drafted"] for cost in costs)
    return sum(cost["accepted"] for cost in costs) / drafted if drafted else None


def _similarity(context: Context[EncoderSettings], student: Model) -> float:
    """Return the likeness of the encoders' states, stored."""
    key = {
        "models": [context.fingerprint(model.path) for model in (context.teacher, student)],
        "sets": [fingerprint(on.manifest) for on in context.short],
        "utterances": context.settings.similarity_utterances,
    }
    likeness: float = context.remember("similarity", key, lambda: _compare(context, student))
    return likeness


@torch.no_grad()
def _compare(context: Context[EncoderSettings], student: Model) -> float:
    device = context.settings.hardware.pick_device()
    ours, theirs = (
        load_checkpoint(model_folder(model.path), device=device).model
        for model in (student, context.teacher)
    )
    likeness = LinearCka()
    for samples in _sounds(context):
        mel = log_mel(stack_windows([samples]).to(device), n_mels=theirs.config.n_mels)
        n_states = -(-len(samples) // SAMPLES_PER_STATE)
        likeness.add(*(_states(model, mel)[:n_states] for model in (ours, theirs)))
    return likeness.value


def _states(model: Whisper, mel: torch.Tensor) -> Floats:
    states: Floats = model.encoder(mel.to(model.dtype))[0].double().cpu().numpy()
    return states


def _sounds(context: Context[EncoderSettings]) -> Iterator[Samples]:
    """Yield the sound of the first utterances of the short sets; what cannot be read is no sound.

    Evaluation names those that cannot be read.
    """
    for on in context.short:
        manifest = read_manifest(on.manifest)
        first = manifest.utterances[: context.settings.similarity_utterances]
        for _, samples in load_utterances(manifest, first):
            if not isinstance(samples, Exception) and len(samples) <= WINDOW_SAMPLES:
                yield samples


@dataclass
class LinearCka:
    """Linear centred kernel alignment of two networks' states, added up a sound at a time.

    Source: arXiv:1905.00414, equation 5 and section 3: the squared norm of the covariance of both,
    over the norms of the covariances of each with itself.
    """

    n: int = 0
    sums: dict[int, Floats] = field(default_factory=dict)  # of network 0 and of network 1
    products: dict[tuple[int, int], Floats] = field(default_factory=dict)

    def add(self, ours: Floats, theirs: Floats) -> None:
        """Add the states of the same moments, (moments, width) each; widths may differ."""
        both = (ours, theirs)
        self.n += len(ours)
        for a, states in enumerate(both):
            self.sums[a] = self.sums.get(a, 0) + states.sum(axis=0)
        for a, b in ((0, 0), (0, 1), (1, 1)):
            self.products[a, b] = self.products.get((a, b), 0) + both[a].T @ both[b]

    @property
    def value(self) -> float:
        """From 0, nothing in common, to 1, equal up to a rotation and a scale.

        Raises:
            ValueError: nothing was added, or the states of one network never change.
        """
        norms = {pair: float(np.linalg.norm(self._covariance(*pair))) for pair in self.products}
        if not norms or 0.0 in (norms[0, 0], norms[1, 1]):
            raise ValueError(
                "encoders are compared on states that change over time, found none in the short "
                "sets: is there sound in them that can be read?"
            )
        return norms[0, 1] ** 2 / (norms[0, 0] * norms[1, 1])

    def _covariance(self, a: int, b: int) -> Floats:
        return self.products[a, b] - np.outer(self.sums[a], self.sums[b]) / self.n
