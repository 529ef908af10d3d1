"""What a server holds, and how it answers the audio endpoints."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.extras import MissingExtra
from distilwhisper.progress import say
from distilwhisper.serving.callers import Answers, Caller, EventStream
from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.forms import Asked, read_form
from distilwhisper.serving.metrics import Metrics
from distilwhisper.serving.models import Loading, Models, fitted
from distilwhisper.serving.responses import Deltas, answer, event, logprobs, noted, usage
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.serving.sound import PcmRecording, SoundDecoder, SoundLimits
from distilwhisper.serving.worker import Job, Worker
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.text.transcript import Segment, Transcript

Task = Literal["transcribe", "translate"]

T = TypeVar("T")


class Service:
    """All that a server holds.

    Args:
        sources: model name to folder or hub id.
        loading: how models are loaded.
        settings: how callers are treated.
    """

    def __init__(
        self, sources: Mapping[str, str], loading: Loading, settings: ServeSettings
    ) -> None:
        self.settings = settings
        self.decoding = loading.decoding
        self.metrics = Metrics()
        self.worker = Worker(self.metrics)
        self.models = Models(sources, loading, settings, self.worker, self.metrics)
        self.sounds = SoundDecoder(
            SoundLimits(settings.max_duration_s, settings.sound_memory_mb, settings.sound_timeout_s)
        )
        self.n_requests = self.n_sessions = 0
        self.metrics.gauges |= {
            "requests": ("Requests that are being served.", lambda: self.n_requests),
            "sessions": ("Realtime sessions.", lambda: self.n_sessions),
            "queue": ("Recordings that wait for a slot.", lambda: self.worker.n_waiting),
            "batch_windows": ("Windows being decoded.", lambda: self.worker.n_running),
            "models_bytes": ("Weights in memory.", lambda: self.models.memory_bytes),
            "rtfx": ("Seconds of sound by second of decoding.", self._rtfx),
        }

    def _rtfx(self) -> float:
        busy_s = self.metrics.total("busy_seconds_total")
        return self.metrics.total("audio_seconds_total") / busy_s if busy_s else 0.0

    def place(self) -> AbstractContextManager[None]:
        """One of the requests that are served at once.

        Raises:
            ApiError: there are as many as there may be.
        """
        return self._place("n_requests", "requests", self.settings.max_requests)

    def session_place(self) -> AbstractContextManager[None]:
        """One of the realtime sessions that are served at once.

        Raises:
            ApiError: there are as many as there may be.
        """
        return self._place("n_sessions", "sessions", self.settings.max_sessions)

    @contextmanager
    def _place(self, counter: str, noun: str, most: int) -> Iterator[None]:
        if getattr(self, counter) >= most:
            raise ApiError(
                429, f"the server takes {most} {noun} at once: try again later", code="queue_full"
            )
        setattr(self, counter, getattr(self, counter) + 1)
        try:
            yield
        finally:
            setattr(self, counter, getattr(self, counter) - 1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the start of the server to its end."""
        await self.sounds.start()
        if self.settings.preload:
            await self.models.preload()
        unloading = asyncio.create_task(self.models.unload_idle())
        try:
            yield
        finally:
            unloading.cancel()
            with suppress(asyncio.CancelledError):
                await unloading
            await asyncio.to_thread(self.worker.stop)

    async def transcribe(self, request: Request, task: Task) -> Response:
        """Answer one of the two audio endpoints."""
        settings = self.settings
        caller = Caller(
            request,
            most_bytes=int(settings.max_upload_mb * 1e6),
            upload_s=settings.upload_timeout_s,
            answer_s=settings.request_timeout_s,
        )
        async with AsyncExitStack() as held:
            held.enter_context(self.place())
            held.push_async_callback(caller.close)
            form = await caller.read_form()
            held.push_async_callback(form.close)
            uploaded_s = time.monotonic()
            asked = _asked(form, task, self.decoding)
            using = self.models.use(self.models.named(asked.model))
            queue = await caller.wait(held.enter_async_context(using))
            transcriber = fitted(queue.transcriber, asked.decoding)
            recording = await caller.wait(self.sounds.decode(asked.file(), asked.name))
            answers = Answers()
            job = Job(
                transcriber,
                recording,
                answers,
                on_end=recording.close,
                is_streamed=asked.is_streamed,
            )
            self.worker.add(queue, job)
            held.callback(self.worker.leave, queue, job)
            await form.close()
            if asked.is_streamed:
                tell = partial(logprobs, asked=asked, tokenizer=transcriber.tokenizer)
                events = self._events(answers, recording, uploaded_s, tell)
                return EventStream(caller, events, held.pop_all())
            transcript = await caller.wait(_told(answers.transcript()))
            self._done(recording, time.monotonic() - uploaded_s)
            transcript = replace(transcript, notes=tuple(recording.notes))
            return answer(transcript, asked, recording.duration_s, transcriber.tokenizer)

    async def _events(
        self,
        answers: Answers,
        recording: PcmRecording,
        uploaded_s: float,
        more: Callable[[Iterable[Segment]], dict[str, Any]],
    ) -> AsyncIterator[bytes]:
        deltas = Deltas()
        first_s: float | None = None
        while not isinstance(came := await _told(answers.next()), Transcript):
            first_s = first_s or time.monotonic() - uploaded_s
            if delta := deltas.add(came):
                yield event("transcript.text.delta", delta=delta, **more(came))
        self._done(recording, first_s or time.monotonic() - uploaded_s)
        used = usage(recording.duration_s)
        told = {**more(came.segments), "usage": used, **noted(recording.notes)}
        yield event("transcript.text.done", text=came.text, **told)

    def _done(self, recording: PcmRecording, first_text_s: float) -> None:
        self.metrics.count("audio_seconds_total", recording.duration_s)
        self.metrics.observe("first_text_seconds", first_text_s)


def _asked(form: FormData, task: Task, base: DecodingSettings) -> Asked:
    try:
        return read_form(form, task, base)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value") from error


async def _told(coming: Awaitable[T]) -> T:
    """Wait for a worker's answer; what went wrong there becomes an answer, too."""
    try:
        return await coming
    except MissingExtra as error:
        raise ApiError(
            400, str(error), code="unsupported_parameter", param="chunking_strategy"
        ) from error
    except CorruptAudio as error:
        raise ApiError(400, str(error), code="invalid_audio", param="file") from error
    except Exception as error:
        say(f"serve: a request failed: {error!r}")
        raise ApiError(
            500, "decoding has failed: see the server's log", code="decoding_failed"
        ) from error
