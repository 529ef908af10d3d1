"""A server in a thread of the tests, at a free port of this machine."""

import asyncio
import io
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.model.hardware import Hardware
from distilwhisper.serving.server import make_app
from distilwhisper.serving.service import Service
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.speech.audio import Samples

CPU = Hardware(device="cpu", dtype="float32")
SHORT = DecodingSettings(max_new_tokens=8, temperature=(0.0,), batch_size=4)


def wav(samples: Samples) -> bytes:
    """Samples as an uploaded file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


DEFAULTS = ServeSettings()


@contextmanager
def running(
    sources: dict[str, Path | str],
    settings: ServeSettings = DEFAULTS,
    decoding: DecodingSettings = SHORT,
    keys: tuple[str, ...] = (),
) -> Iterator[tuple[str, Service]]:
    """A server that listens: its address, and what it holds."""
    named = {name: str(source) for name, source in sources.items()}
    service = Service(named, decoding, CPU, settings)
    config = uvicorn.Config(
        make_app(service, keys),
        port=0,
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        timeout_graceful_shutdown=2,
    )
    started = threading.Event()

    class Noted(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            started.set()

    server = Noted(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    assert started.wait(60), "the server does not listen"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", service
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"
