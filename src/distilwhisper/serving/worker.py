"""One thread that decodes for all callers: windows of all their recordings share a model's slots.

A caller's settings are its own, see :meth:`Transcriber.with_settings`. Who comes next:

- A recording with fewer windows in slots goes before one with more; of equals, the first to come.
  Windows of silence, which need no slot, count for the step at which they are read.
- A long recording leaves a quarter of the slots to others.
- On a CPU, where to encode a window takes as long as many steps, a long recording waits with its
  next window while a short one is being decoded, but for no more than some steps.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.transcription import Transcription
from distilwhisper.decoding.windows import Batch, Task
from distilwhisper.progress import say
from distilwhisper.serving.metrics import Metrics
from distilwhisper.speech.recording import Recording
from distilwhisper.speech.units import WINDOW_SAMPLES
from distilwhisper.text.transcript import Segment, Transcript

STEPS_HELD = 20  # between two windows of long recordings, while a short one is decoded

# Segments that are settled; the transcript, or why there is none, is the last.
Event: TypeAlias = list[Segment] | Transcript | Exception


@dataclass(eq=False)
class Job:
    """A recording that a caller wants transcribed."""

    transcriber: Transcriber  # the model under the caller's settings
    recording: Recording
    listener: Callable[[Event], None]  # of the caller; called in the worker's thread
    on_end: Callable[[], None] = lambda: None  # called when the recording is needed no more
    is_streamed: bool = False  # the listener wants segments before the end
    n_running: int = 0  # windows
    n_silent: int = 0  # windows that were read at this step, and needed no slot
    is_begun: bool = False
    is_planned: bool = False
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.is_short = self.recording.reach(WINDOW_SAMPLES + 1) <= WINDOW_SAMPLES
        self.transcription = self.transcriber.begin(self.recording)
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
    """A loaded model, and the recordings that it is to transcribe.

    Jobs come and leave in any thread; all else happens in the worker's.
    """

    def __init__(self, transcriber: Transcriber, metrics: Metrics) -> None:
        self.transcriber = transcriber
        self.n_users = 0  # who hold it, with jobs or without
        self.used_s = time.monotonic()
        self._metrics = metrics
        self._arrived: deque[Job] = deque()
        self._left: deque[Job] = deque()
        self._jobs: list[Job] = []
        self._batch = Batch[Job, Transcription](transcriber)
        self._steps_to_hold = 0
        self._is_cpu = transcriber.checkpoint.model.device.type == "cpu"

    @property
    def n_waiting(self) -> int:
        """Recordings of which nothing is decoded yet."""
        return len(self._arrived) + sum(not job.is_begun for job in list(self._jobs))

    @property
    def n_running(self) -> int:
        """Windows in slots."""
        return self._batch.n_running

    @property
    def is_idle(self) -> bool:
        """Nothing is to be done."""
        return not (self._arrived or self._jobs or self._left)

    @property
    def is_unused(self) -> bool:
        """Nobody holds it."""
        return self.is_idle and not self.n_users

    def add(self, job: Job) -> None:
        """Take a job, whose listener gets its events."""
        self._arrived.append(job)

    def leave(self, job: Job) -> None:
        """Give a job up, unless it is done: its slots are free before the next step."""
        self._left.append(job)

    def turn(self) -> None:
        """Let jobs come and go, and decode a step."""
        while self._arrived:
            self._jobs.append(self._arrived.popleft())
        while self._left:
            self._end(self._left.popleft())
        for job in self._jobs:
            job.n_silent = 0
        self._steps_to_hold -= 1
        while self._batch.has_room and (planned := self._next()) is not None:
            self._plan(planned)
        for job, transcription in self._batch.step():
            self._take(job, transcription)

    def fail(self, error: Exception) -> None:
        """Give all jobs up, and begin anew: a step has failed, and nobody knows for whom."""
        self._batch.close()
        self._batch = Batch(self.transcriber)
        for job in list(self._jobs):
            self._fail(job, error)

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
                self._fail(job, error)
                return
            if task is None:
                job.is_planned = True
                return
            job.n_running += 1
            for _, done in self._batch.add(job, _guarded(job, task), job.transcriber):
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
        if isinstance(outcome, Exception):
            self._fail(job, outcome)
            return
        if job.is_streamed and (segments := transcription.take_segments()):
            job.listener(segments)
        if outcome is not None:
            job.listener(outcome)
            self._end(job)

    def _fail(self, job: Job, error: Exception) -> None:
        job.listener(error)
        self._end(job)

    def _end(self, job: Job) -> None:
        """Forget a job, and free what it holds."""
        if job in self._jobs:
            self._batch.leave(job)
            self._jobs.remove(job)
            job.on_end()


class Worker:
    """The thread, and the models that it serves in turn."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._changed = threading.Condition()
        self._queues: list[ModelQueue] = []
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def add(self, queue: ModelQueue, job: Job) -> None:
        """Give a job to a model."""
        with self._changed:
            if queue not in self._queues:
                self._queues.append(queue)
            queue.add(job)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
                self._thread.start()
            self._changed.notify()

    def leave(self, queue: ModelQueue, job: Job) -> None:
        """Give a job up; one that is done already stays done."""
        with self._changed:
            queue.leave(job)
            self._changed.notify()

    def remove(self, queue: ModelQueue) -> None:
        """Forget an idle model."""
        with self._changed:
            if queue in self._queues:
                self._queues.remove(queue)

    def stop(self) -> None:
        """End the thread after the step that it is at."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    @property
    def n_waiting(self) -> int:
        """Recordings of which nothing is decoded yet."""
        return sum(queue.n_waiting for queue in list(self._queues))

    @property
    def n_running(self) -> int:
        """Windows in slots."""
        return sum(queue.n_running for queue in list(self._queues))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_stopped and all(queue.is_idle for queue in self._queues):
                    self._changed.wait()
                if self._is_stopped:
                    return
                busy = [queue for queue in self._queues if not queue.is_idle]
            began_s = time.monotonic()
            for queue in busy:
                try:
                    queue.turn()
                except Exception as error:
                    say(f"serve: a step failed, and its requests with it: {error!r}")
                    self.metrics.count("failures_total", kind=type(error).__name__)
                    queue.fail(error)
            self.metrics.count("busy_seconds_total", time.monotonic() - began_s)


def _guarded(job: Job, task: Task[Transcription]) -> Task[Transcription]:
    """A task that fails for its job alone, whatever goes wrong in it."""
    try:
        return (yield from task)
    except Exception as error:
        job.error = error
        return job.transcription
