"""Error rates set by set, and the models' sizes and speeds: tables 5, 6, 16, 17."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from distilwhisper.model.checkpoint import count_parameters, read_config
from experiments.cells import EvalSet, model_folder
from experiments.context import Context
from experiments.experiment import Outcome, experiment
from experiments.figures import speed_figure
from experiments.results import interval_notes
from experiments.settings import Settings, TimingSettings
from experiments.tables import PAPER, STUDENT, TEACHER, WER, Column, P, Table, less, rate
from experiments.timing import NOTE, speed, time_arms


@experiment("table5", needs=("comparison", "short", "long"), settings=TimingSettings)
def table5(context: Context[TimingSettings]) -> Outcome:
    """Size, relative speed and error rate of every model, short and long form."""
    arms, teacher = context.arms(context.models), context.teacher.name
    results = context.evaluate(arms, [*context.short, *context.long], against=lambda model: teacher)
    sizes = {
        m.name: count_parameters(read_config(model_folder(m.path))) / 1e6 for m in context.models
    }
    columns = [Column("parameters, M", lambda result: sizes[result.arm], paper=0)]
    speeds = {}
    for form, sets, place in (("short", context.short, 1), ("long", context.long, 3)):
        speeds[form] = speed(time_arms(context, list(arms.values()), sets), teacher)
        wer = rate("wer", [on.name for on in sets])
        columns += [
            Column(f"{form}: relative speed", speeds[form], 2, paper=place),
            Column(f"{form}: WER, %", wer, percent=True, paper=place + 1),
        ]
    table = Table(
        "Table 5: size, relative speed and error rate",
        of="model",
        columns=columns,
        rows=results,
        paper=PAPER["table5"],
        called=context.in_paper,
        notes=(
            f"WER: the mean of the sets' rates, as in the paper. Short: {_names(context.short)}; "
            f"long, in chunks: {_names(context.long)}. The paper's are its own unseen sets.",
            context.chunks_of(context.models),
            NOTE,
        ),
    )
    figure = speed_figure(
        "short utterances: error rate against speed",
        results,
        speeds["short"],
        {name: row[1:3] for name, row in PAPER["table5"].items()},
        sets=[on.name for on in context.short],
    )
    return Outcome(table, results, figure)


@dataclass(frozen=True)
class RobustnessSettings(Settings):
    """Of table 6."""

    reference_set: str | None = None
    """Name of the short set that is like what the student was trained on."""


@experiment("table6", needs=("comparison", "short", "reference_set"), settings=RobustnessSettings)
def table6(context: Context[RobustnessSettings]) -> Outcome:
    """Effective robustness: each set's error rate against the teacher's."""
    teacher, reference = context.teacher.name, context.settings.reference_set
    names = [on.name for on in context.short]
    if reference not in names:
        raise ValueError(
            f"reference_set must be one of the short sets ({', '.join(names)}), found {reference!r}"
        )
    results = context.evaluate(
        context.arms(context.models), context.short, against=lambda model: teacher
    )
    rows = {
        name: {model: result.mean("wer", [name]) for model, result in results.items()}
        for name in sorted(names, key=lambda name: name != reference)
    }
    columns = [_wer_of(teacher, paper=0)]
    for place, other in enumerate(name for name in results if name != teacher):
        columns += [
            _wer_of(other, paper=None if place else 1),
            _change(other, teacher, paper=None if place else 2),
        ]
    table = Table(
        "Table 6: effective robustness",
        of="set",
        columns=columns,
        rows=rows,
        paper={
            name: (teachers, students, 100 * (students - teachers) / teachers)
            for name, (teachers, students) in PAPER["table6"].items()
        },
        notes=(
            f"{reference} stands for sets that are like the training data. A model is as robust as "
            "the teacher where its changes on the other sets are no worse than on that one.",
            f"The paper's columns are {TEACHER} and {STUDENT}.",
        ),
    )
    return Outcome(table, results)


def _wer_of(model: str, *, paper: int | None) -> Column:
    return Column(f"{model}: WER, %", lambda rates: rates[model], percent=True, paper=paper)


def _change(model: str, teacher: str, *, paper: int | None) -> Column:
    def change(rates: dict[str, float]) -> float | None:
        theirs = rates[teacher]
        return (rates[model] - theirs) / theirs if theirs else None

    return Column(f"{model}: relative change, %", change, percent=True, paper=paper)


@experiment("table16", needs=("short",))
def table16(context: Context[Settings]) -> Outcome:
    """Error rates by model and short set."""
    return _per_set(context, context.short, "Table 16: error rates on short utterances", paper=2)


@experiment("table17", needs=("long",))
def table17(context: Context[Settings]) -> Outcome:
    """Error rates by model and long set."""
    notes = [context.chunks_of(context.models)]
    title = "Table 17: error rates on long recordings"
    return _per_set(context, context.long, title, paper=4, notes=notes)


def _per_set(
    context: Context[Settings],
    sets: Sequence[EvalSet],
    title: str,
    *,
    paper: int,
    notes: Sequence[str] = (),
) -> Outcome:
    """Tabulate error rates by set; the paper's averages are a column of its table 5."""
    teacher = context.teacher.name
    results = context.evaluate(context.arms(context.models), sets, against=lambda model: teacher)
    table = Table(
        title,
        of="model",
        columns=(
            *set_columns(sets),
            replace(WER, name="mean of sets, %", paper=paper),
            less(f"{teacher}'s"),
            P,
        ),
        rows=results,
        paper=PAPER["table5"],
        called=context.in_paper,
        notes=(
            *interval_notes(results.values()),
            *notes,
            "The paper's averages are over its own sets.",
        ),
    )
    return Outcome(table, results)


def set_columns(sets: Sequence[EvalSet]) -> list[Column]:
    """Return the error rate of every set."""
    return [Column(f"{on.name}: WER, %", rate("wer", [on.name]), percent=True) for on in sets]


def _names(sets: Sequence[EvalSet]) -> str:
    return ", ".join(on.name for on in sets)
