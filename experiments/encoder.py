"""What the encoder contributes: kept as it is, trained, trained on spoilt sound, with fewer layers.

The paper keeps the teacher's encoder and does not ask what another would do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import read_manifest
from distilwhisper.model.checkpoint import load_checkpoint, read_config
from distilwhisper.model.whisper import Whisper
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.audio import WINDOW_SAMPLES, Samples
from distilwhisper.speech.mel import log_mel, stack_windows
from experiments.cells import Arm, model_folder
from experiments.context import Context, Model
from experiments.designs import TRAINED_ENCODER
from experiments.experiment import Outcome
from experiments.figures import draw_bars
from experiments.scores import interval_notes
from experiments.students import (
    NOTE,
    Plan,
    kept_ids,
    label_corpus,
    plan,
    train_students,
)
from experiments.tables import Column, P, Table, Value

SAMPLES_PER_STATE = 320  # 20 ms
CLEAN = "clean"

Floats = npt.NDArray[np.float64]


def run_encoder(context: Context) -> Outcome:
    """Error rate clean and under noise, likeness to the teacher's encoder, and acceptance."""
    teacher = context.teacher
    corpus = label_corpus(context)
    students = train_students(
        context, corpus, _plans(context, kept_ids(context, corpus, context.settings.filter))
    )
    models = [teacher, *(student.model for student in students.values())]
    conditions = (CLEAN, *context.settings.encoder_noises)
    arms = {
        (model.name, condition): _arm(context, model, condition)
        for model in models
        for condition in conditions
    }
    rows = context.evaluate_all(arms.values(), context.short)
    more = {
        student.model.name: {
            **student.facts,
            "similarity": _similarity(context, student.model),
            "acceptance": _acceptance(context, student.model),
        }
        for student in students.values()
    }
    found = context.summarise(
        rows,
        against={arm.name: arms[teacher.name, on].name for (_, on), arm in arms.items()},
        more=more,
    )
    values: dict[str, list[Value]] = {}
    for model in models:
        values[model.name] = [found[arms[model.name, on].name].shown_wer for on in conditions]
        clean = found[model.name]
        values[model.name] += [clean.difference, clean.p]
        known = more.get(model.name, {})
        values[model.name] += [known.get("similarity"), known.get("acceptance")]
    table = Table(
        "Encoder: what it contributes",
        of="encoder of the student",
        columns=(
            *(Column(f"{condition}: WER, %", percent=True) for condition in conditions),
            Column(f"{CLEAN}, less {teacher.name}'s, points", 2, percent=True),
            P,
            Column("likeness to the teacher's", 3),
            Column("accepted as its draft, %", percent=True),
        ),
        rows=values,
        notes=(
            *interval_notes(found),
            NOTE,
            "Likeness: linear CKA of the encoders' last states over all 20 ms steps of "
            f"{context.settings.similarity_utterances} utterances of each set, clean; 1 is the "
            "same up to a rotation and one scale (arXiv:1905.00414).",
            "Accepted: of the tokens that the student drafts for the teacher, clean.",
        ),
    )
    figure = draw_bars(
        {
            on: {model.name: 100 * found[arms[model.name, on].name].mean() for model in models}
            for on in conditions
        },
        x="WER, %",
        title="error rate by encoder",
    )
    return Outcome(table, found, rows, figure, problems=corpus.problems)


def _plans(context: Context, kept: Sequence[str]) -> list[Plan]:
    settings = context.settings
    n_layers = read_config(model_folder(context.teacher.path)).encoder_layers
    trained = {**TRAINED_ENCODER, "cache_teacher": False}
    return [
        plan(context, "the teacher's, frozen", kept, student={"encoder_layers": None}),
        plan(context, "trained", kept, student={"encoder_layers": None}, training=trained),
        plan(
            context,
            "trained, augmented",
            kept,
            student={"encoder_layers": None},
            training={**trained, "augment": settings.augment},
        ),
        *(
            plan(
                context,
                f"trained, {depth} of {n_layers} layers",
                kept,
                student={"encoder_layers": depth},
                training=trained,
            )
            for depth in settings.encoder_depths
        ),
    ]


def _arm(context: Context, model: Model, condition: str) -> Arm:
    if condition == CLEAN:
        return context.arm(model)
    return replace(context.arm(model, f"{model.name}, {condition}"), noise=condition)


def _acceptance(context: Context, student: Model) -> float | None:
    """Return the share of the student's drafts that the teacher would have said itself."""
    arm = replace(context.arm(context.teacher), draft=student.path)
    heard = [cell.summary for cell in context.evaluate(arm, context.short).values()]
    drafted = sum(summary["drafted"] for summary in heard)
    return sum(summary["accepted"] for summary in heard) / drafted if drafted else None


def _similarity(context: Context, student: Model) -> float:
    """Return the likeness of the encoders' states, stored."""
    key = {
        "models": [context.fingerprint(model.path) for model in (context.teacher, student)],
        "sets": [fingerprint(on.manifest) for on in context.short],
        "utterances": context.settings.similarity_utterances,
    }
    found: float = context.remember("similarity", key, lambda: _compare(context, student))
    return found


@torch.no_grad()
def _compare(context: Context, student: Model) -> float:
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


def _sounds(context: Context) -> Iterator[Samples]:
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
