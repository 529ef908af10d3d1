"""Tables in the paper's layout: what was measured here, and beside it what the paper printed."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from distilwhisper.evaluation.bootstrap import Interval
from distilwhisper.run.settings import read_toml
from experiments.results import Rate, Result

Value: TypeAlias = str | int | float | Interval | None
Printed: TypeAlias = Mapping[str, Sequence[float]]  # rows by name
Across = TypeVar("Across")
Down = TypeVar("Down")

# The paper's tables by name, such as table5; what they hold is told there.
PAPER: Mapping[str, Printed] = read_toml(Path(__file__).parent / "printed.toml")
TEACHER, STUDENT = "large-v2", "distil-large-v2"


@dataclass(frozen=True)
class Column:
    """One quantity."""

    name: str  # with its unit
    value: Callable[[Any], Value]  # of what a row of the table is given by
    digits: int = 1
    percent: bool = False  # fractions in the rows, per cent where they are read
    paper: int | None = None  # place of the same quantity in the paper's rows

    def at(self, key: Any, name: str | None = None, *, paper: int | None = None) -> "Column":
        """Return this quantity of one of several things that a row has by key; of none, nothing.

        Args:
            key: of the thing.
            name: of the column; this one's behind the key when left out.
            paper: as of a column.
        """

        def value(row: Mapping[Any, Any]) -> Value:
            return None if row.get(key) is None else self.value(row[key])

        return replace(self, name=name or f"{key}: {self.name}", value=value, paper=paper)


def rate(name: Rate, sets: Sequence[str] | None = None) -> Callable[[Result], float]:
    """Return what makes a column of a result's rate, a mean over some sets or all."""
    return lambda result: result.mean(name, sets)


def fact(name: str) -> Callable[[Result], Value]:
    """Return what makes a column of something that is known of an arm beside its errors."""
    return lambda result: (result.more or {}).get(name)


WER = Column("WER, %", lambda result: result.wer, percent=True)
REPETITIONS = (
    Column("5-Dup", lambda result: result.repeated_5_grams, 0, paper=0),
    Column("5-Dup above the references'", lambda r: r.repeated_5_grams - r.reference_5_grams, 0),
)
P = Column("p", lambda result: result.p, 4)  # never 0, with 10,000 draws


def less(whose: str, digits: int = 2) -> Column:
    """Return the difference to the arm that a result is compared with, named in words."""
    return Column(f"less {whose}, points", lambda result: result.difference, digits, percent=True)


def pivot(results: Mapping[tuple[Across, Down], Result]) -> dict[Down, dict[Across, Result]]:
    """Return rows of a table that has the first part of a key across and the second down."""
    rows: dict[Down, dict[Across, Result]] = {}
    for (across, down), result in results.items():
        rows.setdefault(down, {})[across] = result
    return rows


@dataclass(frozen=True)
class Table:
    """What every row is given by, under its name, and columns made of that.

    A column that the paper has too is followed by the paper's. The paper's rows stand beside those
    of the same name, or of the name that ``called`` gives; the rest of them come last.
    """

    title: str
    of: str  # what the rows are of: "model", "chunk, s"
    columns: Sequence[Column]
    rows: Mapping[str, Any]
    paper: Mapping[str, Sequence[float | None]] = field(
        default_factory=dict
    )  # in the units that the paper prints
    called: Mapping[str, str] = field(default_factory=dict)  # names of rows to the paper's
    notes: Sequence[str] = ()

    def to_markdown(self) -> str:
        """Return the table with its title and notes."""
        head = [self.of]
        for number, column in enumerate(self.columns):
            head += [column.name, *(["paper"] if self._in_paper(number) else [])]
        lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
        for name, values in self._values.items():
            theirs = self._paper_name(name)
            is_beside = theirs != name and theirs in self.paper
            lines.append([f"{name} (paper: {theirs})" if is_beside else name])
            for number, (column, value) in enumerate(zip(self.columns, values, strict=True)):
                lines[-1].append(_shown(value, column))
                if self._in_paper(number):
                    printed = self._printed(name, column)
                    lines[-1].append(_shown(printed, replace(column, percent=False)))
        body = "".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |\n" for line in lines)
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"# {self.title}\n\n{body}" + (f"\n{notes}" if notes else "")

    def to_csv(self) -> str:
        """Return the values in full, an interval as three columns, the paper's likewise."""
        lines: list[list[Value]] = [[name] for name in (self.of, *self._values)]
        for number, column in enumerate(self.columns):
            values = [values[number] for values in self._values.values()]
            has_interval = any(isinstance(value, Interval) for value in values)
            ends = ["", ", low", ", high"] if has_interval else [""]
            cells: list[list[Value]] = [[column.name + end for end in ends]]
            cells += [_plain(value, column)[: len(cells[0])] for value in values]
            if self._in_paper(number):
                cells[0].append(f"{column.name}, paper")
                for name, cell in zip(self._values, cells[1:], strict=True):
                    cell.append(self._printed(name, column))
            for line, cell in zip(lines, cells, strict=True):
                line += cell
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows(lines)
        return file.getvalue()

    @cached_property
    def _values(self) -> dict[str, list[Value]]:
        """Our values by row, and None in those that the paper alone has."""
        ours = {name: [c.value(row) for c in self.columns] for name, row in self.rows.items()}
        beside = {self._paper_name(name) for name in self.rows}
        return ours | {n: [None] * len(self.columns) for n in self.paper if n not in beside}

    def _paper_name(self, name: str) -> str:
        return self.called.get(name, name)

    def _printed(self, name: str, column: Column) -> float | None:
        row = self.paper.get(self._paper_name(name))
        return None if row is None or column.paper is None else row[column.paper]

    def _in_paper(self, number: int) -> bool:
        return bool(self.paper) and self.columns[number].paper is not None


def _plain(value: Value, column: Column) -> list[Value]:
    """Return a value, or None, and the bounds of its interval, or None."""
    parts = [value.value, value.low, value.high] if isinstance(value, Interval) else [value]
    scale = 100 if column.percent else 1
    numbers: list[Value] = [
        p if p is None or isinstance(p, str) else round(p * scale, 9) for p in parts
    ]
    return [*numbers, None, None][:3]


def _shown(value: Value, column: Column) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Interval):
        value_, low, high = (_number(x, column) for x in (value.value, value.low, value.high))
        return f"{value_} [{low}, {high}]"
    return _number(value, column)


def _number(value: float, column: Column) -> str:
    return f"{value * (100 if column.percent else 1):,.{column.digits}f}"
