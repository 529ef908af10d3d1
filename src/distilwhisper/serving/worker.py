"""The models of a server, and one thread that decodes for all callers.

Windows of all their recordings share a model's slots. A caller's settings are its own: those of a
copy of the transcriber. Who comes next:

- A recording with fewer windows in slots goes before one with more; of equals, the first to come.
  Windows of silence, which need no slot, count for the step at which they are read.
- A long recording leaves a quarter of the slots to others.
- On a CPU, where to encode a window takes as long as many steps, a long recording waits with its
  next window while a short one is being decoded, but for no more than some steps.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.transcription import Transcription
from distilwhisper.decoding.windows import Batch, Task
from distilwhisper.errors import DistilwhisperError
from distilwhisper.model.hardware import Hardware
from distilwhisper.progress import say
from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.metrics import Metrics
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.speech.recording import Recording
from distilwhisper.speech.units import WINDOW_SAMPLES
from distilwhisper.text.transcript import Segment, Transcript

FIRST = "whisper-1"  # what OpenAI calls its only Whisper: here the first model
STEPS_HELD = 20  # between two windows of long recordings, while a short one is decoded

# Segments that are settled; the transcript, or why there is none, is the last.
Event: TypeAlias = list[Segment] | Transcript | Exception


@dataclass(eq=False)
class Job:
    """A recording that a caller wants transcribed."""

    transcriber: Transcriber  # the model under the caller's settings
    recording: Recording
    listener: Callable[[Event], None]  # of the caller; called in the worker's thread
    is_streamed: bool = False  # the listener wants segments before the end
    n_running: int = 0  # windows
    n_silent: int = 0  # windows that were read at this step, and needed no slot
    is_begun: bool = False
    is_planned: bool = False
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.is_short = self.recording.reach(WINDOW_SAMPLES + 1) <= WINDOW_SAMPLES
        self.transcription = Transcription(self.transcriber, self.recording)
        self.arrived_s = time.monotonic()

    @property
    def n_taken(self) -> int:
        """Windows that it was given at this step, or before."""
        return self.n_running + self.n_silent


def next_turn(jobs: Sequence[Job], n_slots: int, *, hold_long: bool) -> Job | None:
    """Return whose window is next, of jobs as they arrived; None: nobody has one, or may."""
    most = max(n_slots - max(n_slots // 4, 1), 1)
    waiting = [
        job
        for job in jobs
        if not job.is_planned and (job.is_short or not (hold_long or job.n_taken >= most))
    ]
    return min(waiting, key=lambda job: job.n_taken, default=None)  # of equals, the first


class ModelQueue:
    """A loaded model, and the recordings that it is to transcribe."""

    def __init__(self, transcriber: Transcriber, metrics: Metrics) -> None:
        model = transcriber.checkpoint.model
        self.transcriber = transcriber
        self.n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        self.n_users = 0  # who hold it, with jobs or without: with none it may be forgotten
        self.used_s = time.monotonic()
        # Jobs that have come, and those that are given up, unless they are done: put here in any
        # thread. All else happens in the worker's.
        self.arrived: deque[Job] = deque()
        self.left: deque[Job] = deque()
        self._metrics = metrics
        self._jobs: list[Job] = []
        self.batch = Batch[Job, Transcription](transcriber)
        self._steps_to_hold = 0
        self._is_cpu = model.device.type == "cpu"

    @property
    def n_waiting(self) -> int:
        """Recordings of which nothing is decoded yet."""
        return len(self.arrived) + sum(not job.is_begun for job in list(self._jobs))

    @property
    def is_idle(self) -> bool:
        """Nothing is to be done."""
        return not (self.arrived or self._jobs or self.left)

    def fitted(self, settings: DecodingSettings) -> Transcriber:
        """Return the model under a caller's settings, or refuse those that do not fit it."""
        try:
            transcriber = replace(self.transcriber, settings=settings)
        except ValueError as error:
            param = "language" if "language" in str(error) else None
            raise ApiError(400, str(error), code="invalid_value", param=param) from error
        transcriber.warn_of_prompts()
        return transcriber

    def turn(self) -> None:
        """Let jobs come and go, and decode a step."""
        while self.arrived:
            self._jobs.append(self.arrived.popleft())
        while self.left:
            self._end(self.left.popleft())
        for job in self._jobs:
            job.n_silent = 0
        self._steps_to_hold -= 1
        while self.batch.has_room and (planned := self._next()) is not None:
            self._plan(planned)
        for job, transcription in self.batch.step():
            self._take(job, transcription)

    def fail(self, error: Exception) -> None:
        """Give all jobs up, and begin anew: a step has failed, and nobody knows for whom."""
        self.batch.close()
        self.batch = Batch(self.transcriber)
        for job in list(self._jobs):
            self._end(job, error)

    def _next(self) -> Job | None:
        short = self._is_cpu and any(job.is_short and job.n_running for job in self._jobs)
        held = short and self._steps_to_hold > 0
        return next_turn(self._jobs, self.transcriber.settings.batch_size, hold_long=held)

    def _plan(self, job: Job) -> None:
        """Begin a job's next window; of a short one, all there is."""
        if not job.is_begun:
            job.is_begun = True
            self._metrics.observe("wait_seconds", time.monotonic() - job.arrived_s)
        if not job.is_short:
            self._steps_to_hold = STEPS_HELD
        while job in self._jobs:
            try:
                task = next(job.transcription.tasks, None)
            except Exception as error:
                self._end(job, error)
                return
            if task is None:
                job.is_planned = True
                return
            job.n_running += 1
            for _, done in self.batch.add(job, _guarded(job, task)):
                job.n_silent += 1
                self._take(job, done)
            if not job.is_short:
                return

    def _take(self, job: Job, transcription: Transcription) -> None:
        """Give a listener what a task has added to its transcription."""
        if job not in self._jobs:  # it failed by another window of this step
            return
        job.n_running -= 1
        outcome = job.error or transcription.outcome
        is_failed = isinstance(outcome, Exception)
        if job.is_streamed and not is_failed and (segments := transcription.take_segments()):
            job.listener(segments)
        if outcome is not None:
            self._end(job, outcome)

    def _end(self, job: Job, outcome: Transcript | Exception | None = None) -> None:
        """Tell a listener what came of its job, if anything, and forget it."""
        if job in self._jobs:
            if outcome is not None:
                job.listener(outcome)
            self.batch.leave(job)
            self._jobs.remove(job)


