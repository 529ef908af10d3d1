"""Who writes the shards of a stage: this process, or the workers of a Ray cluster.

A stage gives an engine a function that starts its work. The engine calls it once in every process
that takes part (it loads the model) and hands out shard numbers. Shards appear whole, by rename,
and are a function of their number alone, so a shard whose worker dies is made again: Ray starts the
worker anew and repeats the call. Stages do not know which engine runs them.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.errors import DistilwhisperError
from distilwhisper.extras import needed_by
from distilwhisper.model.hardware import Hardware
from distilwhisper.progress import Advance, progress_bar, say
from distilwhisper.run.locks import Part
from distilwhisper.run.processes import EngineSettings
from distilwhisper.speech.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:  # the command line parses its options without it
    from distilwhisper.decoding.transcriber import Transcriber

Done: TypeAlias = tuple[float, float]  # utterances, and seconds of their sound
Result = TypeVar("Result")
# Loads what the work needs, and returns what writes a shard: that takes the shard's number, and
# what to call with the utterances and seconds of sound just done. It writes files, each whole or
# not at all, and returns what the stage needs. All can be pickled, and paths are absolute.
Start: TypeAlias = Callable[[], Callable[[int, Advance], Result]]

LOCAL_STORE_BYTES = 256 * 1024**2  # of a cluster that we start: it holds a manifest, and numbers


@dataclass(frozen=True)
class ShardedSet(ABC):
    """A manifest's utterances, a fixed number of them to a shard; a stage adds what it writes."""

    manifest: Manifest
    out: Path
    shard_size: int

    @property
    def n_shards(self) -> int:
        """How many shards the manifest makes."""
        return -(-len(self.manifest.utterances) // self.shard_size)

    def shard(self, number: int) -> Sequence[Utterance]:
        """Return the utterances of one shard."""
        at = number * self.shard_size
        return self.manifest.utterances[at : at + self.shard_size]

    @abstractmethod
    def left(self, number: int) -> Sequence[Utterance]:
        """Return the utterances of a shard that are still to be decoded; done: none."""

    @abstractmethod
    def write(self, transcriber: "Transcriber", number: int, on_progress: Advance) -> Any:
        """Decode and write a shard, as :data:`Start` has it."""


@dataclass(frozen=True)
class DecodingJob:
    """A model at work on some sets; its shards are theirs, one set after the other."""

    sets: tuple[ShardedSet, ...]
    model: str
    decoding: DecodingSettings
    hardware: Hardware
    draft: str | None
    warms_up: bool = False
    """Decode a second of silence first, for the sake of what is timed."""

    @cached_property
    def shards(self) -> list[tuple[ShardedSet, int]]:
        """Every shard: whose it is, and its number there."""
        return [(one, number) for one in self.sets for number in range(one.n_shards)]

    def start(self) -> Callable[[int, Advance], Any]:
        """Load the model; return what decodes a shard.

        Raises:
            ValueError: the model does not know a language of the utterances.
        """
        transcriber = self.load()
        for one in self.sets:
            transcriber.check_languages({u.id: u.language for u in one.manifest.utterances})
        if self.warms_up:
            transcriber.decode([[0.0] * SAMPLE_RATE_HZ])

        def write(number: int, on_progress: Advance) -> Any:
            one, shard = self.shards[number]
            return one.write(transcriber, shard, on_progress)

        return write

    def load(self) -> "Transcriber":
        """Load the model."""
        from distilwhisper.decoding.transcriber import Transcriber

        return Transcriber.from_model(self.model, self.decoding, self.hardware, draft=self.draft)


def run_stage(
    name: str, job: DecodingJob, engine: EngineSettings, *, part: Part | None = None
) -> list[Any]:
    """Write the shards of a job, or of one part of it, that are not there; show how far it is.

    Returns what the sets' writers do for each shard, and raises what :func:`run_shards` does.
    """
    left = {
        place: len(utterances)
        for place, (one, shard) in enumerate(job.shards)
        if (part is None or part.holds(shard)) and (utterances := one.left(shard))
    }
    if not left:
        return []
    n_left = sum(left.values())
    n_all = sum(len(one.manifest.utterances) for one in job.sets)
    here = job.hardware.describe(has_draft=job.draft is not None)
    where = "Ray cluster" if engine.engine == "ray" else here
    say(f"{name}: {n_left} of {n_all} utterances to {name} ({where})")
    with progress_bar(name, n_left, "utterances") as advance:
        return list(run_shards(job.start, [*left], engine, on_progress=advance))


class ShardFailed(DistilwhisperError, RuntimeError):
    """A shard, or a worker before its first one, failed as often as it may."""


class NoWorkers(DistilwhisperError, RuntimeError):
    """The cluster has had no room for a single worker."""


def run_shards(
    start: Start[Result], shards: Sequence[int], settings: EngineSettings, *, on_progress: Advance
) -> Iterator[Result]:
    """Write some shards and yield what is returned for each, in the order in which they finish.

    With no shards nothing is started. ``on_progress`` is called with the utterances and the seconds
    of sound just done.

    Raises:
        ShardFailed, NoWorkers, MissingExtra: the ray engine's. The local one raises what the
            work does.
    """
    if not shards:
        return
    if settings.engine == "local":
        write = start()
        for shard in shards:
            yield write(shard, on_progress)
        return
    with _cluster() as ray:
        shared = ray.put(start)  # held here, for workers that start anew
        workers: list[Any] = []
        try:
            for (n, audio_s), result in _write_all(ray, shared, shards, settings, workers):
                on_progress(n, audio_s)
                yield result
        finally:
            for worker in workers:
                ray.kill(worker)


@contextmanager
def _cluster() -> Iterator[Any]:
    """Connect to the cluster that runs, or start one on this machine; leave it as it was found."""
    with needed_by("the ray engine", extra="ray"):
        import ray
    if ray.is_initialized():
        yield ray
        return
    # No cluster of ours sends statistics of its use.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address="auto", logging_level=logging.WARNING)
    except ConnectionError:
        if "RAY_ADDRESS" in os.environ:
            raise
        own: dict[str, Any] = {"object_store_memory": LOCAL_STORE_BYTES, "include_dashboard": False}
        ray.init(address="local", logging_level=logging.WARNING, **own)
    try:
        yield ray
    finally:
        ray.shutdown()


class _Worker:
    """What an actor does in its process, which Ray starts anew where it dies."""

    def __init__(self, shared: Sequence[Any], n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self._shared = shared

    @cached_property
    def _write(self) -> Callable[[int, Advance], Any]:
        import ray

        start: Start[Any] = ray.get(self._shared[0])
        return start()

    def ready(self) -> None:
        """Load what the work needs."""
        _ = self._write

    def write(self, shard: int) -> tuple[Done, Any]:
        """Return how much the shard held, and what was returned for it."""
        done = [(0.0, 0.0)]
        result = self._write(shard, lambda n, audio_s=0.0: done.append((n, audio_s)))
        n, audio_s = map(sum, zip(*done, strict=True))
        return (n, audio_s), result


def _write_all(
    ray: Any, shared: Any, shards: Sequence[int], settings: EngineSettings, workers: list[Any]
) -> Iterator[tuple[Done, Any]]:
    """Give each worker a shard after the other; yield what each held and returned.

    As many workers as may be are added to ``workers``, also while the cluster grows.
    """
    tasks: dict[Any, tuple[Any, int | None]] = {}  # of each its worker and shard; none: loading
    queue, n_left = deque(shards), len(shards)
    while n_left:
        there = ray.cluster_resources()
        gpus = settings.gpus_per_worker
        gpus = min(1.0, there.get("GPU", 0.0)) if gpus is None else gpus
        held = {"CPU": settings.cpus_per_worker, "GPU": gpus}
        fitting = min(int(there.get(name, 0) / amount) for name, amount in held.items() if amount)
        n_allowed = settings.n_workers or max(fitting, 1)  # one, for a cluster that has to grow
        while len(tasks) < min(n_allowed, n_left):
            actor = ray.remote(_Worker).options(
                num_cpus=held["CPU"],
                num_gpus=held["GPU"],
                max_restarts=-1,  # the attempts at a shard are limited, not those of a worker
                max_task_retries=settings.max_attempts - 1,
            )
            workers.append(actor.remote([shared], max(1, int(held["CPU"]))))
            loading = workers[-1].ready.options(retry_exceptions=True)
            tasks[loading.remote()] = workers[-1], None
        is_first = len(queue) == len(shards)
        finished, _ = ray.wait([*tasks], timeout=settings.start_timeout_s if is_first else None)
        if not finished:
            raise NoWorkers(
                f"no worker is ready after {settings.start_timeout_s:g} s: each asks for "
                f"{_described(held)}; the cluster has {_described(ray.cluster_resources())}, of "
                f"which free are {_described(ray.available_resources())}: ask for less "
                "(cpus_per_worker, gpus_per_worker), free or add machines, or raise start_timeout_s"
            )
        worker, shard = tasks.pop(finished[0])
        try:
            done = ray.get(finished[0])
        except ray.exceptions.RayError as error:
            what = "a worker before its first shard" if shard is None else f"shard {shard}"
            cause = getattr(error, "cause", None) or error
            raise ShardFailed(
                f"{what} failed {settings.max_attempts} times, the last time with "
                f"{type(cause).__name__}: {cause}\nFinished shards are kept: remove the cause, and "
                "run the same command again"
            ) from error
        if queue:
            number = queue.popleft()
            writing = worker.write.options(retry_exceptions=True)
            tasks[writing.remote(number)] = worker, number
        else:
            ray.kill(worker)
        if shard is not None:
            n_left -= 1
            yield done


def _described(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amounts.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
