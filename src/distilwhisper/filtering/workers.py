"""Measuring on all cores: a process takes a group, writes its file, and takes the next.

The processes are started anew and import what measuring needs, no more: not the main program, and
no tensors. They end when their parent does.
"""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from distilwhisper.corpus.records import BadManifest, read_manifest
from distilwhisper.corpus.store import write_atomic
from distilwhisper.filtering.groups import (
    Group,
    Plan,
    Sources,
    discard_stale,
    measure_group,
    read_groups,
)
from distilwhisper.filtering.measures import Measures
from distilwhisper.run.record import n_cores


def make_measures(sources: Sources, folder: Path, *, n_processes: int | None = None) -> Measures:
    """Measure a corpus, or read what was measured before.

    Args:
        sources: what to measure.
        folder: of all measures; it may be deleted at any time.
        n_processes: None: as many as there are cores.

    Raises:
        BadManifest, TornShard, DuplicateId, FileNotFoundError: as the records' readers.
        ValueError: the language of a label is unknown.
    """
    done = _done_path(sources, folder)
    here = done.parent
    if not done.exists():
        discard_stale(folder, sources.key)
        plan = Plan(sources, here)
        try:
            _measure_all(plan, n_processes or n_cores())
        except BadManifest:
            read_manifest(sources.manifest)  # by the book: its error names the line
            raise
        counts = {"n_groups": plan.n_groups, "n_stray": plan.n_stray}
        write_atomic(done, json.dumps(counts) + "\n")
    counts = json.loads(done.read_text(encoding="utf-8"))
    return read_groups(here, counts["n_groups"], n_stray=counts["n_stray"])


def is_measured(sources: Sources, folder: Path) -> bool:
    """Tell whether :func:`make_measures` has nothing to measure."""
    return _done_path(sources, folder).exists()


def work(tasks: BinaryIO, results: BinaryIO) -> None:
    """Measure the groups that come in, and answer each with None or with the error it met."""
    while True:
        try:
            group = pickle.load(tasks)
        except EOFError:
            return
        error = None
        try:
            measure_group(group)
        except Exception as met:  # raised in the parent
            error = met
        pickle.dump(error, results)
        results.flush()


def _done_path(sources: Sources, folder: Path) -> Path:
    return folder / sources.key / "measures.json"


def _measure_all(groups: Iterable[Group], n_processes: int) -> None:
    groups = iter(groups)
    first = list(islice(groups, 2))
    if n_processes == 1 or len(first) < 2:  # a process takes as long to start as a group
        for group in chain(first, groups):
            measure_group(group)
        return
    with _processes(n_processes) as idle, ThreadPoolExecutor(n_processes) as threads:
        futures: list[Future[None]] = []
        try:
            for group in chain(first, groups):
                futures.append(threads.submit(_send, idle, group))
            for future in futures:
                future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _send(idle: "SimpleQueue[subprocess.Popen[bytes]]", group: Group) -> None:
    process = idle.get()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(group, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
        error = pickle.load(process.stdout)
    except (EOFError, BrokenPipeError) as lost:
        raise ChildProcessError(
            f"a process that measures must not end by itself, found exit status "
            f"{process.wait()} at {group.path}: run the filter again, which goes on from there"
        ) from lost
    finally:
        idle.put(process)
    if error is not None:
        raise error


@contextmanager
def _processes(n: int) -> Iterator["SimpleQueue[subprocess.Popen[bytes]]"]:
    """Start processes, to be taken from a queue and put back, and see that they end."""
    command = [sys.executable, "-m", "distilwhisper.filtering.workers"]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(n)
    ]
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for process in started:
        idle.put(process)
    try:
        yield idle
    finally:
        for process in started:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    work(sys.stdin.buffer, sys.stdout.buffer)
