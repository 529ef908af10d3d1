"""Uploads to sound, each in a process of its own: a hostile file cannot take the server down.

The process has the open file, a file to write samples to, and limits on memory, time and what it
writes. It gets no path and opens none. It is forked from a helper that has loaded the decoders,
so that it begins at once.
"""

import asyncio
import io
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from operator import methodcaller
from typing import IO, Any, TypeAlias

import av
import numpy as np

from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.speech.audio import Samples, stream_samples
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.speech.units import samples_to_seconds, seconds_to_samples

BYTES_PER_SAMPLE = 2
AT_ONCE = 2  # processes

# How many samples a process has written, and what is odd about them; why it has written none; or
# nothing, as its time was over or it died.
Answer: TypeAlias = tuple[int, list[str]] | ApiError | None


@dataclass(eq=False)
class PcmRecording:
    """A recording on disk, as 16-bit samples in a file without a name, gone once it is closed."""

    file: IO[bytes]
    n_samples: int
    notes: Sequence[str]  # on what is odd about it

    @property
    def duration_s(self) -> float:
        """Its length."""
        return samples_to_seconds(self.n_samples)

    def read(self, start: int, stop: int) -> Samples:
        """Return a part; any, in any order."""
        n_bytes = max(min(stop, self.n_samples) - start, 0) * BYTES_PER_SAMPLE
        raw = os.pread(self.file.fileno(), n_bytes, start * BYTES_PER_SAMPLE)
        return pcm_samples(raw)

    def reach(self, stop: int) -> int:
        """Return ``stop``, or the length where that is less."""
        return min(stop, self.n_samples)

    def again(self) -> "PcmRecording":
        """Return itself."""
        return self

    def close(self) -> None:
        """Forget the sound."""
        self.file.close()


class SoundDecoder:
    """Decodes uploads, some at a time, within the limits of the settings."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = replace(settings, api_key_file=None)  # a process gets no path
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._free = asyncio.Semaphore(AT_ONCE)

    async def start(self) -> None:
        """Load the decoders, so that the first upload does not wait for them."""
        await asyncio.to_thread(forkserver.ensure_running)

    async def decode(self, upload: IO[bytes], name: str) -> PcmRecording:
        """Return the sound of an upload on disk; libav knows some formats by its name.

        Raises:
            ApiError: it holds no sound that can be decoded, or one beyond a limit.
        """
        pcm = tempfile.TemporaryFile()  # noqa: SIM115  the recording closes it
        try:
            async with self._free:
                answer = await self._run(_Fd(upload.fileno()), name, _Fd(pcm.fileno()))
            if isinstance(answer, tuple):
                return PcmRecording(pcm, *answer)
            raise answer or ApiError(
                422,
                f"{name}: decoding it to sound must take at most "
                f"{self._settings.sound_timeout_s:g} s and {self._settings.sound_memory_mb} MB, "
                "found more, or the decoder broke: convert it to 16 kHz wav or flac first",
                code="audio_too_costly",
                param="file",
            )
        except BaseException:
            pcm.close()
            raise

    async def _run(self, upload: "_Fd", name: str, pcm: "_Fd") -> Answer:
        ours, theirs = self._context.Pipe()
        arguments = (upload, name, pcm, theirs, self._settings)
        process = self._context.Process(target=_decode, args=arguments, daemon=True)
        try:
            await asyncio.to_thread(process.start)
            theirs.close()
            return await asyncio.to_thread(_wait, ours, self._settings.sound_timeout_s)
        finally:
            if process.pid is not None:
                process.kill()
                process.join()
                process.close()


def _wait(answers: Connection, timeout_s: float) -> Answer:
    with answers:
        try:
            return answers.recv() if answers.poll(timeout_s) else None
        except EOFError:
            return None


class _Fd:
    """An open file on its way to another process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return methodcaller("detach"), (DupFd(self._fd),)


def _decode(upload: int, name: str, pcm: int, answers: Connection, settings: ServeSettings) -> None:
    """The process: send what it has decoded, or the error that the caller gets."""
    import resource

    n_most = seconds_to_samples(settings.max_duration_s)
    for kind, most in (
        (resource.RLIMIT_AS, settings.sound_memory_mb << 20),
        (resource.RLIMIT_CPU, int(settings.sound_timeout_s) + 1),
        (resource.RLIMIT_FSIZE, (n_most + seconds_to_samples(60.0)) * BYTES_PER_SAMPLE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    n_samples, notes = 0, list[str]()
    try:
        with io.FileIO(upload) as raw, os.fdopen(pcm, "wb") as out:
            raw.name = name  # libav knows formats without a header by it
            file = io.BufferedReader(raw)
            for block in stream_samples(file, on_note=lambda note: notes.append(note.text)):
                out.write(np.rint(block * 32768.0).astype("<i2").tobytes())
                n_samples += len(block)
                if n_samples > n_most:
                    message = (
                        f"{name}: a recording must last at most {settings.max_duration_s:g} s, "
                        "found more: cut it, and send it in parts"
                    )
                    answers.send(ApiError(413, message, code="audio_too_long", param="file"))
                    return
        answers.send((n_samples, notes))
    except CorruptAudio as error:
        answers.send(ApiError(400, str(error), code="invalid_audio", param="file"))


def resampled(resampler: av.AudioResampler, frame: av.AudioFrame) -> Samples:
    """Return what a frame adds to the sound that comes out of a resampler to 16-bit samples."""
    parts = [part.to_ndarray().tobytes() for part in resampler.resample(frame)]
    return pcm_samples(b"".join(parts))


def pcm_samples(pcm: bytes) -> Samples:
    """Return 16-bit samples, little-endian, as numbers of about [-1, 1]."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32768.0)
