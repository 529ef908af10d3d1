"""A server process: it listens until a signal ends it, and finishes the requests that run."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import python_multipart  # noqa: F401  imported by starlette when a form comes
import uvicorn
import websockets  # noqa: F401  and by uvicorn when it listens

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import require_name
from distilwhisper.progress import say
from distilwhisper.serving.app import make_app
from distilwhisper.serving.service import Service
from distilwhisper.serving.settings import ServeSettings

MAX_MESSAGE_BYTES = 1 << 20  # of a websocket


def serve(
    sources: Mapping[str, str],
    decoding: DecodingSettings,
    hardware: Hardware,
    settings: ServeSettings,
) -> None:
    """Serve models until a signal ends it.

    Raises:
        OSError: the port is taken, or the file of keys cannot be read.
        ValueError: the file of keys holds none.
        ModelNotFound: one can be no model; whether the hub has another is seen when it is loaded.
    """
    for source in sources.values():
        require_name(source)
    app = make_app(Service(sources, decoding, hardware, settings), read_keys(settings))
    Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,  # its own would close all handlers there are
            log_level="warning",
            access_log=False,
            lifespan="on",
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES,
            timeout_graceful_shutdown=int(settings.drain_s),
            server_header=False,
        )
    ).run()


def read_keys(settings: ServeSettings) -> tuple[str, ...]:
    """Return the API keys of a server."""
    path = settings.api_key_file
    if path is None:
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise ValueError(f"--api-key-file must hold a key a line, found none in {path}")
    return keys


class Server(uvicorn.Server):
    """uvicorn's, with exit status 0 where a signal has ended it."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Begin to listen, and print the address."""
        try:
            await super().startup(sockets)  # type: ignore[arg-type]
        except SystemExit as stop:  # uvicorn has logged why, and ends the process
            place = f"{self.config.host}:{self.config.port}"
            raise OSError(f"cannot listen at {place}: take another --port or --host") from stop
        for server in self.servers:
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                say(f"serve: listening at http://{host}:{port}")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Finish what runs when a signal comes; a second one ends it at once."""
        wanted = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._stop) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            say("serve: no more requests; those that run are finished")
        self.handle_exit(number, frame)
