"""A websocket session of live captions, in the shape of OpenAI's realtime transcription."""

import asyncio
import base64
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import av
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.serving.captions import Captions, CaptionSettings, live_settings
from distilwhisper.serving.errors import ApiError, invalid
from distilwhisper.serving.forms import Deltas, usage
from distilwhisper.serving.service import Service
from distilwhisper.serving.sound import pcm_samples, resampled
from distilwhisper.serving.worker import Answers, Job, ModelQueue, Models
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.speech.units import SAMPLE_RATE_HZ, samples_to_seconds

KEY = "openai-insecure-api-key."  # how a page shows its key as it opens a websocket
PROTOCOL = "realtime"
RATES_HZ = (24_000, SAMPLE_RATE_HZ)  # OpenAI's, and the model's own
MAX_BACKLOG_S = 60.0  # sound that comes faster than it can be transcribed is read no further

_TRANSCRIPTION = "conversation.item.input_audio_transcription"

# The settings of a session's sound where the client does not say, in the client's shape.
_DEFAULTS: Mapping[str, dict[str, Any]] = {
    "format": {"type": "audio/pcm", "rate": RATES_HZ[0]},
    "transcription": {"model": None, "language": None, "prompt": None},
    "turn_detection": {
        "type": "server_vad",
        "threshold": CaptionSettings.threshold,
        "silence_duration_ms": round((CaptionSettings.pause_s or 0.0) * 1000),
    },
}
# What else a client's settings may hold, and where.
_FIELDS = {
    "session": {"type", "audio", "include", "object", "id"},
    "audio": {"input"},
    "input": _DEFAULTS.keys(),
    "turn_detection": {*_DEFAULTS["turn_detection"], "prefix_padding_ms"},
}


def _fields(found: object, name: str) -> dict[str, Any]:
    """Return an object of a client's, which holds nothing that is not known."""
    if not isinstance(found, dict):
        raise invalid(name, "must be an object", type(found).__name__)
    unknown = sorted(found.keys() - (_FIELDS.get(name) or _DEFAULTS[name].keys()))
    if unknown:
        raise invalid(unknown[0], f"must not be in {name}", "it there")
    return found


def _changed(sound: Mapping[str, Any], session: object, models: Models) -> dict[str, Any]:
    """Return the settings of a session's sound after an update; what it does not name stays.

    Without turn detection the client ends its utterances.
    """
    asked = _fields(session, "session")
    if include := asked.get("include"):
        raise invalid("include", "must be empty in a realtime session", repr(include)[:80])
    new = dict(sound)
    given = _fields(asked.get("audio") or {}, "audio").get("input") or {}
    for name, wanted in _fields(given, "input").items():
        if wanted is not None:
            known = _fields(wanted, name)
            new[name] = {key: known.get(key, value) for key, value in _DEFAULTS[name].items()}
        elif name == "turn_detection":
            new[name] = None
    kind, spoken, turns = new["format"], new["transcription"], new["turn_detection"]
    if kind["type"] != "audio/pcm" or kind["rate"] not in RATES_HZ:
        raise invalid("format", "must be audio/pcm at a rate of 24000 or 16000", str(kind))
    for name, text in spoken.items():
        if text is not None and not isinstance(text, str):
            raise invalid(name, "must be text", repr(text)[:80])
    name = models.named(spoken["model"] or sound["transcription"]["model"])
    if turns is not None:
        threshold, pause_ms = turns["threshold"], turns["silence_duration_ms"]
        if turns["type"] != "server_vad":
            must = "must be null or of type server_vad"
            raise invalid("turn_detection", must, repr(turns["type"]))
        if not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
            raise invalid("threshold", "must be a number between 0 and 1", repr(threshold))
        if not isinstance(pause_ms, (int, float)) or not 100 <= pause_ms <= 10_000:
            must = "must be a number in [100, 10000]"
            raise invalid("silence_duration_ms", must, repr(pause_ms))
    return {**new, "transcription": {**spoken, "model": name}}


@dataclass(frozen=True)
class Live:
    """Captions by a model that others use as well."""

    captions: Captions
    transcriber: Transcriber  # the model under the settings of the passes
    queue: ModelQueue


