"""The models of a server: loaded when they are asked for, forgotten when they are not."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.errors import DistilwhisperError
from distilwhisper.model.hardware import Hardware
from distilwhisper.progress import say
from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.serving.worker import ModelQueue, Worker

FIRST = "whisper-1"  # what OpenAI calls its only Whisper: here the first model


class Models:
    """Models by name, all with one worker."""

    def __init__(
        self,
        sources: Mapping[str, str],
        decoding: DecodingSettings,
        hardware: Hardware,
        settings: ServeSettings,
        worker: Worker,
    ) -> None:
        self.sources = dict(sources)
        self.began_s = int(time.time())
        self._decoding, self._hardware = decoding, hardware
        self._settings = settings
        self._worker = worker
        self._loaded: dict[str, ModelQueue] = {}
        self.is_ready = False  # until one was loaded, which may be unloaded again
        self._one_at_a_time = asyncio.Lock()

    @property
    def loaded(self) -> list[str]:
        """Names of the models that are in memory."""
        return list(self._loaded)

    @property
    def memory_bytes(self) -> float:
        """Weights that are in memory."""
        return sum(map(_n_bytes, self._loaded.values()))

    def named(self, name: str) -> str:
        """Return the name of a model.

        Raises:
            ApiError: there is none of this name.
        """
        if name in self.sources:
            return name
        if name == FIRST:
            return next(iter(self.sources))
        raise ApiError(
            404,
            f"model must be one of {', '.join(self.sources)}, found {name!r}",
            code="model_not_found",
            param="model",
        )

    async def get(self, name: str) -> ModelQueue:
        """Return a model, loading it if need be.

        Raises:
            ApiError: it cannot be loaded, or there is no memory for it now.
        """
        async with self._one_at_a_time:
            if name not in self._loaded:
                queue = await asyncio.to_thread(self._load, name)
                self._make_room(_n_bytes(queue))
                self._loaded[name] = queue
                self.is_ready = True
            return self._loaded[name]

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[ModelQueue]:
        """Hold a model in memory, loading it if need be.

        Raises:
            ApiError: as :meth:`get`.
        """
        queue = await self.get(name)
        queue.n_users += 1
        try:
            yield queue
        finally:
            queue.n_users -= 1
            queue.used_s = time.monotonic()

    async def unload_idle(self) -> None:
        """Forget models that were not used for long; runs until it is cancelled."""
        idle_s = self._settings.idle_unload_s
        while idle_s is not None:
            await asyncio.sleep(min(idle_s / 4, 10.0))
            for name, queue in list(self._loaded.items()):
                if queue.is_unused and time.monotonic() - queue.used_s > idle_s:
                    self._unload(name)

    def _load(self, name: str) -> ModelQueue:
        source, hardware = self.sources[name], self._hardware
        try:
            transcriber = Transcriber.from_model(source, self._decoding, hardware)
        except (DistilwhisperError, OSError, ValueError) as error:
            say(f"serve: {name} cannot be loaded: {error}")
            raise ApiError(
                500, f"the model {name} cannot be loaded: see the server's log", code="model_broken"
            ) from error
        say(f"serve: {name} is loaded ({hardware.describe()})")
        return ModelQueue(transcriber, self._worker.metrics)

    def _make_room(self, n_bytes: float) -> None:
        most = self._settings.max_memory_gb
        while most is not None and self._loaded and self.memory_bytes + n_bytes > most * 1e9:
            idle = [name for name, queue in self._loaded.items() if queue.is_unused]
            if not idle:
                raise ApiError(
                    503,
                    f"models must take at most {most:g} GB together, and those that are loaded "
                    "are at work: try again later",
                    code="models_busy",
                )
            self._unload(min(idle, key=lambda name: self._loaded[name].used_s))

    def _unload(self, name: str) -> None:
        self._worker.remove(self._loaded.pop(name))
        say(f"serve: {name} is unloaded")


def _n_bytes(queue: ModelQueue) -> float:
    model = queue.transcriber.checkpoint.model
    return float(sum(p.numel() * p.element_size() for p in model.parameters()))


def fitted(transcriber: Transcriber, settings: DecodingSettings) -> Transcriber:
    """Return a model under a request's settings.

    Raises:
        ApiError: they do not fit the model.
    """
    try:
        return transcriber.with_settings(settings)
    except ValueError as error:
        param = "language" if "language" in str(error) else None
        raise ApiError(400, str(error), code="invalid_value", param=param) from error
