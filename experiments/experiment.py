"""What an experiment is.

An experiment is a function that takes a :class:`Context` and returns an :class:`Outcome`; an
:class:`Experiment` in ``catalogue.py`` gives it its name, says what it shows, and names what it
needs, which is checked before anything is done. ``runner.py`` writes what comes of it.

    def run_table99(context: Context) -> Outcome:
        arms = [context.arm(model) for model in context.models]
        rows = context.evaluate_all(arms, context.short)
        found = context.against_teacher(rows)
        return Outcome(table=Table(...), arms=found, rows=rows)

    Experiment("table99", "what it shows", needs=("short", "comparison"), run=run_table99)

The rules that make experiments resumable and comparable:

- What models hear comes from ``context.evaluate_all`` (``evaluate`` gives the summaries too), which
  stores it below ``DIR/cells`` for all experiments; from ``context.remember``, which stores any
  other result that JSON can hold below ``DIR/results``; or from ``timing.time_arms``. So a second
  run does only what is missing, and two arms differ by their models alone.
- An experiment that trains asks ``students.py`` for its labels, what a filter keeps of them, and
  its students, which are stored for all experiments as well, and judges each as
  ``context.arm(student.model)``. It needs "train" and "validation". What it is to be told besides
  goes into ``ReproduceSettings``, with values for every scale in ``SCALES``.
- Rates are fractions until a table shows them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure

from distilwhisper.run.settings import SettingsError
from experiments.context import Context
from experiments.scores import ArmSummary, Row
from experiments.settings import ReproduceSettings
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


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment."""

    table: Table
    arms: Mapping[str, ArmSummary] = field(default_factory=dict)
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # by arm
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
    run: Callable[[Context], Outcome]

    def check(self, settings: ReproduceSettings) -> None:
        """See that the settings name all that the experiment needs.

        Raises:
            SettingsError: they do not; the message says how to give what is missing.
        """
        missing = [need for need in self.needs if not _is_given(need, settings)]
        if missing:
            lines = "\n  ".join(NEEDS[need] for need in missing)
            raise SettingsError(f"{self.name} needs, and was not given:\n  {lines}")


def _is_given(need: Need, settings: ReproduceSettings) -> bool:
    if need == "comparison":
        return bool(settings.student or settings.others)
    return bool(getattr(settings, need))
