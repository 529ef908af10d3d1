"""Tables in the paper's layout: what was measured here, and beside it what the paper printed."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from distilwhisper.evaluation.bootstrap import Interval

Value: TypeAlias = str | int | float | Interval | None


@dataclass(frozen=True)
class Column:
    """One quantity."""

    name: str  # with its unit
    digits: int = 1
    percent: bool = False  # fractions in the rows, per cent where they are read


P = Column("p", 4)  # never 0, with 10,000 draws


@dataclass(frozen=True)
class Table:
    """Rows by name. A column that the paper has too is followed by the paper's."""

    title: str
    of: str  # what the rows are of: "model", "chunk, s"
    columns: Sequence[Column]
    rows: Mapping[str, Sequence[Value]]
    paper: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """By the same names, in the units that the paper prints; rows that nothing here matches come
    last."""
    paper_names: Mapping[str, str] = field(default_factory=dict)
    """Names of rows to what the paper's row beside them is called, where that differs."""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, values in {**self.paper, **self.rows}.items():
            assert len(values) == len(self.columns), name

    def to_markdown(self) -> str:
        """Return the table with its title and notes."""
        head = [self.of]
        for number, column in enumerate(self.columns):
            head += [column.name] + (["paper"] if self._in_paper(number) else [])
        lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
        lines += [_line(self._shown(name)) for name in self._names()]
        notes = "".join(f"\n- {note}" for note in self.notes)
        body = "\n".join(lines)
        return f"# {self.title}\n\n{body}\n" + (f"{notes}\n" if notes else "")

    def to_csv(self) -> str:
        """Return the values in full, an interval as three columns, the paper's likewise."""
        head = [self.of]
        for number, column in enumerate(self.columns):
            head.append(column.name)
            if self._has_interval(number):
                head += [f"{column.name}, low", f"{column.name}, high"]
            if self._in_paper(number):
                head.append(f"{column.name}, paper")
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(self._plain(name) for name in self._names())
        return file.getvalue()

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self.rows, *self.paper]))

    def _in_paper(self, number: int) -> bool:
        return any(row[number] is not None for row in self.paper.values())

    def _has_interval(self, number: int) -> bool:
        return any(isinstance(row[number], Interval) for row in self.rows.values())

    def _shown(self, name: str) -> list[str]:
        beside = self.paper_names.get(name)
        cells = [f"{name} (paper: {beside})" if beside else name]
        for number, column in enumerate(self.columns):
            cells.append(_shown(self._ours(name, number), column))
            if self._in_paper(number):
                cells.append(_shown(self._theirs(name, number), replace(column, percent=False)))
        return cells

    def _plain(self, name: str) -> list[str | int | float | None]:
        cells: list[str | int | float | None] = [name]
        for number, column in enumerate(self.columns):
            value, scale = self._ours(name, number), 100 if column.percent else 1
            parts = [value.value, value.low, value.high] if isinstance(value, Interval) else [value]
            cells += [p if p is None or isinstance(p, str) else round(p * scale, 9) for p in parts]
            if self._has_interval(number) and not isinstance(value, Interval):
                cells += [None, None]
            if self._in_paper(number):
                cells.append(self._theirs(name, number))
        return cells

    def _ours(self, name: str, number: int) -> Value:
        return self.rows[name][number] if name in self.rows else None

    def _theirs(self, name: str, number: int) -> float | None:
        return self.paper[name][number] if name in self.paper else None


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


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
