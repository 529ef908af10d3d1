"""What a student is and what it learns: its layers (table 12), its objective (table 21)."""

from collections.abc import Mapping
from typing import Any

from distilwhisper.model.checkpoint import count_parameters, read_config
from distilwhisper.plotting import Point, draw_points
from experiments import paper
from experiments.cells import model_folder
from experiments.context import Context
from experiments.experiment import Outcome
from experiments.figures import draw_bars
from experiments.scores import interval_notes
from experiments.students import (
    NOTE,
    judge_students,
    kept_ids,
    label_corpus,
    plan,
    train_students,
)
from experiments.tables import Column, P, Table, Value
from experiments.timing import NOTE as TIMES
from experiments.timing import time_arms

# Settings of training under which an encoder learns too: what it makes of a sound changes.
TRAINED_ENCODER: Mapping[str, Any] = {"train_encoder": True, "cache_encoder": False}


def run_table12(context: Context) -> Outcome:
    """Parameters, relative speed and error rate by layers of decoder and encoder."""
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
            training={**TRAINED_ENCODER, "cache_teacher": False},
        )
        for depth in sorted(set(settings.encoder_depths), reverse=True)
    ]
    students = train_students(context, corpus, plans)
    models = [teacher, *(student.model for student in students.values())]
    arms = [context.arm(model) for model in models]
    rows = context.evaluate_all(arms, context.short)
    found = context.summarise(
        rows,
        against=dict.fromkeys(rows, teacher.name),
        more={name: student.facts for name, student in students.items()},
    )
    times = time_arms(context, arms, context.short)
    measured: dict[str, tuple[float, float, float]] = {
        model.name: (
            count_parameters(model_folder(model.path)) / 1e6,
            times[model.name].speed_against(times[teacher.name]),
            found[model.name].mean(),
        )
        for model in models
    }
    called = {
        teacher.name: f"{teacher.name}, {_layers(sizes.encoder_layers, sizes.decoder_layers)}"
    }
    printed = {
        **{_layers(32, depth): row for depth, row in paper.TABLE_12_DECODER.items()},
        **{_layers(depth, 2): row for depth, row in paper.TABLE_12_ENCODER.items()},
    }
    table = Table(
        "Table 12: layers of the student",
        of="encoder + decoder layers",
        columns=(
            Column("parameters, M"),
            Column("relative speed", 2),
            Column("WER, %", percent=True),
            Column(f"less {teacher.name}'s, points", 2, percent=True),
            P,
        ),
        rows={
            called.get(name, name): (parameters, speed, arm.shown_wer, arm.difference, arm.p)
            for (name, arm), (parameters, speed, _) in zip(
                found.items(), measured.values(), strict=True
            )
        },
        paper={name: (None, *row, None, None) for name, row in printed.items()},
        notes=(*interval_notes(found), NOTE, "The paper's are of its unseen sets.", TIMES),
    )
    figure = draw_points(
        {
            "encoder + decoder layers: error rate against speed": [
                *(
                    Point(called.get(name, name), speed, 100 * wer)
                    for name, (_, speed, wer) in measured.items()
                ),
                *(Point(f"paper: {name}", *row, is_paper=True) for name, row in printed.items()),
            ]
        },
        x="speed relative to the teacher",
        y="WER, %",
    )
    return Outcome(table, found, rows, figure, problems=corpus.problems)


def _layers(encoder: int, decoder: int) -> str:
    return f"{encoder} + {decoder}"


def run_table21(context: Context) -> Outcome:
    """Error rate by what the student learns from: labels, the teacher's doubts, its states."""
    settings = context.settings
    corpus = label_corpus(context)
    kept = kept_ids(context, corpus, settings.filter)
    plans = [
        plan(context, name, kept, training=named)
        for name, named in _objectives(settings.mse_weight).items()
    ]
    students = train_students(context, corpus, plans)
    rows = judge_students(context, students)
    found = context.summarise(
        rows,
        against=dict.fromkeys(rows, plans[0].name),
        more={name: student.facts for name, student in students.items()},
    )
    values: dict[str, tuple[Value, ...]] = {
        name: (arm.shown_wer, arm.difference, arm.p) for name, arm in found.items()
    }
    table = Table(
        "Table 21: objectives",
        of="objective",
        columns=(
            Column("WER, %", percent=True),
            Column(f"less {plans[0].name}'s, points", 2, percent=True),
            P,
        ),
        rows=values,
        paper={name: (wer, None, None) for name, wer in paper.TABLE_21.items()},
        notes=(
            *interval_notes(found),
            NOTE,
            f"PL: cross-entropy on the labels, weight {settings.training.pl_weight:g}. KL: of "
            f"teacher and student, weight {settings.training.kl_weight:g}. MSE: of hidden states, "
            f"weight {settings.mse_weight:g}.",
        ),
    )
    figure = draw_bars(
        {name: {"WER": 100 * arm.mean()} for name, arm in found.items()},
        x="WER, %",
        title="error rate by objective",
    )
    return Outcome(table, found, rows, figure, problems=corpus.problems)


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
