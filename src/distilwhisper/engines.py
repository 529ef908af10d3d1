"""Who writes the shards of a stage: this process, or the workers of a Ray cluster.

A stage describes its work as plain data, a job. An engine starts the job once in every process
that works on it (that loads the model) and hands out shard numbers. Shards appear whole, by rename,
and are a function of their number alone, so one that is begun by a worker that dies is simply made
again: at least once is exactly once in effect. Stages do not know which engine runs them.
"""

import logging
import os
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.errors import DistilwhisperError
from distilwhisper.model.hardware import Hardware
from distilwhisper.progress import Advance, progress_bar, say
from distilwhisper.run.locks import Part
from distilwhisper.run.processes import EngineSettings
from distilwhisper.speech.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:  # the command line parses its options without it
    from distilwhisper.decoding.transcriber import Transcriber

Done: TypeAlias = tuple[float, float]  # utterances, and seconds of their sound
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

LOCAL_STORE_BYTES = 256 * 1024**2  # of a cluster that we start: it holds a manifest, and numbers
POLL_S = 1.0
SECONDS_BETWEEN_LINES = 30.0


@runtime_checkable
class ShardJob(Protocol[Result_co]):
    """A stage's work on the shards of one folder, as plain data that can be pickled.

    Its paths mean the same in every process, whatever folder that runs in.
    """

    def start(self) -> Callable[[int, Advance], Result_co]:
        """Load what the work needs, and return what writes one shard.

        That takes the shard's number, and what to call with the utterances and the seconds of
        sound just done. It writes the shard's files, each whole or not at all, and returns what the
        stage wants to know of it, picklable.
        """
        ...


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

    def left(self, number: int) -> Sequence[Utterance]:
        """Return the utterances of a shard that are still to be decoded."""
        return self.shard(number)

    @abstractmethod
    def is_done(self, number: int) -> bool:
        """Return whether there is nothing to do in a shard."""

    @abstractmethod
    def writer(self, transcriber: "Transcriber") -> Callable[[int, Advance], Any]:
        """Return what decodes and writes a shard, as :meth:`ShardJob.start` does."""


@dataclass(frozen=True)
class DecodingJob:
    """A model at work on some sets; its shards are theirs, one set after the other."""

    sets: tuple[ShardedSet, ...]
    model: Path
    decoding: DecodingSettings
    hardware: Hardware
    draft: Path | None
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
        return partial(self._write, {one.out: one.writer(transcriber) for one in self.sets})

    def load(self) -> "Transcriber":
        """Load the model."""
        from distilwhisper.decoding.transcriber import Transcriber

        draft = None if self.draft is None else str(self.draft)
        return Transcriber.from_model(str(self.model), self.decoding, self.hardware, draft=draft)

    def _write(
        self,
        writers: Mapping[Path, Callable[[int, Advance], Any]],
        number: int,
        on_progress: Advance,
    ) -> Any:
        one, shard = self.shards[number]
        return writers[one.out](shard, on_progress)


def run_stage(
    name: str, job: DecodingJob, engine: EngineSettings, *, part: Part | None = None
) -> list[Any]:
    """Write the shards of a job that are not there, and show how far it is.

    Args:
        name: of the stage.
        job: the work.
        engine: which processes do it.
        part: do these shards alone; None: all.

    Returns:
        What the sets' writers say of each shard that was written.

    Raises:
        ShardFailed, NoWorkers, MissingRay: as :func:`run_shards`.
    """
    missing = [
        place
        for place, (one, shard) in enumerate(job.shards)
        if (part is None or part.holds(shard)) and not one.is_done(shard)
    ]
    if not missing:
        return []
    n_left = sum(len(one.left(shard)) for one, shard in map(job.shards.__getitem__, missing))
    n_all = sum(len(one.manifest.utterances) for one in job.sets)
    here = job.hardware.describe(has_draft=job.draft is not None)
    where = "Ray cluster" if engine.engine == "ray" else here
    say(f"{name}: {n_left} of {n_all} utterances to {name} ({where})")
    with progress_bar(name, n_left, "utterances") as advance:
        return list(run_shards(job, missing, engine, on_progress=advance))


class ShardFailed(DistilwhisperError, RuntimeError):
    """A shard, or a worker before its first one, failed as often as it may."""


class NoWorkers(DistilwhisperError, RuntimeError):
    """The cluster has had no room for a single worker."""


class MissingRay(DistilwhisperError, RuntimeError):
    """The package of the ray engine is not installed."""


def run_shards(
    job: ShardJob[Result],
    shards: Sequence[int],
    settings: EngineSettings,
    *,
    on_progress: Advance,
) -> Iterator[Result]:
    """Write some shards and yield what the job returns for each, in the order in which they finish.

    Args:
        job: the work.
        shards: numbers of those to write; with none of them nothing is started.
        settings: which engine.
        on_progress: called with the utterances and the seconds of sound just done.

    Raises:
        ShardFailed, NoWorkers, MissingRay: the ray engine's. The local one raises what the job
            does.
    """
    if not shards:
        return
    if settings.engine == "ray":
        yield from _run_on_ray(job, shards, settings, on_progress)
        return
    write = job.start()
    for shard in shards:
        yield write(shard, on_progress)


def _run_on_ray(
    job: ShardJob[Result], shards: Sequence[int], settings: EngineSettings, on_progress: Advance
) -> Iterator[Result]:
    with _cluster() as ray:
        workers = _Workers(ray, job, settings)
        try:
            for done, result in workers.write(shards):
                on_progress(*done)
                yield result
        finally:
            workers.stop()


