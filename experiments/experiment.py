"""What an experiment is.

An experiment is a function that takes a :class:`Context` and returns an :class:`Outcome`; the
decorator gives it its name and names what it needs, which is checked before anything is done, and
its own settings. Its docstring tells what it shows. ``catalogue.py`` lists it; ``runner.py`` writes
what comes of it.

    @experiment("table99", needs=("short", "comparison"))
    def table99(context: Context[Settings]) -> Outcome:
        \"\"\"What it shows.\"\"\"
        results = context.evaluate(context.arms(context.models), context.short)
        table = Table("Table 99: ...", of="model", columns=(WER, P), rows=results)
        return Outcome(table, results)

The rules that make experiments resumable and comparable:

- Texts come from ``context.evaluate``, which stores them below ``DIR/cells`` for all experiments;
  from ``context.remember``, which stores any other result that JSON can hold below
  ``DIR/results``; or from ``timing.time_arms``. So a second run does only what is missing, and two
  arms differ by their models alone.
- An experiment that trains asks ``students.py`` for its labels, what a filter keeps of them, and
  its students, which are stored for all experiments as well. Its settings are
  :class:`StudentsSettings` with a field for whatever it varies.
- Rates are fractions until a table shows them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from matplotlib.figure import Figure

from distilwhisper.run.settings import SettingsError
from experiments.context import Context
from experiments.results import Result
from experiments.settings import AnySettings, Settings
from experiments.tables import Table

Need = Literal["student", "comparison", "short", "reference_set", "long", "train", "validation"]

# What a need is, and how to give it.
NEEDS: Mapping[Need, str] = {
    "student": "a student of the teacher: --set student=MODEL (`distilwhisper run` makes one)",
    "comparison": "a student or other models: --set student=MODEL, or --set 'others=[\"MODEL\"]'",
    "short": "sets of utterances with references: --set 'short=[\"MANIFEST\"]'",
    "reference_set": "the set among these that is like what the student was trained on: "
    "--set reference_set=NAME",
    "long": "sets of long recordings with references: --set 'long=[\"MANIFEST\"]'",
    "train": "utterances to label and train on, with references: --set train=MANIFEST",
    "validation": "utterances that pick the best checkpoint: --set validation=MANIFEST",
}
TRAINS: tuple[Need, ...] = ("train", "validation", "short")


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment."""

    table: Table
    results: Mapping[Any, Result] = field(default_factory=dict)
    figure: Figure | None = None
    more: Mapping[str, Any] = field(default_factory=dict)  # for summary.json, beside the arms
    further: Mapping[str, Table] = field(default_factory=dict)  # other tables, by file name
    problems: Mapping[str, str] = field(default_factory=dict)  # inputs that no row is of, and why


@dataclass(frozen=True)
class Experiment:
    """One table, figure or check."""

    name: str
    shows: str  # in one line
    needs: tuple[Need, ...]
    settings: type[Settings]
    run: Callable[[Context[Any]], Outcome]

    def check(self, settings: Settings) -> None:
        """See that the settings name all that the experiment needs.

        Raises:
            SettingsError: they do not; the message says how to give what is missing.
        """
        missing = [need for need in self.needs if not _is_given(need, settings)]
        if missing:
            lines = "\n  ".join(NEEDS[need] for need in missing)
            raise SettingsError(f"{self.name} needs, and was not given:\n  {lines}")


def _is_given(need: Need, settings: Settings) -> bool:
    if need == "comparison":
        return bool(settings.student or settings.others)
    return bool(getattr(settings, need))


Run: TypeAlias = Callable[[Context[AnySettings]], Outcome]


def experiment(
    name: str,
    *,
    needs: tuple[Need, ...] = (),
    settings: type[AnySettings] = Settings,  # type: ignore[assignment]
) -> Callable[[Run[AnySettings]], Experiment]:
    """Make an experiment of the function below, which tells in its docstring what it shows."""

    def make(run: Run[AnySettings]) -> Experiment:
        shows = (run.__doc__ or "").partition("\n")[0].rstrip(".")
        return Experiment(name, shows, needs, settings, run)

    return make
