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
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import IO, TypeAlias

import av
import numpy as np

from distilwhisper.serving.errors import ApiError
from distilwhisper.serving.settings import ServeSettings
from distilwhisper.speech.audio import Samples, stream_samples
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.speech.units import samples_to_seconds, seconds_to_samples

AT_ONCE = 2  # processes

# What is odd about the sound that a process has written; why it has written none; or nothing, as
# its time was over or it died.
Answer: TypeAlias = list[str] | ApiError | None


class UploadedRecording(HeldRecording):
    """A recording in a file that may have no name any more: it is gone when nobody holds it."""

    def __init__(self, file: IO[bytes], notes: Sequence[str]) -> None:
        # A private mapping, as torch warns of samples that cannot be written to.
        super().__init__(np.asarray(np.memmap(file, dtype=np.float32, mode="c")))
        self.notes = notes  # on what is odd about it
        self.duration_s = samples_to_seconds(len(self.samples))


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

    async def decode(self, upload: IO[bytes], name: str) -> UploadedRecording:
        """Return the sound of an upload on disk; libav knows some formats by its name.

        Raises:
            ApiError: it holds no sound that can be decoded, or one beyond a limit.
        """
        with tempfile.TemporaryFile() as pcm:
            async with self._free:
                answer = await self._run(upload.fileno(), name, pcm.fileno())
            if isinstance(answer, list):
                return UploadedRecording(pcm, answer)
        raise answer or ApiError(
            422,
            f"{name}: decoding it to sound must take at most {self._settings.sound_timeout_s:g} s "
            f"and {self._settings.sound_memory_mb} MB, found more, or the decoder broke: convert "
            "it to 16 kHz wav or flac first",
            code="audio_too_costly",
            param="file",
        )

    async def _run(self, upload: int, name: str, pcm: int) -> Answer:
        ours, theirs = self._context.Pipe()
        arguments = (name, theirs, self._settings)
        process = self._context.Process(target=_decode, args=arguments, daemon=True)
        try:
            await asyncio.to_thread(process.start)
            theirs.close()
            files, most_s = (upload, pcm), self._settings.sound_timeout_s
            return await asyncio.to_thread(_ask, ours, files, most_s)
        finally:
            if process.pid is not None:
                process.kill()
                process.join()
                process.close()


def _ask(process: Connection, files: Sequence[int], timeout_s: float) -> Answer:
    """Give a process its open files, and wait for its answer."""
    with process:
        try:
            for file in files:
                send_handle(process, file, None)
            return process.recv() if process.poll(timeout_s) else None
        except (EOFError, ConnectionError):
            return None


def _decode(name: str, server: Connection, settings: ServeSettings) -> None:
    """The process: send what it has decoded, or the error that the caller gets."""
    import resource

    upload, pcm = recv_handle(server), recv_handle(server)
    n_most = seconds_to_samples(settings.max_duration_s)
    for kind, most in (
        (resource.RLIMIT_AS, settings.sound_memory_mb << 20),
        (resource.RLIMIT_CPU, int(settings.sound_timeout_s) + 1),
        (resource.RLIMIT_FSIZE, (n_most + seconds_to_samples(60.0)) * np.float32().nbytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    n_samples, notes = 0, list[str]()
    try:
        with io.FileIO(upload) as raw, os.fdopen(pcm, "wb") as out:
            raw.name = name  # libav knows formats without a header by it
            file = io.BufferedReader(raw)
            for block in stream_samples(file, on_note=lambda note: notes.append(note.text)):
                out.write(block.tobytes())
                n_samples += len(block)
                if n_samples > n_most:
                    message = (
                        f"{name}: a recording must last at most {settings.max_duration_s:g} s, "
                        "found more: cut it, and send it in parts"
                    )
                    server.send(ApiError(413, message, code="audio_too_long", param="file"))
                    return
        server.send(notes)
    except CorruptAudio as error:
        server.send(ApiError(400, str(error), code="invalid_audio", param="file"))


def resampled(resampler: av.AudioResampler, frame: av.AudioFrame) -> Samples:
    """Return what a frame adds to the sound that comes out of a resampler to 16-bit samples."""
    parts = [part.to_ndarray().tobytes() for part in resampler.resample(frame)]
    return pcm_samples(b"".join(parts))


def pcm_samples(pcm: bytes) -> Samples:
    """Return 16-bit samples, little-endian, as numbers of about [-1, 1]."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32768.0)