@contextmanager
def _cluster() -> Iterator[Any]:
    """Connect to the cluster that runs, or start one on this machine; leave it as it was found."""
    try:
        import ray
    except ImportError as error:
        raise MissingRay(
            'the ray engine needs the package ray: pip install "distilwhisper[ray]"'
        ) from error
    if ray.is_initialized():
        yield ray
        return
    # No worker and no cluster of ours tells its maker of the work.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address="auto", logging_level=logging.WARNING)
    except ConnectionError:
        if "RAY_ADDRESS" in os.environ:
            raise
        ray.init(
            address="local",
            object_store_memory=LOCAL_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.WARNING,
        )
    try:
        yield ray
    finally:
        ray.shutdown()


class _Tally:
    """Adds up what is done."""

    def __init__(self) -> None:
        self.n = self.audio_s = 0.0

    def __call__(self, n: float, audio_s: float = 0.0) -> None:
        self.n += n
        self.audio_s += audio_s


class _Worker:
    """What an actor does, in a process of its own."""

    def __init__(self, job: ShardJob[Any]) -> None:
        self._job = job

    def start(self, n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self._write = self._job.start()

    def write(self, shard: int) -> tuple[Done, Any]:
        """Return how much the shard held, and what the job returns for it."""
        tally = _Tally()
        result = self._write(shard, tally)
        return (tally.n, tally.audio_s), result


class _Workers:
    """The actors that write one job's shards. Each is starting or has one shard, else it goes."""

    def __init__(self, ray: Any, job: ShardJob[Any], settings: EngineSettings) -> None:
        self._ray = ray
        self._settings = settings
        self._job = ray.put(job)
        self._tasks: dict[Any, tuple[Any, int | None]] = {}  # actor and its shard; none: starting
        self._attempts: Counter[int | None] = Counter()  # failures of a shard; none: of starts
        self._idle_since = time.monotonic()  # since when no shard is being written
        self._logged_at = self._idle_since

    def write(self, shards: Sequence[int]) -> Iterator[tuple[Done, Any]]:
        """Yield how much every shard held and what the job returns for it, as they finish."""
        queue = deque(shards)
        while queue or self._n_writing:
            self._start_workers(queue)
            finished, _ = self._ray.wait(list(self._tasks), timeout=POLL_S)
            for task in finished:
                actor, shard = self._tasks.pop(task)
                try:
                    done = self._ray.get(task)
                except Exception as error:
                    self._ray.kill(actor)
                    self._note_failure(shard, error)
                    if shard is not None:
                        queue.appendleft(shard)
                    continue
                if shard is None:
                    del self._attempts[None]
                else:
                    yield done
                if queue:
                    self._give(actor, queue.popleft())
                else:
                    self._ray.kill(actor)
            self._check_idle()

    def stop(self) -> None:
        """Stop every actor."""
        for actor, _ in self._tasks.values():
            self._ray.kill(actor)
        self._tasks.clear()

    @property
    def _n_writing(self) -> int:
        return sum(shard is not None for _, shard in self._tasks.values())

    def _start_workers(self, queue: Sequence[int]) -> None:
        """Start workers, so that there are as many as are allowed and have something to do."""
        n_wanted = min(self._n_allowed(), len(queue) + self._n_writing)
        while len(self._tasks) < n_wanted:
            held = self._resources_of_one()
            actor = (
                self._ray.remote(_Worker)
                .options(num_cpus=held["CPU"], num_gpus=held["GPU"])
                .remote(self._job)
            )
            self._tasks[actor.start.remote(max(1, int(held["CPU"])))] = actor, None

    def _give(self, actor: Any, shard: int) -> None:
        self._tasks[actor.write.remote(shard)] = actor, shard

    def _resources_of_one(self) -> dict[str, float]:
        """Return what one worker holds."""
        gpus = self._settings.gpus_per_worker
        if gpus is None:
            gpus = min(1.0, self._ray.cluster_resources().get("GPU", 0.0))
        return {"CPU": self._settings.cpus_per_worker, "GPU": gpus}

    def _n_allowed(self) -> int:
        """Return how many workers there may be; at least one, for a cluster that has to grow."""
        if self._settings.n_workers:
            return self._settings.n_workers
        there = self._ray.cluster_resources()
        return max(
            1, min(int(there.get(k, 0) / v) for k, v in self._resources_of_one().items() if v)
        )

    def _note_failure(self, shard: int | None, error: Exception) -> None:
        self._attempts[shard] += 1
        n, most = self._attempts[shard], self._settings.max_attempts
        what = "a worker before its first shard" if shard is None else f"shard {shard}"
        cause = getattr(error, "cause", None) or error
        reason = f"{type(cause).__name__}: {cause}"
        if n >= most:
            raise ShardFailed(
                f"{what} failed {n} times, the last time with {reason}\nThe shards that are "
                "finished are kept: remove the cause, and run the same command again"
            ) from error
        say(f"ray: {what} failed, attempt {n} of {most}: {reason}")

    def _check_idle(self) -> None:
        """Log what is missing while no worker works, and give up in the end."""
        now = time.monotonic()
        if self._n_writing:
            self._idle_since = self._logged_at = now
            return
        state = (
            f"no worker is ready after {now - self._idle_since:.0f} s: each asks for "
            f"{_resources(self._resources_of_one())}; the cluster has "
            f"{_resources(self._ray.cluster_resources())}, of which free are "
            f"{_resources(self._ray.available_resources())}"
        )
        if now - self._idle_since >= self._settings.start_timeout_s:
            raise NoWorkers(
                f"{state}: ask for less (cpus_per_worker, gpus_per_worker), free or add machines, "
                "or raise start_timeout_s"
            )
        if now - self._logged_at >= SECONDS_BETWEEN_LINES:
            self._logged_at = now
            say(f"ray: {state}")


def _resources(amounts: dict[str, float]) -> str:
    return " and ".join(f"{amounts.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
