"""One HTTP request and whoever waits for its answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from typing import TypeVar

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.responses import event
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.serving.worker import Event
from distilwhisper.text.transcript import Segment, Transcript

T = TypeVar("T")

MAX_FIELDS, MAX_FIELD_BYTES = 64, 1 << 16
DISCARD_S = 10.0  # for the rest of an upload that was refused: a client reads no answer before


class Gone(Exception):
    """The client has left: nobody waits for an answer."""


class Caller:
    """A request: what it uploads, and whether it still waits."""

    def __init__(self, request: Request, settings: ServeSettings) -> None:
        self._request = request
        self._settings = settings
        self._deadline_s = time.monotonic() + settings.upload_timeout_s
        self._has_more = True
        self._leaving: asyncio.Task[None] | None = None

    async def read_form(self) -> FormData:
        """Return the form, its file on disk.

        Raises:
            ApiError: it is too large, too slow, or no form.
            Gone: the client has left.
        """
        kind = self._request.headers.get("content-type", "")
        try:
            if not kind.lower().startswith("multipart/form-data"):
                raise ApiError(
                    400,
                    f"the body must be multipart/form-data, found {kind[:80] or 'no type'}",
                    code="invalid_content_type",
                )
            parser = MultiPartParser(
                self._request.headers,
                self._chunks(),  # type: ignore[arg-type]
                max_files=1,
                max_fields=MAX_FIELDS,
                max_part_size=MAX_FIELD_BYTES,
            )
            form = await parser.parse()
        except (MultiPartException, ApiError) as error:
            await self._discard()
            if isinstance(error, ApiError):
                raise
            message = f"the form cannot be read: {error.message}"
            raise ApiError(400, message, code="invalid_form") from error
        self._deadline_s = time.monotonic() + self._settings.request_timeout_s
        self._leaving = asyncio.create_task(self._leave())
        return form

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait for something, as long as the client does.

        Raises:
            ApiError: it takes too long.
            Gone: the client has left.
        """
        assert self._leaving is not None
        task = asyncio.ensure_future(awaitable)
        left_s = self._deadline_s - time.monotonic()
        try:
            await asyncio.wait(
                {task, self._leaving}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if self._leaving.done():
                raise Gone
            raise ApiError(
                503,
                f"an answer must take at most {self._settings.request_timeout_s:g} s, found more: "
                "send a shorter recording, or try again when the server is less busy",
                code="timeout",
            )
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration, ApiError):
                    await task

    async def close(self) -> None:
        """Watch the client no more."""
        if self._leaving is not None:
            self._leaving.cancel()
            with suppress(asyncio.CancelledError):
                await self._leaving

    async def _chunks(self) -> AsyncIterator[bytes]:
        n_bytes = 0
        while self._has_more:
            chunk = await self._receive(self._deadline_s - time.monotonic())
            n_bytes += len(chunk)
            if n_bytes > self._settings.max_upload_mb * 1e6:
                raise ApiError(
                    413,
                    f"a request must have at most {self._settings.max_upload_mb:g} MB, found more: "
                    "compress the sound (opus, mp3), or cut it",
                    code="upload_too_large",
                    param="file",
                )
            yield chunk

    async def _receive(self, within_s: float) -> bytes:
        try:
            message = await asyncio.wait_for(self._request.receive(), max(within_s, 0.0))
        except asyncio.TimeoutError as error:
            self._has_more = False
            raise ApiError(
                408,
                f"a request must arrive within {self._settings.upload_timeout_s:g} s, found less "
                "than all of it",
                code="upload_too_slow",
            ) from error
        if message["type"] == "http.disconnect":
            raise Gone
        self._has_more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def _discard(self) -> None:
        """Read what is left of a body that nobody wants, for a while."""
        deadline_s = time.monotonic() + DISCARD_S
        with suppress(ApiError):
            while self._has_more:
                await self._receive(deadline_s - time.monotonic())

    async def _leave(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass


class Answers:
    """The events of a job, taken from the worker's thread into the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def __call__(self, event: Event) -> None:
        """Take an event, in the worker's thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def transcript(self) -> Transcript:
        """Return the transcript; raises why there is none."""
        while not isinstance(event := await self.next(), Transcript):
            pass
        return event

    async def next(self) -> list[Segment] | Transcript:
        """Return what comes next; raises why nothing does."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event


class EventStream(Response):
    """Server-sent events, given out as they come, until the client leaves or they end."""

    def __init__(self, caller: Caller, events: AsyncIterator[bytes], held: AsyncExitStack) -> None:
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
            except (Gone, OSError):
                return
            except StopAsyncIteration:
                pass
            except ApiError as error:
                body = event("error", **error.body())
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
