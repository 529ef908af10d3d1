"""What a person sees while a stage runs: a bar on a terminal, a line now and then elsewhere.

Nothing is shown unless it is asked for (:func:`showing_progress`): the log goes to the logger
"distilwhisper", as of any library.
"""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

SECONDS_BETWEEN_LINES = 20.0


@runtime_checkable
class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, n: float, audio_s: float = 0.0) -> None:
        """Move it by the units just done; with the seconds of their sound it shows its speed."""


_LOG = logging.getLogger("distilwhisper")


class _Shown(logging.Handler):
    """Prints the log to standard error, whatever that is at the time."""

    n = 0  # how many ask for it

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


_SHOWN = _Shown()


@contextmanager
def showing_progress(is_wanted: bool = True) -> Iterator[None]:
    """Show the log and bars on standard error, as the command line does, where they are wanted."""
    if not is_wanted:
        yield
        return
    level = _LOG.level
    _SHOWN.n += 1
    _LOG.addHandler(_SHOWN)
    _LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        _SHOWN.n -= 1
        if not _SHOWN.n:
            _LOG.removeHandler(_SHOWN)
        _LOG.setLevel(level)


def say(message: str) -> None:
    """Log one line of what is done."""
    _LOG.info("%s", message)


def warn(message: str) -> None:
    """Log one line of what is odd; Python prints it where nobody shows the log."""
    _LOG.warning("%s", message)


@contextmanager
def progress_bar(label: str, total: float, unit: str) -> Iterator[Advance]:
    """Show how far a stage is, how fast it goes and how long it will take, where that is shown."""
    if not (_SHOWN.n and sys.stderr.isatty()):
        yield _Lines(label, total, unit)
        return
    from rich import console, progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn(f"{unit} {{task.fields[speed]}}"),
        progress.TimeRemainingColumn(),
    )
    on_terminal = console.Console(stderr=True)
    with progress.Progress(*columns, console=on_terminal, transient=True) as bars:
        task = bars.add_task(label, total=total, speed="")
        sound_s = 0.0

        def advance(n: float, audio_s: float = 0.0) -> None:
            nonlocal sound_s
            sound_s += audio_s
            speed = _speed(sound_s, bars.tasks[task].elapsed or 0.0)
            bars.update(task, advance=n, speed=speed)

        yield advance


class _Lines:
    """Progress for logs: a line when some time has passed.

    The clock starts at the first report: the time before it went into loading.
    """

    began_s: float | None = None

    def __init__(self, label: str, total: float, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.done_before = self.audio_s = self.last_s = 0.0

    def __call__(self, n: float, audio_s: float = 0.0) -> None:
        self.done += n
        now_s = time.monotonic()
        if self.began_s is None:
            self.began_s = self.last_s = now_s
            self.done_before = self.done
            return
        self.audio_s += audio_s
        if now_s - self.last_s < SECONDS_BETWEEN_LINES:
            return
        self.last_s, elapsed_s = now_s, now_s - self.began_s
        parts = [
            f"{self.label}: {self.done:.0f} of {self.total:.0f} {self.unit}",
            _speed(self.audio_s, elapsed_s),
            _left(self.done - self.done_before, self.total - self.done, elapsed_s),
        ]
        say(", ".join(filter(None, parts)))


def _speed(audio_s: float, elapsed_s: float) -> str:
    return f"{audio_s / elapsed_s:.1f} h of audio per hour" if audio_s and elapsed_s else ""


def _left(done: float, left: float, elapsed_s: float) -> str:
    """Return the time left if the rest goes on as what was done in the time."""
    if not done:
        return ""
    hours, minutes = divmod(math.ceil(left * elapsed_s / done / 60), 60)
    return f"{hours} h {minutes} min left" if hours else f"{minutes} min left"
