"""What a person sees while a stage runs: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 20.0


def say(message: str) -> None:
    """Print one line of the log to standard error."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(label: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """Show how far a stage is, on standard error.

    Args:
        label: what is being done.
        total: how many units there are.
        unit: what is counted.

    Yields:
        A function to call with the number of units just done.
    """
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda n: bars.advance(task, n)
    else:
        yield _Lines(label, total, unit)


class _Lines:
    """Progress for logs: a line when some time has passed."""

    def __init__(self, label: str, total: float, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0.0
        self.last = time.monotonic()

    def __call__(self, n: float) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            say(f"{self.label}: {self.done:.0f} of {self.total:.0f} {self.unit}")
