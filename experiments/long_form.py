"""Long recordings: decoding, kinds of errors, length of chunks: tables 7, 8, 18, 19, 23."""

from collections.abc import Sequence

from distilwhisper.plotting import Line, draw_lines
from experiments import paper
from experiments.cells import Arm
from experiments.context import Context
from experiments.experiment import Outcome
from experiments.figures import wer_line
from experiments.scores import ArmSummary, Row, interval_notes
from experiments.tables import Column, P, Table, Value
from experiments.timing import NOTE, time_arms


def run_table7(context: Context) -> Outcome:
    """Sequential against chunked decoding: relative speed and mean error rate."""
    arms = _long_form_arms(context)
    rows, found = _compare_with_first(context, arms)
    times = time_arms(context, arms, context.long)
    first = times[arms[0].name]
    beside, paper_names = paper.beside(
        {arm.name: theirs for arm, theirs in zip(arms, paper.TABLE_7, strict=False)}, paper.TABLE_7
    )
    table = Table(
        "Table 7: long recordings, window by window against chunks",
        of="model, decoding",
        columns=(
            Column("relative speed", digits=2),
            Column("WER, %", percent=True),
            Column("less sequential's, points", percent=True, digits=2),
            P,
        ),
        rows={
            name: (
                times[name].speed_against(first),
                arm.shown_wer,
                arm.difference,
                arm.p,
            )
            for name, arm in found.items()
        },
        paper={name: (*row, None, None) for name, row in beside.items()},
        paper_names=paper_names,
        notes=(*interval_notes(found), NOTE, context.chunks_of(context.distilled)),
    )
    return Outcome(table, found, rows)


def run_table18(context: Context) -> Outcome:
    """Sequential against chunked decoding, by set."""
    arms = _long_form_arms(context)
    rows, found = _compare_with_first(context, arms)
    table = Table(
        "Table 18: error rates of long recordings by decoding and set",
        of="model, decoding",
        columns=[
            *(Column(f"{on.name}: WER, %", percent=True) for on in context.long),
            Column("mean of sets, %", percent=True),
        ],
        rows={
            name: (*(arm.by_set[on.name].wer for on in context.long), arm.mean())
            for name, arm in found.items()
        },
        notes=("The paper's averages stand in table 7.", context.chunks_of(context.distilled)),
    )
    return Outcome(table, found, rows)


KINDS = (
    Column("5-Dup", digits=0),
    Column("5-Dup above the references'", digits=0),
    Column("IER, %", percent=True),
    Column("SER, %", percent=True),
    Column("DER, %", percent=True),
    Column("WER, %", percent=True),
)
KINDS_NOTE = (
    "5-Dup: repeated 5-grams over all hypotheses of a set joined, which grows with the set and "
    "counts what the speakers themselves repeat; hence the column above the references' own."
)


def run_table8(context: Context) -> Outcome:
    """Kinds of long-form errors of every model: repetitions, insertions, the rest."""
    arms = [context.arm(model) for model in context.models]
    rows, found = _compare_with_first(context, arms)
    beside, paper_names = paper.beside(context.in_paper, paper.TABLE_8)
    table = Table(
        "Table 8: kinds of errors on long recordings, in chunks",
        of="model",
        columns=(*KINDS, Column(f"WER less {context.teacher.name}'s, points", 2, percent=True)),
        rows={
            name: (
                arm.repeated_5_grams,
                arm.repeated_5_grams - arm.reference_5_grams,
                *(arm.mean(rate) for rate in ("ier", "ser", "der")),
                arm.shown_wer,
                arm.difference,
            )
            for name, arm in found.items()
        },
        paper={name: (repeated, None, *rates, None) for name, (repeated, *rates) in beside.items()},
        paper_names=paper_names,
        notes=(KINDS_NOTE, *interval_notes(found), context.chunks_of(context.models)),
    )
    return Outcome(table, found, rows)


def run_table19(context: Context) -> Outcome:
    """Kinds of long-form errors of every model, by set."""
    arms = [context.arm(model) for model in context.models]
    rows, found = _compare_with_first(context, arms)
    values: dict[str, tuple[Value, ...]] = {}
    for on in context.long:
        for name in found:
            one = context.summarise(
                {name: [row for row in rows[name] if row.set == on.name]}, against={}
            )[name]
            values[f"{on.name}: {name}"] = (
                one.repeated_5_grams,
                one.repeated_5_grams - one.reference_5_grams,
                *(getattr(one.errors, rate) for rate in ("ier", "ser", "der", "wer")),
            )
    table = Table(
        "Table 19: kinds of errors on long recordings by set, in chunks",
        of="set: model",
        columns=KINDS,
        rows=values,
        notes=(
            KINDS_NOTE,
            "The paper's averages stand in table 8.",
            context.chunks_of(context.models),
        ),
    )
    return Outcome(table, found, rows)


def run_table23(context: Context) -> Outcome:
    """Error rate against the length of chunks."""
    lengths = context.settings.chunks_s
    arms = {
        (model.name, length): context.arm(model, f"{model.name}, {length:g} s", chunk_s=length)
        for model in context.distilled
        for length in lengths
    }
    rows = context.evaluate_all(arms.values(), context.long)
    against = {arm.name: arms[name, lengths[0]].name for (name, _), arm in arms.items()}
    found = context.summarise(rows, against=against)
    by_model = {
        model.name: {length: found[arms[model.name, length].name] for length in lengths}
        for model in context.distilled
    }
    columns: list[Column] = []
    lines = []
    for number, (name, by_length) in enumerate(by_model.items()):
        columns += [
            Column(f"{name}: WER, %", percent=True),
            Column(f"{name}: less {lengths[0]:g} s's, points", 2, percent=True),
        ]
        lines.append(wer_line(name, by_length))
        theirs = [row[number] for row in paper.TABLE_23.values()]
        called = f"paper: {(paper.TEACHER, paper.STUDENT)[number]}"
        lines.append(Line(called, list(paper.TABLE_23), theirs, kind="paper", beside=name))
    table = Table(
        "Table 23: error rate against the length of chunks",
        of="chunk",
        columns=columns,
        rows={
            f"{length:g} s": [
                value
                for of_model in by_model.values()
                for value in (of_model[length].shown_wer, of_model[length].difference)
            ]
            for length in lengths
        },
        paper={
            f"{length:g} s": [rate for one in row[: len(by_model)] for rate in (one, None)]
            for length, row in paper.TABLE_23.items()
        },
        notes=(
            *interval_notes(found),
            f"The paper's columns are {paper.TEACHER}, then {paper.STUDENT}. Neighbours share a "
            "third of a chunk.",
        ),
    )
    figure = draw_lines({"long recordings in chunks": lines}, x="chunk, s", y="WER, %")
    return Outcome(table, found, rows, figure)


def _long_form_arms(context: Context) -> list[Arm]:
    """Return the teacher window by window, in chunks, and the student in chunks."""
    teacher, student = context.teacher, context.student
    arms = [
        context.arm(teacher, f"{teacher.name}, sequential", long_form="sequential"),
        context.arm(teacher, f"{teacher.name}, chunked", long_form="chunked"),
    ]
    if student is not None:
        arms.append(context.arm(student, f"{student.name}, chunked", long_form="chunked"))
    return arms


def _compare_with_first(
    context: Context, arms: Sequence[Arm]
) -> tuple[dict[str, list[Row]], dict[str, ArmSummary]]:
    rows = context.evaluate_all(arms, context.long)
    return rows, context.summarise(rows, against=dict.fromkeys(rows, arms[0].name))
