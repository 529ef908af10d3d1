"""A server: the addresses it answers, who may call them, and the process, which a signal ends."""

import hmac
import signal
import time
from dataclasses import dataclass
from functools import partial
from importlib import resources
from types import FrameType
from urllib.parse import urlsplit

import python_multipart  # noqa: F401  imported by starlette when a form comes
import uvicorn
import websockets  # noqa: F401  and by uvicorn when it listens
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distilwhisper.model.hub import require_name
from distilwhisper.progress import say
from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.realtime import KEY, serve_session
from distilwhisper.serving.service import Service

MAX_MESSAGE_BYTES = 1 << 20  # of a websocket

_PAGES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/recorder.js": ("recorder.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; media-src blob:; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_COUNTED = {"/v1/audio/transcriptions", "/v1/audio/translations", "/v1/models", "/health"}


@dataclass(frozen=True)
class Door:
    """What every request passes: who may come in, what an error looks like, what is counted."""

    app: ASGIApp
    service: Service  # for its settings and metrics
    keys: tuple[str, ...]  # one of which must be shown, if there are any

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        fault = None if scope["type"] == "lifespan" else self._fault(scope)
        if scope["type"] != "http":
            if fault is None:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": fault.message})
            return
        began_s, status = time.monotonic(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-content-type-options"] = "nosniff"
            await send(message)

        app = self.app if fault is None else error_response(fault)
        await app(scope, receive, answer)
        metrics = self.service.metrics
        path = scope["path"] if scope["path"] in _COUNTED else "other"
        metrics.count("requests_total", path=path, status=str(status))
        if status >= 500:
            metrics.count("failures_total", kind=f"status {status}")
        if path.startswith("/v1/audio"):
            metrics.observe("request_seconds", time.monotonic() - began_s)

    def _fault(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = self.service.settings.cors_origins
        if origin and origin not in allowed and urlsplit(origin).netloc != headers.get("host"):
            message = f"web pages of {origin} may not call this server: see --cors-origins"
            return ApiError(403, message, code="origin_not_allowed")
        if not self.keys or scope["path"] in _PAGES or scope["path"] == "/health":
            return None
        shown = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not shown and scope["type"] == "websocket":  # a page cannot send headers there
            asked = headers.get("sec-websocket-protocol", "").split(",")
            shown = next((a.strip()[len(KEY) :] for a in asked if a.strip().startswith(KEY)), "")
        # Every key is compared, and each in a time that does not show how much of it is right.
        if sum(hmac.compare_digest(shown.encode(), key.encode()) for key in self.keys):
            return None
        found = "another one" if shown else "none"
        message = f"an API key must be shown as the header Authorization: Bearer KEY, found {found}"
        return ApiError(401, message, code="invalid_api_key")


def error_response(error: ApiError) -> Response:
    """Return an error in OpenAI's shape."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


def make_app(service: Service, keys: tuple[str, ...] = ()) -> ASGIApp:
    """Return the application; if there are keys, callers must show one of them."""

    def described(name: str) -> dict[str, object]:
        created = service.began_s
        return {"id": name, "object": "model", "created": created, "owned_by": "distilwhisper"}

    async def models(_: Request) -> Response:
        data = [described(name) for name in service.models.sources]
        return JSONResponse({"object": "list", "data": data})

    async def model(request: Request) -> Response:
        return JSONResponse(described(service.models.named(request.path_params["name"])))

    async def health(_: Request) -> Response:
        ready = service.models.is_ready
        names = list(service.models.loaded)
        body = {"status": "ok" if ready else "no model is loaded", "models": names}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(service.metrics.render(), media_type="text/plain; version=0.0.4")

    answer = service.transcribe
    routes = [
        Route("/v1/audio/transcriptions", partial(answer, task="transcribe"), methods=["POST"]),
        Route("/v1/audio/translations", partial(answer, task="translate"), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
        Route("/metrics", metrics),
        WebSocketRoute("/v1/realtime", partial(serve_session, service)),
        *(Route(path, _page) for path in _PAGES),
    ]
    origins = service.settings.cors_origins
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type"],
    )
    return Starlette(
        routes=routes,
        middleware=[*([cors] if origins else []), Middleware(Door, service=service, keys=keys)],
        exception_handlers=dict.fromkeys(
            (ApiError, ClientDisconnect, HTTPException, Exception), _failed
        ),
        lifespan=lambda _: service.running(),
    )


async def _page(request: Request) -> Response:
    name, kind = _PAGES[request.url.path]
    text = (resources.files("distilwhisper.serving") / "static" / name).read_text("utf-8")
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    return Response(text, media_type=kind, headers=headers)


async def _failed(request: Request, error: Exception) -> Response:
    """Answer a request that failed, in OpenAI's shape."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it; it is counted
    if isinstance(error, ApiError):
        return error_response(error)
    if not isinstance(error, HTTPException):
        say(f"serve: a request failed: {error!r}")
        message = "the server has failed: see its log"
        return error_response(ApiError(500, message, code="internal_error"))
    is_unknown = error.status_code == 404
    what = "there is no such address" if is_unknown else error.detail
    message = f"{what}: {request.method} {request.url.path}"
    code = "unknown_url" if is_unknown else None
    return error_response(ApiError(error.status_code, message, code=code))


def serve(service: Service) -> None:
    """Serve models until a signal ends it.

    Raises:
        OSError: the port is taken, or the file of keys cannot be read.
        ValueError: the file of keys holds none.
        ModelNotFound: one can be no model; whether the hub has another is seen when it is loaded.
    """
    for source in service.sources.values():
        require_name(source)
    settings = service.settings
    path = settings.api_key_file
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    keys = tuple(line.strip() for line in lines if line.strip())
    if path and not keys:
        raise ValueError(f"--api-key-file must hold a key a line, found none in {path}")
    Server(
        uvicorn.Config(
            make_app(service, keys),
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


class Server(uvicorn.Server):
    """uvicorn's, which raises no signal again that has ended it: the exit status is 0."""

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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what runs when a signal comes; at once if it is interrupted again."""
        if not self.should_exit:
            say("serve: no more requests; those that run are finished")
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True
