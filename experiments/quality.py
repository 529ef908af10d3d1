"""How well models hear, set by set, and how big and fast they are: tables 5, 6, 16, 17."""

from collections.abc import Sequence

from distilwhisper.model.checkpoint import count_parameters
from distilwhisper.plotting import Point, draw_points
from experiments import paper
from experiments.cells import EvalSet, model_folder
from experiments.context import Context
from experiments.experiment import Outcome
from experiments.scores import interval_notes
from experiments.tables import Column, P, Table, Value
from experiments.timing import NOTE, time_arms


def run_table5(context: Context) -> Outcome:
    """Size, relative speed and mean error rate of every model, short and long form."""
    arms = [context.arm(model) for model in context.models]
    rows = context.evaluate_all(arms, [*context.short, *context.long])
    found = context.against_teacher(rows)
    measured: dict[str, list[float]] = {
        model.name: [count_parameters(model_folder(model.path)) / 1e6] for model in context.models
    }
    for sets in (context.short, context.long):
        times = time_arms(context, arms, sets)
        for name, values in measured.items():
            speed = times[name].speed_against(times[context.teacher.name])
            values += [speed, found[name].mean(sets=[on.name for on in sets])]
    beside, paper_names = paper.beside(context.in_paper, paper.TABLE_5)
    table = Table(
        "Table 5: size, relative speed and error rate",
        of="model",
        columns=(
            Column("parameters, M"),
            Column("short: relative speed", digits=2),
            Column("short: WER, %", percent=True),
            Column("long: relative speed", digits=2),
            Column("long: WER, %", percent=True),
        ),
        rows=measured,
        paper=beside,
        paper_names=paper_names,
        notes=(
            f"WER: the mean of the sets' rates, as in the paper. Short: {_names(context.short)}; "
            f"long, in chunks: {_names(context.long)}. The paper's are its own unseen sets.",
            context.chunks_of(context.models),
            NOTE,
        ),
    )
    figure = draw_points(
        {
            "short utterances: error rate against speed": [
                *(Point(name, n, 100 * wer) for name, (_, n, wer, *_) in measured.items()),
                *(
                    Point(f"paper: {name}", n, wer, is_paper=True)
                    for name, (_, n, wer, *_) in paper.TABLE_5.items()
                ),
            ]
        },
        x="speed relative to the teacher",
        y="WER, %",
    )
    return Outcome(table, found, rows, figure)


def run_table6(context: Context) -> Outcome:
    """Every set's error rate against the teacher's, as effective robustness."""
    rows = context.evaluate_all([context.arm(model) for model in context.models], context.short)
    found = context.against_teacher(rows)
    names = [on.name for on in context.short]
    reference = context.settings.reference_set
    if reference not in names:
        raise ValueError(
            f"reference_set must be one of the short sets ({', '.join(names)}), found {reference!r}"
        )
    others = [name for name in found if name != context.teacher.name]
    teacher = found[context.teacher.name]
    values: dict[str, list[Value]] = {}
    for name in sorted(names, key=lambda name: name != reference):
        theirs = teacher.by_set[name].wer
        values[name] = [theirs]
        for other in others:
            ours = found[other].by_set[name].wer
            values[name] += [ours, (ours - theirs) / theirs if theirs else None]
    columns = [Column(f"{context.teacher.name}: WER, %", percent=True)]
    for other in others:
        columns += [
            Column(f"{other}: WER, %", percent=True),
            Column(f"{other}: relative change, %", percent=True),
        ]
    blank = (None,) * (2 * len(others) - 2)
    table = Table(
        "Table 6: effective robustness",
        of="set",
        columns=columns,
        rows=values,
        paper={
            name: (teachers, students, 100 * (students - teachers) / teachers, *blank)
            for name, (teachers, students) in paper.TABLE_6.items()
        },
        notes=(
            f"{reference} stands for sets that are like the training data. A model is as robust as "
            "the teacher where its changes on the other sets are no worse than on that one.",
            f"The paper's columns are {paper.TEACHER} and {paper.STUDENT}.",
        ),
    )
    return Outcome(table, found, rows)


def run_table16(context: Context) -> Outcome:
    """The error rate of every model on every short set."""
    return _per_set(context, context.short, "Table 16: error rates on short utterances", column=2)


def run_table17(context: Context) -> Outcome:
    """The error rate of every model on every long set, in chunks."""
    notes = [context.chunks_of(context.models)]
    title = "Table 17: error rates on long recordings"
    return _per_set(context, context.long, title, column=4, notes=notes)


def _per_set(
    context: Context,
    sets: Sequence[EvalSet],
    title: str,
    *,
    column: int,
    notes: Sequence[str] = (),
) -> Outcome:
    """Tabulate error rates by set; the paper's averages are a column of its table 5."""
    rows = context.evaluate_all([context.arm(model) for model in context.models], sets)
    found = context.against_teacher(rows)
    beside, paper_names = paper.beside(context.in_paper, paper.TABLE_5)
    before, behind = (None,) * len(sets), (None,) * 2
    table = Table(
        title,
        of="model",
        columns=(
            *(Column(f"{on.name}: WER, %", percent=True) for on in sets),
            Column("mean of sets, %", percent=True),
            Column(f"less {context.teacher.name}'s, points", percent=True, digits=2),
            P,
        ),
        rows={
            name: (
                *(arm.by_set[on.name].wer for on in sets),
                arm.shown_wer,
                arm.difference,
                arm.p,
            )
            for name, arm in found.items()
        },
        paper={name: (*before, row[column], *behind) for name, row in beside.items()},
        paper_names=paper_names,
        notes=(*interval_notes(found), *notes, "The paper's averages are over its own sets."),
    )
    return Outcome(table, found, rows)


def _names(sets: Sequence[EvalSet]) -> str:
    return ", ".join(on.name for on in sets)
