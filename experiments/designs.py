"""What a student is and what it learns: its layers (table 12), its objective (table 21)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distilwhisper.checks import ABOVE_0, NOT_EMPTY, ruled
from distilwhisper.model.checkpoint import count_parameters, read_config
from experiments.cells import model_folder
from experiments.context import Context
from experiments.experiment import TRAINS, Outcome, experiment
from experiments.figures import draw_bars, speed_figure
from experiments.results import interval_notes
from experiments.settings import StudentsSettings, TimingSettings
from experiments.students import (
    NOTE,
    judge_students,
    kept_ids,
    label_corpus,
    plan,
    train_students,
)
from experiments.tables import PAPER, WER, Column, P, Table, less
from experiments.timing import NOTE as TIMES
from experiments.timing import speed, time_arms

# Settings of training under which an encoder learns too: its states change, and are not stored.
TRAINED_ENCODER: Mapping[str, Any] = {
    "train_encoder": True, "cache_encoder": False, "cache_teacher": False
}  # fmt: skip


@dataclass(frozen=True)
class LayersSettings(StudentsSettings, TimingSettings):
    """Of table 12."""

    decoder_depths: tuple[int, ...] = ruled((16, 8, 4, 2), NOT_EMPTY)
    """Decoder layers, under the teacher's encoder."""
    encoder_depths: tuple[int, ...] = ruled((16,), NOT_EMPTY)
    """Layers of encoders that are trained, with the decoder of student_init."""


@experiment("table12", needs=TRAINS, settings=LayersSettings)
def table12(context: Context[LayersSettings]) -> Outcome:
    """Layers of the student's decoder and encoder: size, relative speed, error rate."""
    settings, teacher = context.settings, context.teacher
    sizes = read_config(model_folder(teacher.path))
    corpus = label_corpus(context)
    kept = kept_ids(context, corpus, settings.filter)
    n_decoder = len(settings.student_init.decoder_sources(sizes.decoder_layers))
    plans = [
        plan(
            context,
            _layers(sizes.encoder_layers, depth),
            kept,
            student={"decoder_layers": depth, "layers": None},
        )
        for depth in sorted(set(settings.decoder_depths), reverse=True)
    ] + [
        plan(
            context,
            f"{_layers(depth, n_decoder)}, encoder trained",
            kept,
            student={"encoder_layers": depth},
            training=TRAINED_ENCODER,
        )
        for depth in sorted(set(settings.encoder_depths), reverse=True)
    ]
    students = train_students(context, corpus, {one.name: one for one in plans})
    models = [teacher, *(student.model for student in students.values())]
    arms = context.arms(models)
    results = context.evaluate(
        arms,
        context.short,
        against=lambda model: teacher.name,
        more={name: student.facts for name, student in students.items()},
    )
    times = time_arms(context, list(arms.values()), context.short)
    n_parameters = {
        m.name: count_parameters(read_config(model_folder(m.path))) / 1e6 for m in models
    }
    whole = f"{teacher.name}, {_layers(sizes.encoder_layers, sizes.decoder_layers)}"
    rows = {whole if name == teacher.name else name: result for name, result in results.items()}
    table = Table(
        "Table 12: layers of the student",
        of="encoder + decoder layers",
        columns=(
            Column("parameters, M", lambda result: n_parameters[result.arm]),
            Column("relative speed", speed(times, teacher.name), 2, paper=0),
            replace(WER, paper=1),
            less(f"{teacher.name}'s"),
            P,
        ),
        rows=rows,
        paper=PAPER["table12"],
        notes=(
            *interval_notes(results.values()),
            NOTE,
            "The paper's are of its unseen sets.",
            TIMES,
        ),
    )
    figure = speed_figure(
        "encoder + decoder layers: error rate against speed",
        rows,
        speed(times, teacher.name),
        PAPER["table12"],
    )
    return Outcome(table, results, figure, problems=corpus.problems)


def _layers(encoder: int, decoder: int) -> str:
    return f"{encoder} + {decoder}"


@dataclass(frozen=True)
class ObjectiveSettings(StudentsSettings):
    """Of table 21."""

    mse_weight: float = ruled(1.0, ABOVE_0)
    """Of the distance between hidden states."""


@experiment("table21", needs=TRAINS, settings=ObjectiveSettings)
def table21(context: Context[ObjectiveSettings]) -> Outcome:
    """Objectives: labels, teacher's distributions, hidden states, other divergences."""
    settings = context.settings
    corpus = label_corpus(context)
    kept = kept_ids(context, corpus, settings.filter)
    plans = {
        name: plan(context, name, kept, training=named)
        for name, named in _objectives(settings.mse_weight).items()
    }
    first, *_ = plans
    _, results = judge_students(context, corpus, plans, against=lambda objective: first)
    table = Table(
        "Table 21: objectives",
        of="objective",
        columns=(replace(WER, paper=0), less(f"{first}'s"), P),
        rows=results,
        paper=PAPER["table21"],
        notes=(
            *interval_notes(results.values()),
            NOTE,
            f"PL: cross-entropy on the labels, weight {settings.training.pl_weight:g}. KL: of "
            f"teacher and student, weight {settings.training.kl_weight:g}. MSE: of hidden states, "
            f"weight {settings.mse_weight:g}.",
        ),
    )
    figure = draw_bars(
        {name: {"WER": 100 * result.mean()} for name, result in results.items()},
        x="WER, %",
        title="error rate by objective",
    )
    return Outcome(table, results, figure, problems=corpus.problems)


def _objectives(mse_weight: float) -> dict[str, dict[str, Any]]:
    """Return settings of training by objective; weights that are not named stay as they are."""
    return {
        "PL": {"kl_weight": 0.0, "mse_weight": 0.0, "cache_teacher": False},
        "PL + KL": {"mse_weight": 0.0, "divergence": "forward-kl"},
        "PL + KL + MSE": {
            "mse_weight": mse_weight, "divergence": "forward-kl", "cache_teacher": False
        },
        "PL + reverse KL": {"mse_weight": 0.0, "divergence": "reverse-kl"},
        "PL + Jensen-Shannon": {"mse_weight": 0.0, "divergence": "jensen-shannon"},
    }  # fmt: skip
