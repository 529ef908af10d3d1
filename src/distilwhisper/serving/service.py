"""What a server holds, and how it answers the audio endpoints."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.extras import MissingExtra
from distilwhisper.model.hardware import Hardware
from distilwhisper.progress import say
from distilwhisper.serving.callers import Answers, Caller, EventStream
from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.forms import read_form
from distilwhisper.serving.metrics import Metrics
from distilwhisper.serving.models import Models, fitted
from distilwhisper.serving.responses import Deltas, answer, event, logprobs, noted, usage
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.serving.sound import PcmRecording, SoundDecoder
from distilwhisper.serving.worker import Job, Worker
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.text.tokens import Task
from distilwhisper.text.transcript import Segment, Transcript

T = TypeVar("T")


class Places:
    """Callers of one kind that are served at once, of whom there may be so many."""

    def __init__(self, most: int, noun: str) -> None:
        self.n_taken = 0
        self._most, self._noun = most, noun

    @contextmanager
    def take(self) -> Iterator[None]:
        """Be one of them.

        Raises:
            ApiError: there are as many as there may be.
        """
        if self.n_taken >= self._most:
            message = f"the server takes {self._most} {self._noun} at once: try again later"
            raise ApiError(429, message, code="queue_full")
        self.n_taken += 1
        try:
            yield
        finally:
            self.n_taken -= 1


class Service:
    """All that a server holds; made of what ``server.serve`` is given."""

    def __init__(
        self,
        sources: Mapping[str, str],
        decoding: DecodingSettings,
        hardware: Hardware,
        settings: ServeSettings,
    ) -> None:
        self.settings = settings
        self.decoding = decoding
        self.metrics = Metrics()
        self.worker = Worker(self.metrics)
        self.models = Models(sources, decoding, hardware, settings, self.worker)
        self.sounds = SoundDecoder(settings)
        self.requests = Places(settings.max_requests, "requests")
        self.sessions = Places(settings.max_sessions, "sessions")
        self.metrics.gauges |= {
            "requests": ("Requests that are being served.", lambda: self.requests.n_taken),
            "sessions": ("Realtime sessions.", lambda: self.sessions.n_taken),
            "queue": ("Recordings that wait for a slot.", lambda: self.worker.n_waiting),
            "batch_windows": ("Windows being decoded.", lambda: self.worker.n_running),
            "models_bytes": ("Weights in memory.", lambda: self.models.memory_bytes),
            "rtfx": ("Seconds of sound by second of decoding.", self._rtfx),
        }

    def _rtfx(self) -> float:
        busy_s = self.metrics.total("busy_seconds_total")
        return self.metrics.total("audio_seconds_total") / busy_s if busy_s else 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the start of the server to its end."""
        await self.sounds.start()
        if self.settings.preload:
            for name in self.models.sources:
                await self.models.get(name)
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
        caller = Caller(request, self.settings)
        async with AsyncExitStack() as held:
            held.enter_context(self.requests.take())
            held.push_async_callback(caller.close)
            form = await caller.read_form()
            held.push_async_callback(form.close)
            uploaded_s = time.monotonic()
            asked = read_form(form, task, self.decoding)
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
                more = partial(logprobs, asked=asked, tokenizer=transcriber.tokenizer)
                events = self._events(answers, recording, uploaded_s, more)
                return EventStream(caller, events, held.pop_all())
            transcript = await caller.wait(_or_api_error(answers.transcript()))
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
        while not isinstance(new := await _or_api_error(answers.next()), Transcript):
            first_s = first_s or time.monotonic() - uploaded_s
            if delta := deltas.add("".join(segment.text for segment in new)):
                yield event("transcript.text.delta", delta=delta, **more(new))
        self._done(recording, first_s or time.monotonic() - uploaded_s)
        used = usage(recording.duration_s)
        fields = {**more(new.segments), "usage": used, **noted(recording.notes)}
        yield event("transcript.text.done", text=new.text, **fields)

    def _done(self, recording: PcmRecording, first_text_s: float) -> None:
        self.metrics.count("audio_seconds_total", recording.duration_s)
        self.metrics.observe("first_text_seconds", first_text_s)


async def _or_api_error(coming: Awaitable[T]) -> T:
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
