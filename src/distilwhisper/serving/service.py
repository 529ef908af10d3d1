"""What a server holds, and how it answers the audio endpoints."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.extras import MissingExtra
from distilwhisper.model.hardware import Hardware
from distilwhisper.progress import say
from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.forms import Deltas, answer, event, logprobs, noted, read_form, usage
from distilwhisper.serving.metrics import Metrics
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.serving.sound import SoundDecoder, UploadedRecording
from distilwhisper.serving.worker import Answers, Job, Models
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.text.tokens import Task
from distilwhisper.text.transcript import Segment, Transcript

T = TypeVar("T")
Events: TypeAlias = AsyncGenerator[bytes, None]
LogprobsOf: TypeAlias = Callable[[Iterable[Segment]], dict[str, Any]]  # a field, if asked for

_LIMITS = {"max_files": 1, "max_fields": 64, "max_part_size": 1 << 16}  # bytes of a field
DISCARD_S = 10.0  # for the rest of an upload that was refused: a client reads no answer before


@dataclass(eq=False)
class Service:
    """All that a server holds: ``server.serve`` is given one."""

    sources: Mapping[str, str]
    decoding: DecodingSettings
    hardware: Hardware
    settings: ServeSettings

    def __post_init__(self) -> None:
        settings, self.metrics = self.settings, Metrics()
        self.began_s = int(time.time())
        self.models = Models(self.sources, self.decoding, self.hardware, settings, self.metrics)
        self.sounds = SoundDecoder(settings)
        self.n_served = Counter[str]()  # requests and sessions
        self.metrics.gauges |= {
            "requests": ("Requests that are being served.", lambda: self.n_served["requests"]),
            "sessions": ("Realtime sessions.", lambda: self.n_served["sessions"]),
            "queue": ("Recordings that wait for a slot.", lambda: self.models.n_waiting),
            "batch_windows": ("Windows being decoded.", lambda: self.models.n_running),
            "models_bytes": ("Weights in memory.", lambda: self.models.memory_bytes),
            "rtfx": ("Seconds of sound by second of decoding.", self._rtfx),
        }

    def _rtfx(self) -> float:
        busy_s = self.metrics.total("busy_seconds_total")
        return self.metrics.total("audio_seconds_total") / busy_s if busy_s else 0.0

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """From the start of the server to its end."""
        await self.sounds.start()
        if self.settings.preload:
            for name in self.models.sources:
                async with self.models.use(name):
                    pass
        try:
            yield
        finally:
            await asyncio.to_thread(self.models.stop)

    @contextmanager
    def place(self, kind: Literal["requests", "sessions"]) -> Iterator[None]:
        """Take one of the places that there are for a kind of callers, if any is left."""
        most = self.settings.max_requests if kind == "requests" else self.settings.max_sessions
        if self.n_served[kind] >= most:
            message = f"the server takes {most} {kind} at once: try again later"
            raise ApiError(429, message, code="queue_full")
        self.n_served[kind] += 1
        try:
            yield
        finally:
            self.n_served[kind] -= 1

    async def transcribe(self, request: Request, task: Task) -> Response:
        """Answer one of the two audio endpoints."""
        caller = Caller(request, self.settings)
        async with AsyncExitStack() as held:
            held.enter_context(self.place("requests"))
            form = await caller.read_form()
            held.push_async_callback(form.close)
            uploaded_s = time.monotonic()
            asked = read_form(form, task, self.decoding)
            using = self.models.use(self.models.named(asked.model))
            queue = await caller.wait(held.enter_async_context(using))
            transcriber = queue.fitted(asked.decoding)
            recording = await caller.wait(self.sounds.decode(asked.file(), asked.name))
            answers = Answers()
            job = Job(transcriber, recording, answers, asked.is_streamed)
            held.enter_context(self.models.work_on(queue, job))
            await form.close()
            if asked.is_streamed:
                more = partial(logprobs, asked=asked, tokenizer=transcriber.tokenizer)
                events = self._events(answers, recording, uploaded_s, more)
                return EventStream(caller, events, held.pop_all())
            transcript = await caller.wait(_told(answers.transcript()))
            self._done(recording.duration_s, uploaded_s)
            transcript = replace(transcript, notes=tuple(recording.notes))
            return answer(transcript, asked, recording.duration_s, transcriber.tokenizer)

    async def _events(
        self, answers: Answers, recording: UploadedRecording, uploaded_s: float, more: LogprobsOf
    ) -> Events:
        deltas = Deltas()
        first_s: float | None = None
        while not isinstance(new := await _told(answers.next()), Transcript):
            first_s = first_s or time.monotonic()
            if delta := deltas.add("".join(segment.text for segment in new)):
                yield event("transcript.text.delta", delta=delta, **more(new))
        self._done(recording.duration_s, uploaded_s, first_s)
        used = usage(recording.duration_s)
        fields = {**more(new.segments), "usage": used, **noted(recording.notes)}
        yield event("transcript.text.done", text=new.text, **fields)

    def _done(self, duration_s: float, began_s: float, text_s: float | None = None) -> None:
        self.metrics.count("audio_seconds_total", duration_s)
        self.metrics.observe("first_text_seconds", (text_s or time.monotonic()) - began_s)


class Caller:
    """An HTTP request: what it uploads, and whether it still waits for its answer.

    What cannot be is an ApiError; ClientDisconnect says that the client has left.
    """

    def __init__(self, request: Request, settings: ServeSettings) -> None:
        self._request, self._settings = request, settings
        self._upload = request.stream()
        self._deadline_s = math.inf

    async def read_form(self) -> FormData:
        """Return the form, its file on disk; refuse one that is too large, too slow, or none."""
        most_s = self._settings.upload_timeout_s
        try:
            form = await asyncio.wait_for(self._parsed(), most_s)
        except asyncio.TimeoutError as error:
            message = f"a request must arrive within {most_s:g} s, found less than all of it"
            raise ApiError(408, message, code="upload_too_slow") from error
        except ApiError:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._discard(), DISCARD_S)
            raise
        self._deadline_s = time.monotonic() + self._settings.request_timeout_s
        return form

    async def _parsed(self) -> FormData:
        headers = self._request.headers
        kind = headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            message = f"the body must be multipart/form-data, found {kind[:80] or 'no type'}"
            raise ApiError(400, message, code="invalid_content_type")
        try:
            return await MultiPartParser(headers, self._chunks(), **_LIMITS).parse()
        except MultiPartException as error:
            message = f"the form cannot be read: {error.message}"
            raise ApiError(400, message, code="invalid_form") from error

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        n_bytes, most_mb = 0, self._settings.max_upload_mb
        async for chunk in self._upload:
            n_bytes += len(chunk)
            if n_bytes > most_mb * 1e6:
                message = (
                    f"a request must have at most {most_mb:g} MB, found more: compress the sound "
                    "(opus, mp3), or cut it"
                )
                raise ApiError(413, message, code="upload_too_large", param="file")
            yield chunk

    async def _discard(self) -> None:
        """Read what is left of a body that nobody wants."""
        async for _ in self._upload:
            pass

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait for something, as long as the client does, and no longer than an answer may take."""
        task, leaving = asyncio.ensure_future(awaitable), asyncio.create_task(self._leave())
        left_s = self._deadline_s - time.monotonic()
        try:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({task, leaving}, timeout=left_s, return_when=first)
            if task.done():
                return task.result()
            if leaving.done():
                raise ClientDisconnect
            message = (
                f"an answer must take at most {self._settings.request_timeout_s:g} s, found more: "
                "send a shorter recording, or try again when the server is less busy"
            )
            raise ApiError(503, message, code="timeout")
        finally:
            for each in (task, leaving):
                each.cancel()
            await asyncio.gather(task, leaving, return_exceptions=True)

    async def _leave(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass


class EventStream(Response):
    """Server-sent events, given out as they come, until the client leaves or they end."""

    def __init__(self, caller: Caller, events: Events, held: AsyncExitStack) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._caller, self._events, self._held = caller, events, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with self._held:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                while True:
                    chunk = await self._caller.wait(anext(self._events))
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except (ClientDisconnect, OSError):
                return
            except StopAsyncIteration:
                last = b""
            except ApiError as error:
                last = event("error", **error.body())
            await send({"type": "http.response.body", "body": last})


async def _told(coming: Awaitable[T]) -> T:
    """Wait for a worker's answer; what went wrong there becomes an answer, too."""
    try:
        return await coming
    except MissingExtra as error:
        name = "chunking_strategy"
        raise ApiError(400, str(error), code="unsupported_parameter", param=name) from error
    except CorruptAudio as error:
        raise ApiError(400, str(error), code="invalid_audio", param="file") from error
    except Exception as error:
        say(f"serve: a request failed: {error!r}")
        message = "decoding has failed: see the server's log"
        raise ApiError(500, message, code="decoding_failed") from error
