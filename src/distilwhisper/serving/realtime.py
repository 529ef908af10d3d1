"""A websocket session of live captions, in the shape of OpenAI's realtime transcription."""

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import av
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.serving.callers import Answers
from distilwhisper.serving.captions import Captions, CaptionSettings, live_settings
from distilwhisper.serving.errors import ApiError, invalid
from distilwhisper.serving.models import Models, fitted
from distilwhisper.serving.responses import Deltas, usage
from distilwhisper.serving.service import Service
from distilwhisper.serving.sound import pcm_samples
from distilwhisper.serving.worker import Job, ModelQueue, Worker
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.speech.units import SAMPLE_RATE_HZ, samples_to_seconds
from distilwhisper.text.transcript import Word

KEY = "openai-insecure-api-key."  # how a page shows its key as it opens a websocket
PROTOCOL = "realtime"
RATES_HZ = (24_000, SAMPLE_RATE_HZ)  # OpenAI's, and the model's own
MAX_BACKLOG_S = 60.0  # sound that comes faster than it can be transcribed is read no further

_DELTA = "conversation.item.input_audio_transcription.delta"
_COMPLETED = "conversation.item.input_audio_transcription.completed"


@dataclass(frozen=True)
class Live:
    """Captions by a model that others use as well."""

    captions: Captions
    transcriber: Transcriber  # the model under the settings of the passes
    queue: ModelQueue
    worker: Worker

    async def go_on(self) -> tuple[list[Word], bool] | None:
        """Make the next pass; return what it settles, and whether an utterance ends there.

        None: there is nothing to do before more sound comes.
        """
        one = self.captions.next_pass()
        if one is None:
            return None
        answers = Answers()
        job = Job(one.fit(self.transcriber), HeldRecording(one.samples), answers)
        self.worker.add(self.queue, job)
        try:
            words = (await answers.transcript()).words
        finally:
            self.worker.leave(self.queue, job)
        return self.captions.settle(one, words), one.is_last