def _guarded(job: Job, task: Task[Transcription]) -> Task[Transcription]:
    """A task that fails for its job alone, whatever goes wrong in it."""
    try:
        return (yield from task)
    except Exception as error:
        job.error = error
        return job.transcription


class Answers:
    """The events of a job, taken from the worker's thread into the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def __call__(self, event: Event) -> None:
        """Take an event, in the worker's thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def next(self) -> list[Segment] | Transcript:
        """Return what comes next; raises why nothing does."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def transcript(self) -> Transcript:
        """Return the transcript; raises why there is none."""
        while not isinstance(event := await self.next(), Transcript):
            pass
        return event


@dataclass(eq=False)
class Models:
    """Models by name, and the thread that serves those that are loaded in turn.

    They are loaded when asked for, and forgotten when they are not. What a caller cannot have is an
    ApiError.
    """

    sources: Mapping[str, str]
    decoding: DecodingSettings
    hardware: Hardware
    settings: ServeSettings
    metrics: Metrics
    is_ready: bool = False  # until one was loaded, which may be unloaded again

    def __post_init__(self) -> None:
        self.loaded: dict[str, ModelQueue] = {}  # by name
        self._one_at_a_time = asyncio.Lock()
        self._has_changed = threading.Event()
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    @property
    def memory_bytes(self) -> int:
        """Weights that are in memory."""
        return sum(queue.n_bytes for queue in self.loaded.values())

    def named(self, name: str) -> str:
        """Return the name of a model, or refuse one that nobody has."""
        if name in self.sources:
            return name
        if name == FIRST:
            return next(iter(self.sources))
        message = f"model must be one of {', '.join(self.sources)}, found {name!r}"
        raise ApiError(404, message, code="model_not_found", param="model")

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[ModelQueue]:
        """Hold a model in memory, loading it if need be, and if there is room now."""
        async with self._one_at_a_time:
            if name not in self.loaded:
                new = await asyncio.to_thread(self._load, name)
                self._make_room(new.n_bytes)
                self.loaded[name] = new
                self.is_ready = True
            queue = self.loaded[name]
            queue.n_users += 1
        try:
            yield queue
        finally:
            queue.n_users -= 1
            queue.used_s = time.monotonic()
            if (idle_s := self.settings.idle_unload_s) is not None:
                loop = asyncio.get_running_loop()
                loop.call_later(idle_s, self._unload_idle, name, queue, queue.used_s)

    def _unload_idle(self, name: str, queue: ModelQueue, used_s: float) -> None:
        """Forget a model that nobody has used since a time."""
        if self.loaded.get(name) is queue and not queue.n_users and queue.used_s == used_s:
            self._unload(name)

    def _load(self, name: str) -> ModelQueue:
        try:
            transcriber = Transcriber.from_model(self.sources[name], self.decoding, self.hardware)
        except (DistilwhisperError, OSError, ValueError) as error:
            say(f"serve: {name} cannot be loaded: {error}")
            message = f"the model {name} cannot be loaded: see the server's log"
            raise ApiError(500, message, code="model_broken") from error
        say(f"serve: {name} is loaded ({self.hardware.describe()})")
        return ModelQueue(transcriber, self.metrics)

    def _make_room(self, n_bytes: int) -> None:
        most = self.settings.max_memory_gb
        while most is not None and self.loaded and self.memory_bytes + n_bytes > most * 1e9:
            idle = [name for name, queue in self.loaded.items() if not queue.n_users]
            if not idle:
                message = (
                    f"models must take at most {most:g} GB together, and those that are loaded "
                    "are at work: try again later"
                )
                raise ApiError(503, message, code="models_busy")
            self._unload(min(idle, key=lambda name: self.loaded[name].used_s))

    def _unload(self, name: str) -> None:
        del self.loaded[name]
        say(f"serve: {name} is unloaded")

    @contextmanager
    def work_on(self, queue: ModelQueue, job: Job) -> Iterator[None]:
        """Give a job to a model, and give it up in the end: its slots are free at the next step."""
        queue.arrived.append(job)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
            self._thread.start()
        self._has_changed.set()
        try:
            yield
        finally:
            queue.left.append(job)
            self._has_changed.set()

    def stop(self) -> None:
        """End the thread after the step that it is at."""
        self._is_stopped = True
        self._has_changed.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def n_waiting(self) -> int:
        """Recordings of which nothing is decoded yet."""
        return sum(queue.n_waiting for queue in list(self.loaded.values()))

    @property
    def n_running(self) -> int:
        """Windows in slots."""
        return sum(queue.batch.n_running for queue in list(self.loaded.values()))

    def _run(self) -> None:
        while not self._is_stopped:
            busy = [queue for queue in list(self.loaded.values()) if not queue.is_idle]
            if not busy:
                self._has_changed.wait()
                self._has_changed.clear()
                continue
            began_s = time.monotonic()
            for queue in busy:
                try:
                    queue.turn()
                except Exception as error:
                    say(f"serve: a step failed, and its requests with it: {error!r}")
                    self.metrics.count("failures_total", kind=type(error).__name__)
                    queue.fail(error)
            self.metrics.count("busy_seconds_total", time.monotonic() - began_s)