class Session:
    """One websocket, which is accepted; where it names no model it gets the first."""

    def __init__(self, service: Service, socket: WebSocket, model: str | None) -> None:
        self._service, self._socket = service, socket
        name = service.models.named(model) if model else next(iter(service.models.sources))
        self._sound = {**_DEFAULTS, "transcription": {**_DEFAULTS["transcription"], "model": name}}
        self._live: Live | None = None
        self._held = AsyncExitStack()  # the model
        self._resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._events, self._items = count(1), count(1)
        self._item = f"item_{next(self._items)}"
        self._previous: str | None = None
        self._is_speaking = False
        self._deltas, self._began_s = Deltas(), 0.0

    async def run(self) -> None:
        """Take sound and give captions until the client leaves."""
        await self._send_settings("session.created")
        tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._caption())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            await self._held.aclose()
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect):
                raise outcome

    async def _receive(self) -> None:
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            event: Mapping[str, Any] = {}
            try:
                if (data := message.get("bytes")) is not None:
                    await self._feed(data)
                else:
                    event = _event(message.get("text") or "")
                    await self._take(event)
            except ApiError as error:
                fault = {**error.body()["error"], "event_id": event.get("event_id")}
                await self._send("error", error=fault)

    async def _take(self, event: Mapping[str, Any]) -> None:
        """Do what a client's event asks for."""
        match event.get("type"):
            case "input_audio_buffer.append":
                try:
                    data = base64.b64decode(event["audio"], validate=True)
                except (KeyError, TypeError, ValueError) as error:
                    raise invalid("audio", "must be base64", "something else") from error
                await self._feed(data)
            case "input_audio_buffer.commit":
                (await self._started()).captions.end()
                self._changed.set()
            case "input_audio_buffer.clear":
                (await self._started()).captions.clear()
                await self._send("input_audio_buffer.cleared")
            case "session.update" | "transcription_session.update":
                await self._update(event.get("session"))
            case kind:
                raise invalid("type", "must be an event of realtime transcription", repr(kind)[:80])

    async def _feed(self, data: bytes) -> None:
        if len(data) % 2:
            message = f"sound must be 16-bit samples, found {len(data)} bytes"
            raise ApiError(400, message, code="invalid_audio", param="audio")
        samples = pcm_samples(data)
        if data:
            pcm = np.frombuffer(data, dtype="<i2")
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
            frame.sample_rate = self._sound["format"]["rate"]
            samples = resampled(self._resampler, frame)
        captions = (await self._started()).captions
        captions.feed(samples)
        self._service.metrics.count("live_audio_seconds_total", samples_to_seconds(len(samples)))
        if captions.is_speaking and not self._is_speaking:
            self._is_speaking = True
            at_ms = round(captions.now_s * 1000)
            kind = "input_audio_buffer.speech_started"
            await self._send(kind, audio_start_ms=at_ms, item_id=self._item)
        self._changed.set()
        while captions.backlog_s > MAX_BACKLOG_S:
            self._room.clear()
            await self._room.wait()

    async def _update(self, session: object) -> None:
        """Take settings; what they do not name stays."""
        if self._live is not None:
            message = "a session's settings must come before its sound"
            raise ApiError(409, message, code="session_has_begun")
        new = _changed(self._sound, session, self._service.models)
        await self._make_live(new)  # so that an error is sent now
        self._sound = new
        self._resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
        await self._send_settings("session.updated")

    async def _send_settings(self, kind: str) -> None:
        told = {"type": "transcription", "object": "realtime.session"}
        await self._send(kind, session={**told, "audio": {"input": self._sound}})

    async def _started(self) -> Live:
        """Return the captions, of a model that is loaded now."""
        self._live = self._live or await self._make_live(self._sound)
        return self._live

    async def _make_live(self, sound: Mapping[str, Any]) -> Live:
        service, spoken, turns = self._service, sound["transcription"], sound["turn_detection"]
        await self._held.aclose()  # of settings before these
        queue = await self._held.enter_async_context(service.models.use(spoken["model"]))
        asked = {"language": spoken["language"], "initial_prompt": spoken["prompt"]}
        base = replace(service.decoding, **{name: text for name, text in asked.items() if text})
        decoding = live_settings(base, service.settings.live_margin_s)
        settings = CaptionSettings(None, with_prompt=service.settings.live_prompt)
        if turns is not None:
            pause_s, threshold = turns["silence_duration_ms"] / 1000, turns["threshold"]
            settings = replace(settings, pause_s=pause_s, threshold=threshold)
        return Live(Captions(settings), queue.fitted(decoding), queue)

    async def _caption(self) -> None:
        """Make passes while there is sound for one."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._live is not None and await self._pass(self._live):
                self._room.set()
            self._room.set()

    async def _pass(self, live: Live) -> bool:
        """Give out what the next pass settles; whether there was one to make."""
        if (one := live.captions.next_pass()) is None:
            return False
        answers = Answers()
        try:
            job = Job(one.fit(live.transcriber), HeldRecording(one.samples), answers)
            with self._service.models.work_on(live.queue, job):
                words = (await answers.transcript()).words
        except Exception as error:
            live.captions.clear()
            fault = ApiError(500, f"decoding has failed: {error}", code="decoding_failed")
            await self._send("error", error=fault.body()["error"])
            return False
        settled, now_s = live.captions.settle(one, words), live.captions.now_s
        if delta := self._deltas.add("".join(word.text for word in settled)):
            at = {"item_id": self._item, "content_index": 0}
            await self._send(f"{_TRANSCRIPTION}.delta", **at, delta=delta)
        if one.is_last:
            await self._complete(now_s)
        return True

    async def _complete(self, now_s: float) -> None:
        item, buffer = self._item, "input_audio_buffer"
        if self._is_speaking:
            at_ms = round(now_s * 1000)
            await self._send(f"{buffer}.speech_stopped", audio_end_ms=at_ms, item_id=item)
        await self._send(f"{buffer}.committed", item_id=item, previous_item_id=self._previous)
        said = {"transcript": self._deltas.text, "usage": usage(now_s - self._began_s)}
        await self._send(f"{_TRANSCRIPTION}.completed", item_id=item, content_index=0, **said)
        self._previous, self._item = item, f"item_{next(self._items)}"
        self._is_speaking, self._began_s, self._deltas = False, now_s, Deltas()

    async def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{next(self._events)}", **fields}
        try:
            await self._socket.send_text(json.dumps(event))
        except (RuntimeError, OSError) as error:  # nobody is there any more
            raise WebSocketDisconnect(1006) from error


async def serve_session(service: Service, socket: WebSocket) -> None:
    """Serve a websocket from its opening to its end."""
    protocols = socket.headers.get("sec-websocket-protocol", "")
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in protocols else None)
    try:
        with service.place("sessions"):
            await Session(service, socket, socket.query_params.get("model")).run()
    except ApiError as error:
        await socket.send_text(json.dumps({"type": "error", **error.body()}))
        await socket.close(1013 if error.status in (429, 503) else 1008)


def _event(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise invalid("event", "must be a JSON object", "something else")
    return found