class Pcm:
    """16-bit samples of one rate, as they come, to samples at the model's."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)

    def samples(self, data: bytes) -> Samples:
        """Return what some bytes add.

        Raises:
            ApiError: they are no whole samples.
        """
        if len(data) % 2:
            raise ApiError(
                400,
                f"sound must be 16-bit samples, found {len(data)} bytes",
                code="invalid_audio",
                param="audio",
            )
        if self._rate_hz != SAMPLE_RATE_HZ and data:
            pcm = np.frombuffer(data, dtype="<i2")
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
            frame.sample_rate = self._rate_hz
            frames = self._resampler.resample(frame)
            data = b"".join(frame.to_ndarray().tobytes() for frame in frames)
        return pcm_samples(data)


@dataclass(frozen=True)
class SessionSettings:
    """What a client wants of its session."""

    model: str
    language: str | None = None
    prompt: str | None = None
    rate_hz: int = RATES_HZ[0]
    turns: CaptionSettings = field(default_factory=CaptionSettings)

    def changed(self, session: object, models: Models) -> "SessionSettings":
        """Return the settings after an update; what it does not name stays.

        Raises:
            ApiError: one of them cannot be.
        """
        asked = _fields(session, "session", {"type", "audio", "include", "object", "id"})
        if asked.get("include"):
            raise invalid(
                "include", "must be empty in a realtime session", repr(asked["include"])[:80]
            )
        sound = _fields(asked.get("audio") or {}, "audio", {"input"})
        given = _fields(
            sound.get("input") or {}, "input", {"format", "transcription", "turn_detection"}
        )
        new = self
        if given.get("format") is not None:
            kind = _fields(given["format"], "format", {"type", "rate"})
            rate_hz = kind.get("rate", RATES_HZ[0])
            if kind.get("type", "audio/pcm") != "audio/pcm" or rate_hz not in RATES_HZ:
                raise invalid("format", "must be audio/pcm at a rate of 24000 or 16000", str(kind))
            new = replace(new, rate_hz=rate_hz)
        if given.get("transcription") is not None:
            known = {"model", "language", "prompt"}
            wanted = _fields(given["transcription"], "transcription", known)
            for name, value in wanted.items():
                if value is not None and not isinstance(value, str):
                    raise invalid(name, "must be text", repr(value)[:80])
            model = models.named(wanted.get("model") or self.model)
            language, prompt = wanted.get("language"), wanted.get("prompt")
            new = replace(new, model=model, language=language, prompt=prompt)
        if "turn_detection" in given:
            new = replace(new, turns=_turns(given["turn_detection"]))
        return new

    def describe(self) -> dict[str, Any]:
        """Return them as a client reads them."""
        turns = None
        if self.turns.pause_s is not None:
            turns = {
                "type": "server_vad",
                "threshold": self.turns.threshold,
                "silence_duration_ms": round(self.turns.pause_s * 1000),
            }
        sound = {
            "format": {"type": "audio/pcm", "rate": self.rate_hz},
            "transcription": {n: getattr(self, n) for n in ("model", "language", "prompt")},
            "turn_detection": turns,
        }
        return {"type": "transcription", "object": "realtime.session", "audio": {"input": sound}}


class Session:
    """One websocket, which is accepted; where it names no model it gets the first."""

    def __init__(self, service: Service, socket: WebSocket, model: str | None) -> None:
        self._service, self._socket = service, socket
        self._settings = SessionSettings(
            service.models.named(model) if model else next(iter(service.models.sources))
        )
        self._live: Live | None = None
        self._held = AsyncExitStack()  # the model
        self._pcm = Pcm(self._settings.rate_hz)
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._events, self._items = count(1), count(1)
        self._item = f"item_{next(self._items)}"
        self._previous: str | None = None
        self._is_speaking = False
        self._deltas, self._transcript, self._began_s = Deltas(), "", 0.0

    async def run(self) -> None:
        """Take sound and give captions until the client leaves."""
        await self._send("session.created", session=self._settings.describe())
        tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._caption())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # the client has left
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError, OSError):
                    await task
            await self._held.aclose()

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            event_id: str | None = None
            try:
                if (data := message.get("bytes")) is not None:
                    await self._feed(data)
                    continue
                event = _object(message.get("text") or "")
                event_id = event.get("event_id")
                await self._take(event)
            except ApiError as error:
                await self._send("error", error={**error.body()["error"], "event_id": event_id})

    async def _take(self, event: Mapping[str, Any]) -> None:
        """Do what a client's event asks for."""
        kind = event.get("type")
        if kind == "input_audio_buffer.append":
            try:
                data = base64.b64decode(event.get("audio"), validate=True)  # type: ignore[arg-type]
            except (binascii.Error, TypeError, ValueError) as error:
                raise invalid("audio", "must be base64", "something else") from error
            await self._feed(data)
        elif kind == "input_audio_buffer.commit":
            live = await self._started()
            live.captions.end()
            self._changed.set()
        elif kind == "input_audio_buffer.clear":
            (await self._started()).captions.clear()
            await self._send("input_audio_buffer.cleared")
        elif kind in ("session.update", "transcription_session.update"):
            await self._update(event.get("session"))
        else:
            raise invalid("type", "must be an event of realtime transcription", repr(kind)[:80])

    async def _feed(self, data: bytes) -> None:
        samples = self._pcm.samples(data)
        live = await self._started()
        live.captions.feed(samples)
        self._service.metrics.count("live_audio_seconds_total", samples_to_seconds(len(samples)))
        if live.captions.is_speaking and not self._is_speaking:
            self._is_speaking = True
            at_ms = round(live.captions.now_s * 1000)
            await self._send(
                "input_audio_buffer.speech_started", audio_start_ms=at_ms, item_id=self._item
            )
        self._changed.set()
        while live.captions.backlog_s > MAX_BACKLOG_S:
            self._room.clear()
            await self._room.wait()

    async def _update(self, session: object) -> None:
        """Take settings; what they do not name stays."""
        if self._live is not None:
            raise ApiError(
                409, "a session's settings must come before its sound", code="session_has_begun"
            )
        new = self._settings.changed(session, self._service.models)
        await self._make_live(new)  # so that an error is sent now
        self._settings, self._pcm = new, Pcm(new.rate_hz)
        await self._send("session.updated", session=new.describe())

    async def _started(self) -> Live:
        """Return the captions, of a model that is loaded now."""
        if self._live is None:
            self._live = await self._make_live(self._settings)
        return self._live

    async def _make_live(self, asked: SessionSettings) -> Live:
        service = self._service
        await self._held.aclose()  # of settings before these
        queue = await self._held.enter_async_context(service.models.use(asked.model))
        decoding = live_settings(service.decoding, service.settings.live_margin_s)
        decoding = replace(
            decoding,
            language=asked.language or decoding.language,
            initial_prompt=asked.prompt or decoding.initial_prompt,
        )
        captions = Captions(replace(asked.turns, with_prompt=service.settings.live_prompt))
        return Live(captions, fitted(queue.transcriber, decoding), queue, service.worker)

    async def _caption(self) -> None:
        """Make passes while there is sound for one."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._live is None:
                continue
            try:
                while (settled := await self._live.go_on()) is not None:
                    self._room.set()
                    await self._give_out(*settled)
            except (WebSocketDisconnect, RuntimeError, OSError):
                raise
            except Exception as error:
                self._live.captions.clear()
                fault = ApiError(500, f"decoding has failed: {error}", code="decoding_failed")
                await self._send("error", error=fault.body()["error"])
            self._room.set()

    async def _give_out(self, settled: list[Word], is_last: bool) -> None:
        assert self._live is not None
        now_s = self._live.captions.now_s
        delta = self._deltas.add("".join(word.text for word in settled))
        if delta:
            self._transcript += delta
            await self._send(_DELTA, item_id=self._item, content_index=0, delta=delta)
        if not is_last:
            return
        item = self._item
        if self._is_speaking:
            at_ms = round(now_s * 1000)
            await self._send("input_audio_buffer.speech_stopped", audio_end_ms=at_ms, item_id=item)
        await self._send(
            "input_audio_buffer.committed", item_id=item, previous_item_id=self._previous
        )
        await self._send(
            _COMPLETED,
            item_id=item,
            content_index=0,
            transcript=self._transcript,
            usage=usage(now_s - self._began_s),
        )
        self._previous, self._item = item, f"item_{next(self._items)}"
        self._is_speaking, self._began_s = False, now_s
        self._deltas, self._transcript = Deltas(), ""

    async def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{next(self._events)}", **fields}
        await self._socket.send_text(json.dumps(event))


async def serve_session(service: Service, socket: WebSocket) -> None:
    """Serve a websocket from its opening to its end."""
    protocols = socket.headers.get("sec-websocket-protocol", "")
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in protocols else None)
    try:
        with service.sessions.take():
            await Session(service, socket, socket.query_params.get("model")).run()
    except ApiError as error:
        await socket.send_text(json.dumps({"type": "error", **error.body()}))
        await socket.close(1013 if error.status in (429, 503) else 1008)


def _turns(given: object) -> CaptionSettings:
    """Return what ends an utterance: a pause, or, without turn detection, the client."""
    if given is None:
        return CaptionSettings(pause_s=None)
    known = {"type", "threshold", "silence_duration_ms", "prefix_padding_ms"}
    turns = _fields(given, "turn_detection", known)
    if turns.get("type", "server_vad") != "server_vad":
        raise invalid("turn_detection", "must be null or of type server_vad", repr(turns["type"]))
    threshold = turns.get("threshold", CaptionSettings.threshold)
    pause_ms = turns.get("silence_duration_ms", (CaptionSettings.pause_s or 0.0) * 1000)
    if not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
        raise invalid("threshold", "must be a number between 0 and 1", repr(threshold))
    if not isinstance(pause_ms, (int, float)) or not 100 <= pause_ms <= 10_000:
        raise invalid("silence_duration_ms", "must be a number in [100, 10000]", repr(pause_ms))
    return CaptionSettings(pause_s=pause_ms / 1000, threshold=threshold)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise invalid("event", "must be JSON", "something else") from error
    return _fields(found, "event", None)


def _fields(found: object, name: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise invalid(name, "must be an object", type(found).__name__)
    unknown = sorted(found.keys() - known) if known is not None else []
    if unknown:
        raise invalid(unknown[0], f"must not be in {name}", "it there")
    return found
