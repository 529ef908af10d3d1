"""Tables in plain text, for people to read in a terminal."""

from collections.abc import Mapping, Sequence


def table_lines(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Return rows of as many cells as lines: the first column begins below itself, others end."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def titled_tables(tables: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Return tables as text below their titles; columns are as wide in all of them."""
    lines = iter(table_lines([row for rows in tables.values() for row in rows], indent="  "))
    return ["\n".join([title, *(next(lines) for _ in rows)]) for title, rows in tables.items()]


def percent(
    fraction: float | None, *, digits: int = 1, sign: str = "", unit: str = " %", none: str = "–"
) -> str:
    """Return a fraction as people read it; ``sign="+"`` shows that of a difference too."""
    return none if fraction is None else f"{100 * fraction:{sign}.{digits}f}{unit}"


def bounds(low: float | None, high: float | None, *, sign: str = "") -> str:
    """Return an interval of fractions in per cent; nothing where there is none."""
    if low is None or high is None:
        return ""
    return f"[{percent(low, sign=sign, unit='')}, {percent(high, sign=sign, unit='')}]"
