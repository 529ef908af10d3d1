"""TensorBoard as a reader of metrics.jsonl, which a run writes whether anybody reads it or not."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import takewhile
from pathlib import Path
from typing import Any

from distilwhisper.extras import needed_by
from distilwhisper.run.files import read_metrics

# Of the files that are ours, and may be replaced.
_SUFFIX = ".distilwhisper"


def write_events(
    runs: Sequence[Path], out: Path, *, follow: bool = False, poll_s: float = 5.0
) -> None:
    """Turn the metrics of runs into event files.

    Losses become ``train/...``, error rates ``validation_wer`` and ``validation_wer/SET``. What an
    earlier call has made of a run is replaced. The log knows no time of day: TensorBoard shows when
    its rows were read.

    Each run has a folder there, called as the run is, or by the folders that tell two apart. To
    ``follow`` is to go on as rows are added, until every run has been trained.

    Raises:
        FileNotFoundError: a run has no metrics, and none are waited for.
        MissingExtra: the package is not installed.
    """
    if not runs:
        raise ValueError("name at least one folder of a run")
    places = [run.resolve() for run in runs]
    above = os.path.commonpath([place.parent for place in places])
    logs = {place.relative_to(above): place / "train" / "metrics.jsonl" for place in places}
    for log in logs.values():
        if not follow and not log.exists():
            raise FileNotFoundError(
                f"{log} must be there, found no such file: name folders of runs that have begun to "
                "train, or --follow them"
            )
    with ExitStack() as opened:
        begun = (EventWriter(log, out / name) for name, log in logs.items())
        writers = [opened.enter_context(closing(writer)) for writer in begun]
        while True:
            are_done = all((log.parent / "done").exists() for log in logs.values())
            for writer in writers:
                writer.catch_up()
            if are_done or not follow:
                break
            time.sleep(poll_s)


class EventWriter:
    """One run's event file, in place of an earlier one; its log need not be there yet."""

    def __init__(self, log: Path, folder: Path) -> None:
        with needed_by("writing event files", extra="tensorboard"):
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

        for path in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
            path.unlink()
        self._log = log
        self._rows: list[dict[str, Any]] = []
        self._writer = EventFileWriter(str(folder), filename_suffix=_SUFFIX)

    def catch_up(self) -> None:
        """Write what the log holds and the event file does not.

        A run that was resumed has dropped the rows behind its checkpoint, and writes others: so
        does the event file.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        rows = read_metrics(self._log) if self._log.exists() else []
        pairs = zip(self._rows, rows, strict=False)
        n_same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        new = rows[n_same:]
        if n_same < len(self._rows):
            step = self._rows[n_same]["step"]
            restart = SessionLog(status=SessionLog.START)  # drops what has this step or a later one
            self._writer.add_event(Event(wall_time=time.time(), step=step, session_log=restart))
            new = [row for row in rows if row["step"] >= step]
        for row in new:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(row)]
            summary = Summary(value=values)
            self._writer.add_event(Event(wall_time=time.time(), step=row["step"], summary=summary))
        self._writer.flush()
        self._rows = rows

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def _scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a row, each with the name that TensorBoard shows."""
    for name, value in row.items():
        if name == "wer_by_set":
            yield from ((f"validation_wer/{set_}", wer) for set_, wer in value.items())
        elif name == "validation_wer":
            yield name, value
        elif name != "step" and value is not None:  # null: no number, or without a teacher
            yield f"train/{name}", value
