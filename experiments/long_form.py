"""Long recordings: decoding, kinds of errors, length of chunks: tables 7, 8, 18, 19, 23."""

from dataclasses import dataclass, replace

from distilwhisper.checks import NOT_EMPTY, ruled
from distilwhisper.plotting import Line, draw_panels
from experiments.cells import Arm
from experiments.context import Context
from experiments.experiment import Outcome, experiment
from experiments.figures import printed_line, wer_line
from experiments.quality import set_columns
from experiments.results import interval_notes
from experiments.settings import Settings, TimingSettings
from experiments.tables import (
    PAPER,
    REPETITIONS,
    STUDENT,
    TEACHER,
    WER,
    Column,
    P,
    Table,
    less,
    pivot,
    rate,
)
from experiments.timing import NOTE, speed, time_arms


def _decodings(context: Context[Settings]) -> dict[str, Arm]:
    """Return the teacher window by window, in chunks, and the student in chunks."""
    modes = [(context.teacher, "sequential"), *((m, "chunked") for m in context.distilled)]
    arms = [context.arm(m, f"{m.name}, {mode}", long_form=mode) for m, mode in modes]
    return {arm.name: arm for arm in arms}


@experiment("table7", needs=("long",), settings=TimingSettings)
def table7(context: Context[TimingSettings]) -> Outcome:
    """Long recordings window by window against chunks: speed and error rate."""
    arms = _decodings(context)
    first, *_ = arms
    results = context.evaluate(arms, context.long, against=lambda arm: first)
    times = time_arms(context, list(arms.values()), context.long)
    table = Table(
        "Table 7: long recordings, window by window against chunks",
        of="model, decoding",
        columns=(
            Column("relative speed", speed(times, first), 2, paper=0),
            replace(WER, paper=1),
            less("sequential's"),
            P,
        ),
        rows=results,
        paper=PAPER["table7"],
        called=dict(zip(arms, PAPER["table7"], strict=False)),
        notes=(
            *interval_notes(results.values()),
            NOTE,
            context.chunks_of(context.distilled),
        ),
    )
    return Outcome(table, results)


@experiment("table18", needs=("long",))
def table18(context: Context[Settings]) -> Outcome:
    """Table 7 by set."""
    arms = _decodings(context)
    first, *_ = arms
    results = context.evaluate(arms, context.long, against=lambda arm: first)
    table = Table(
        "Table 18: error rates of long recordings by decoding and set",
        of="model, decoding",
        columns=(
            *set_columns(context.long),
            Column("mean of sets, %", rate("wer"), percent=True),
        ),
        rows=results,
        notes=("The paper's averages stand in table 7.", context.chunks_of(context.distilled)),
    )
    return Outcome(table, results)


KINDS = (
    *REPETITIONS,
    Column("IER, %", rate("ier"), percent=True, paper=1),
    Column("SER, %", rate("ser"), percent=True, paper=2),
    Column("DER, %", rate("der"), percent=True, paper=3),
)
KINDS_NOTE = (
    "5-Dup: repeated 5-grams over all hypotheses of a set joined, which grows with the set and "
    "counts what the speakers themselves repeat; hence the column above the references' own."
)


@experiment("table8", needs=("long",))
def table8(context: Context[Settings]) -> Outcome:
    """Kinds of errors on long recordings: repeated 5-grams, IER, SER, DER."""
    teacher = context.teacher.name
    results = context.evaluate(
        context.arms(context.models), context.long, against=lambda model: teacher
    )
    difference = replace(less(f"{teacher}'s"), name=f"WER less {teacher}'s, points")
    table = Table(
        "Table 8: kinds of errors on long recordings, in chunks",
        of="model",
        columns=(*KINDS, replace(WER, paper=4), difference),
        rows=results,
        paper=PAPER["table8"],
        called=context.in_paper,
        notes=(
            KINDS_NOTE,
            *interval_notes(results.values()),
            context.chunks_of(context.models),
        ),
    )
    return Outcome(table, results)


@experiment("table19", needs=("long",))
def table19(context: Context[Settings]) -> Outcome:
    """Table 8 by set."""
    teacher = context.teacher.name
    results = context.evaluate(
        context.arms(context.models), context.long, against=lambda model: teacher
    )
    table = Table(
        "Table 19: kinds of errors on long recordings by set, in chunks",
        of="set: model",
        columns=(*KINDS, Column("WER, %", rate("wer"), percent=True)),
        rows={
            f"{on.name}: {model}": replace(result, rows=result.sets[on.name])
            for on in context.long
            for model, result in results.items()
        },
        notes=(
            KINDS_NOTE,
            "The paper's averages stand in table 8.",
            context.chunks_of(context.models),
        ),
    )
    return Outcome(table, results)


@dataclass(frozen=True)
class ChunkSettings(Settings):
    """Of table 23."""

    chunks_s: tuple[float, ...] = ruled((30.0, 25.0, 20.0, 15.0, 10.0), NOT_EMPTY)
    """Lengths of chunks; the others are compared with the first."""


@experiment("table23", needs=("long",), settings=ChunkSettings)
def table23(context: Context[ChunkSettings]) -> Outcome:
    """Error rate by length of chunks."""
    lengths = context.settings.chunks_s
    names = [model.name for model in context.distilled]
    arms = {
        (model.name, length): context.arm(model, f"{model.name}, {length:g} s", chunk_s=length)
        for model in context.distilled
        for length in lengths
    }
    results = context.evaluate(arms, context.long, against=lambda arm: (arm[0], lengths[0]))
    difference = less(f"{lengths[0]:g} s's")
    columns: list[Column] = []
    for place, name in enumerate(names):
        columns += [WER.at(name, paper=place), difference.at(name)]
    table = Table(
        "Table 23: error rate against the length of chunks",
        of="chunk",
        columns=columns,
        rows={f"{length:g} s": row for length, row in pivot(results).items()},
        paper={f"{length} s": row for length, row in PAPER["table23"].items()},
        notes=(
            *interval_notes(results.values()),
            f"The paper's columns are {TEACHER}, then {STUDENT}. Neighbours share a "
            "third of a chunk.",
        ),
    )
    lines: list[Line] = []
    for place, name in enumerate(names):
        lines.append(wer_line(name, {length: results[name, length] for length in lengths}))
        lines.append(_paper_line(place, beside=name))
    figure = draw_panels({"long recordings in chunks": lines}, x="chunk, s", y="WER, %")
    return Outcome(table, results, figure)


def _paper_line(place: int, *, beside: str) -> Line:
    lengths = [float(length) for length in PAPER["table23"]]
    wers = [row[place] for row in PAPER["table23"].values()]
    name = f"paper: {(TEACHER, STUDENT)[place]}"
    return printed_line(name, lengths, wers, beside=beside)
