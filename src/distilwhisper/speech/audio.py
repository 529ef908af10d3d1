"""Sound as samples: any file that people have, made mono, 16 kHz, float32.

Decoding follows openai-whisper's call of ffmpeg (``-ac 1 -ar 16000 -f s16le``) sample for sample:
downmixing and resampling end in 16-bit integers, which are then divided by 32768. What ffmpeg lets
pass in silence is refused here, by name: files cut short, NaN, packets that cannot be decoded.
"""

import math
import os
import re
import struct
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
import numpy.typing as npt

from distilwhisper.speech.sources import CorruptAudio, OpenFile, Source, digest_of, opened

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 30.0  # what the encoder hears at once
HOP_SAMPLES = 160  # one frame: 10 ms
WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
FRAMES_PER_WINDOW = WINDOW_SAMPLES // HOP_SAMPLES

# By how much the length of a sound may miss what its container, or a manifest, says of it. Whole
# files were found within 0.03 s (codec delay, padding to a packet, times rounded to 1 ms), and an
# mp3 header may count one frame too many, at most 0.072 s. One number serves both comparisons, so
# that a duration taken from probe_duration_s never asks for more than load_samples grants.
LENGTH_TOLERANCE_S = 0.1

Samples: TypeAlias = npt.NDArray[np.float32]  # 1-D, mono, 16 kHz, about [-1, 1]
Pcm: TypeAlias = npt.NDArray[np.int16]  # the same before it is divided by 32768


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What a file of sound is, known without decoding it where that can be.

    Attributes:
        duration_s: its length.
        sample_rate_hz: of the file, not of our samples.
        digest: of the file's bytes, not of the sound: the size, and 64 KiB at the beginning, in the
            middle and at the end.
        n_channels: of the file, not of our samples.
    """

    duration_s: float
    sample_rate_hz: int
    digest: bytes
    n_channels: int = 1


def seconds_to_samples(seconds: float) -> int:
    """Return the sample nearest to a time; a half is rounded up."""
    return math.floor(seconds * SAMPLE_RATE_HZ + 0.5)


def samples_to_seconds(n: int) -> float:
    """Return how long ``n`` samples last."""
    return n / SAMPLE_RATE_HZ


def load_samples(
    source: Source,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    channel: int | None = None,
) -> Samples:
    """Return the samples of a recording, or of a span of it.

    Spans are cut in samples: the same samples come back as from cutting the whole. Where the format
    can be entered exactly (PCM, FLAC) only the span is decoded; elsewhere all that precedes it is.

    Args:
        source: a path, a member of a plain tar as "shard.tar#member", the URL of either
            ("s3://bucket/shard.tar#member"), or an open binary file, read from its beginning (one
            that cannot seek, such as standard input, is read to its end).
        start_s: rounded to a sample.
        duration_s: rounded to samples by itself, so that equal durations have equal lengths; None
            is all that is left. The last 0.1 s of it may lie beyond the end, and is then cut.
        channel: of the file's channels, counted from 0, the one to take; None mixes them all.

    Raises:
        FileNotFoundError: no such file.
        MissingStorage: a package must be installed to read this URL.
        CorruptAudio: nothing in it can be decoded, or not all of it; a shard lacks the member; the
            span lies beyond the end; there is no such channel.
        ValueError: start_s or duration_s is negative, zero samples long, or not a number.
    """
    start, stop = _span(start_s, duration_s)
    return _joined(list(_pcm(source, start=start, stop=stop, channel=channel)))


def stream_samples(
    source: Source,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    channel: int | None = None,
    block_s: float = WINDOW_S,
) -> Iterator[Samples]:
    """Yield a recording, or a span of it, in blocks of equal length, the last one shorter.

    No more than a block is in memory, whatever the length of the recording.

    Joined, the blocks are what ``load_samples`` returns. Nothing is opened before the first block
    is asked for, and a file cut short is known only at its end, after the last whole block.

    Args:
        source: as for ``load_samples``.
        start_s: as for ``load_samples``.
        duration_s: as for ``load_samples``.
        channel: as for ``load_samples``.
        block_s: length of a block, at least one sample.

    Raises:
        FileNotFoundError, CorruptAudio: as ``load_samples``.
        ValueError: as ``load_samples``, or block_s is shorter than one sample.
    """
    start, stop = _span(start_s, duration_s)
    size = _length(block_s)
    held: list[Pcm] = []
    n_held = 0
    for piece in _pcm(source, start=start, stop=stop, channel=channel):
        held.append(piece)
        n_held += len(piece)
        while n_held >= size:
            joined = np.concatenate(held)
            yield _joined([joined[:size]])
            held, n_held = [joined[size:]], n_held - size
    if n_held:
        yield _joined(held)


def probe_duration_s(source: Source) -> float:
    """Return the length of a recording in seconds, decoding it only where it must.

    What the container states is within 0.1 s of the samples of a whole file. Formats that state
    nothing, or only an estimate (an mp3 without a Xing header, raw AAC), are decoded to the end.

    Raises:
        FileNotFoundError, CorruptAudio: as ``load_samples``; but without decoding a file cut
            short is rarely noticed.
    """
    with opened(source) as (file, name), _Sound(file, name) as sound:
        return sound.duration_s()


def probe_audio(source: Source) -> AudioFacts:
    """Return what a recording is; its length as by ``probe_duration_s``.

    Raises:
        FileNotFoundError, CorruptAudio: as ``probe_duration_s``.
    """
    with opened(source) as (file, name):
        digest = digest_of(file)
        with _Sound(file, name) as sound:
            return AudioFacts(sound.duration_s(), sound.rate_hz, digest, sound.n_channels)


def write_wav(path: str | Path, samples: Samples) -> None:
    """Write samples as a mono 16 kHz 16-bit wav file; what lies outside [-1, 1] is clipped.

    The file appears under its name when it is whole. What ``load_samples`` gave comes back equal.

    Raises:
        ValueError: no samples, or one of them is NaN or infinite.
    """
    if not len(samples) or not np.isfinite(samples).all():
        raise ValueError(
            f"{path}: a wav file needs at least one sample and finite ones, "
            f"found {np.isfinite(samples).sum()} finite of {len(samples)}"
        )
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file, wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(SAMPLE_RATE_HZ)
        wav.writeframes(pcm.tobytes())
    temporary.replace(path)


def _span(start_s: float, duration_s: float | None) -> tuple[int, int | None]:
    """Return the span as samples, [start, stop)."""
    if not 0.0 <= start_s < math.inf:
        raise ValueError(f"start_s must be a time of zero or more, found {start_s}")
    start = seconds_to_samples(start_s)
    return start, None if duration_s is None else start + _length(duration_s)


def _length(duration_s: float) -> int:
    if not 0.0 < duration_s < math.inf or not seconds_to_samples(duration_s):
        raise ValueError(f"a length must be at least one sample, found {duration_s} s")
    return seconds_to_samples(duration_s)


def _joined(pieces: list[Pcm]) -> Samples:
    samples = np.empty(sum(len(piece) for piece in pieces), dtype=np.float32)
    position = 0
    for piece in pieces:
        samples[position : position + len(piece)] = piece
        position += len(piece)
    samples /= 32768.0
    return samples


def _pcm(
    source: Source, *, start: int = 0, stop: int | None = None, channel: int | None = None
) -> Iterator[Pcm]:
    """Yield the 16-bit samples of [start, stop) in pieces of about a second.

    Raises:
        CorruptAudio: the sound is not whole up to ``stop``, or ends before it.
    """
    with opened(source) as (file, name), _Sound(file, name, channel) as sound:
        position = sound.enter(start)
        for piece in sound.pieces():
            begin = max(start - position, 0)
            end = len(piece) if stop is None else min(stop - position, len(piece))
            if begin < end:
                yield piece[begin:end]
            position += len(piece)
            if stop is not None and position >= stop:
                return
        sound.require_whole(position)
    shortest = start + 1
    if stop is not None:
        shortest = max(shortest, stop - seconds_to_samples(LENGTH_TOLERANCE_S))
    if position < shortest:
        until = "on" if stop is None else f"to {samples_to_seconds(stop):.3f} s"
        raise CorruptAudio(
            f"{name}: a span must lie inside the sound: asked from "
            f"{samples_to_seconds(start):.3f} s {until}, the sound ends at "
            f"{samples_to_seconds(position):.3f} s; correct start_s and duration_s"
        )


class _Sound:
    """The audio stream of an open file, to be decoded once from front to back.

    Attributes:
        stated_s: the length that the container is sure of; None where it says nothing, or guesses.
    """

    def __init__(self, file: OpenFile, name: str, channel: int | None = None) -> None:
        self._name = name
        self._channel = channel  # all are mixed where none is chosen
        self._last_s = 0.0  # end of the last frame by the time stamps, which know of gaps
        self._lost_s = 0.0  # packets that could not be decoded
        self._error: av.FFmpegError | None = None  # of the last of them
        self._container = _container(file, name)
        try:
            self._stream = _audio_stream(self._container, name)
            self._frames: Iterable[av.AudioFrame] = self._decoded()
            self.stated_s = _stated_s(file, name, self._container, self._stream)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "_Sound":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def enter(self, start: int) -> int:
        """Jump to a whole second, at least one second before ``start``, where that is exact.

        Exact are PCM and FLAC files, whose frames know their place and nothing of each other. At a
        whole second the resampler stands as it does at zero, whatever the rate of the file, and it
        remembers a few milliseconds only.

        Returns:
            The position of the first sample that ``pieces`` yields; 0 where no jump was made.
        """
        rate, codec = self._stream.rate, self._stream.codec_context.name
        second = start // SAMPLE_RATE_HZ - 1
        uncompressed = codec == "flac" or codec.startswith("pcm_")
        counted = self._stream.time_base == Fraction(1, rate) and not self._stream.start_time
        if second < 1 or not (uncompressed and counted and self._container.format.name in _SEEKING):
            return 0
        try:
            frames = self._decoded(at=second * rate)
            first = _frame_from(frames, second * rate)
        except CorruptAudio:
            first = None
        if first is None:
            # Damaged, or cut short before that place. From the beginning we can say where.
            self._lost_s = 0.0
            self._frames = self._decoded(at=0)
            return 0
        self._frames = chain([first], frames)
        return second * SAMPLE_RATE_HZ

    def pieces(self) -> Iterator[Pcm]:
        """Yield mono 16 kHz 16-bit samples in pieces of about a second.

        Raises:
            CorruptAudio: NaN or infinite samples, channels without a known downmix, or more than a
                moment that cannot be decoded.
        """
        # A stream may change its form on the way, as broadcasts do between advert and programme.
        # Each run of one form is resampled by itself, as by ffmpeg.
        for _, frames in groupby(self._frames, key=_form):
            # Mono and 16 bits in one step: left to float, a downmix of stereo is 3 dB too loud.
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
            for frame in _second_by_second(frames):
                self._require_finite(frame)
                try:
                    resampled = resampler.resample(self._chosen(frame))
                except av.FFmpegError as error:
                    raise CorruptAudio(
                        f"{self._name}: cannot be made mono: found {frame.layout.name}, "
                        f"{frame.format.name}, {frame.sample_rate} Hz; choose channels and "
                        "write them to a file of their own"
                    ) from error
                yield from (piece.to_ndarray()[0] for piece in resampled)
            yield from (piece.to_ndarray()[0] for piece in resampler.resample(None))

    @property
    def rate_hz(self) -> int:
        """Sample rate of the file."""
        return self._stream.rate

    @property
    def n_channels(self) -> int:
        """Channels of the file."""
        return self._stream.codec_context.layout.nb_channels

    def duration_s(self) -> float:
        """Return the length as stated; where nothing is, decode all of it and count.

        Raises:
            CorruptAudio: as ``pieces`` and ``require_whole``.
        """
        if self.stated_s is not None:
            return self.stated_s
        n_decoded = sum(len(piece) for piece in self.pieces())
        self.require_whole(n_decoded)
        return samples_to_seconds(n_decoded)

    def require_whole(self, n_decoded: int) -> None:
        """Refuse a sound that gave nothing, or less than its container states.

        Gaps in a recording are not missing: the time stamps have passed over them.

        Raises:
            CorruptAudio: with the stated and the decoded length.
        """
        decoded_s = samples_to_seconds(n_decoded)
        if not n_decoded:
            codec = self._stream.codec_context.name
            reason = f" ({self._error.strerror})" if self._error else ""
            raise CorruptAudio(
                f"{self._name}: zero samples at 16 kHz came out of {codec} at "
                f"{self._stream.rate} Hz{reason}; leave the file out"
            )
        end_s = max(decoded_s, self._last_s)
        if self.stated_s is not None and self.stated_s - end_s > LENGTH_TOLERANCE_S:
            raise CorruptAudio(
                f"{self._name}: the container states {self.stated_s:.3f} s, "
                f"{decoded_s:.3f} s could be decoded; the file was cut short: fetch it again"
            )

    def _decoded(self, at: int | None = None) -> Iterator[av.AudioFrame]:
        """Yield frames as they come, passing over a few packets that cannot be decoded."""
        time_base = self._stream.time_base or Fraction(0)
        start = self._stream.start_time or 0
        try:
            if at is not None:
                self._container.seek(at, stream=self._stream)
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    self._error = error
                    self._lost_s += float((packet.duration or 0) * time_base)
                    if self._lost_s > LENGTH_TOLERANCE_S:
                        raise
                    continue
                for frame in frames:
                    if frame.pts is not None:
                        end_s = float((frame.pts - start) * time_base)
                        self._last_s = end_s + frame.samples / frame.sample_rate
                    yield frame
        except av.FFmpegError as error:
            whole = "" if self.stated_s is None else f" of {self.stated_s:.3f}"
            raise CorruptAudio(
                f"{self._name}: cannot be decoded beyond {self._last_s:.3f}{whole} s "
                f"({error.strerror}); the file is damaged or was cut short: fetch it again"
            ) from error

    def _chosen(self, frame: av.AudioFrame) -> av.AudioFrame:
        """Return a frame's chosen channel; all of it where none is chosen.

        Raises:
            CorruptAudio: it has no such channel.
        """
        n_channels, channel = frame.layout.nb_channels, self._channel
        if channel is None:
            return frame
        if channel >= n_channels:
            raise CorruptAudio(
                f"{self._name}: has no channel {channel}, found {n_channels}, counted from 0"
            )
        values = frame.to_ndarray()
        rows = values if frame.format.is_planar else values.reshape(-1, n_channels).T
        row = np.ascontiguousarray(rows[channel : channel + 1])
        chosen = av.AudioFrame.from_ndarray(row, format=frame.format.name, layout="mono")
        chosen.sample_rate = frame.sample_rate
        return chosen

    def _require_finite(self, frame: av.AudioFrame) -> None:
        # Conversion to integers would make an ordinary number of it.
        if frame.format.name.startswith(("flt", "dbl")):
            values = frame.to_ndarray()
            if not np.isfinite(values).all():
                raise CorruptAudio(
                    f"{self._name}: samples must be finite, found NaN or infinity in "
                    f"{np.count_nonzero(~np.isfinite(values))} values; write the file anew"
                )


def _form(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _second_by_second(frames: Iterable[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """Join short frames: each call of the resampler costs as much as some thousand samples."""
    fifo = av.AudioFifo()
    for frame in frames:
        frame.pts = None  # the queue would refuse gaps
        fifo.write(frame)
        if fifo.samples >= frame.sample_rate:
            yield _taken(fifo, fifo.samples)
    if fifo.samples:
        yield _taken(fifo, fifo.samples)


def _frame_from(frames: Iterator[av.AudioFrame], sample: int) -> av.AudioFrame | None:
    """Take frames up to the one that holds a sample, and return them from that sample on.

    Returns:
        None where the frames begin behind the sample, or end before it.
    """
    fifo = av.AudioFifo()
    n_before = 0
    for frame in frames:
        if not fifo.samples:
            if frame.pts is None or frame.pts > sample:
                return None
            n_before = sample - frame.pts
        frame.pts = None
        fifo.write(frame)
        if fifo.samples > n_before:
            if n_before:
                _taken(fifo, n_before)
            return _taken(fifo, fifo.samples)
    return None


def _taken(fifo: av.AudioFifo, n: int) -> av.AudioFrame:
    frame = fifo.read(n)
    assert frame is not None
    return frame


def _container(file: OpenFile, name: str) -> av.container.InputContainer:
    try:
        # Without a protocol, a playlist that somebody sends us cannot make us open other files.
        # Tags in an unknown encoding are no reason to refuse a sound.
        return av.open(
            file, "r", metadata_errors="ignore", container_options={"protocol_whitelist": "none"}
        )
    except av.FFmpegError as error:
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        raise CorruptAudio(
            f"{name}: holds no sound that can be decoded: found {n_bytes} bytes, "
            f"the first of them {file.read(12)!r} ({error.strerror})"
        ) from error


def _audio_stream(container: av.container.InputContainer, name: str) -> av.AudioStream:
    stream = container.streams.best("audio")
    if stream is None:
        found = ", ".join(stream.type for stream in container.streams) or "none"
        raise CorruptAudio(
            f"{name}: needs an audio stream, found a {container.format.name} file whose streams "
            f"are: {found}"
        )
    if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
        raise CorruptAudio(f"{name}: no decoder for its audio stream; convert it to wav or flac")
    return stream


# Formats whose index or constant rate leads to the sample asked for, and to no other.
_SEEKING = frozenset({"aiff", "au", "caf", "flac", "w64", "wav"})

# Formats whose header or index holds the length, and not an estimate from a bit rate.
_STATING = frozenset({"aiff", "au", "flac", "g722", "mov,mp4,m4a,3gp,3g2,mj2", "ogg", "w64"})


def _stated_s(
    file: OpenFile, name: str, container: av.container.InputContainer, stream: av.AudioStream
) -> float | None:
    """Return the length of the audio stream where the container is sure of it.

    libav's own number will not do alone: for wav and Ogg it follows what is left of a file that
    was cut short; for an mp3 without a Xing header, raw AAC and others it is guessed from a bit
    rate (found 12.9 s for 9.0); of Matroska it is the end of the longest stream.
    """
    position = file.tell()
    try:
        kind = container.format.name
        if kind == "wav":
            return _wav_s(file) if stream.codec_context.name.startswith("pcm_") else None
        if kind == "matroska,webm":
            return _matroska_s(container, stream)
        if kind == "ogg":
            _require_last_page(file, name)
        if kind in _STATING or (kind == "mp3" and _has_frame_count(file)):
            return float((stream.duration or 0) * (stream.time_base or 0)) or None
        return None
    finally:
        file.seek(position)


def _wav_s(file: OpenFile) -> float | None:
    """Return what the header of a PCM wav file says, whether or not so much follows."""
    byte_rate = 0
    position = 12
    while True:
        file.seek(position)
        header = file.read(24)
        if len(header) < 8:
            return None
        kind, size = struct.unpack_from("<4sI", header)
        if kind == b"fmt " and len(header) == 24:
            # The header's own byte rate is wrong in some files, and no decoder reads it.
            _, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", header, 8)
            byte_rate = rate * channels * ((bits + 7) // 8)
        if kind == b"data":
            # Writers to a pipe leave the size zero or near one of two limits.
            known = 0 < size < 0x7FFF_0000 and byte_rate > 0
            return size / byte_rate if known else None
        position += 8 + size + size % 2


def _matroska_s(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    """Return the length from the stream's own tag, or the file's if it has no other stream."""
    file_s = (container.duration or 0) / av.time_base
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d*)?)", stream.metadata.get("DURATION", ""))
    if tag:
        end_s = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        end_s = min(end_s, file_s) if file_s else end_s
    elif len(container.streams) == 1:
        end_s = file_s
    else:
        return None
    return end_s - float((stream.start_time or 0) * (stream.time_base or 0)) if end_s else None


def _require_last_page(file: OpenFile, name: str) -> None:
    """Refuse an Ogg file whose last page is not all there (RFC 3533, section 6)."""
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, n_bytes - 65_307))  # the longest page
    tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    n_parts = page[26] if len(page) > 26 else 255
    wanted = 27 + n_parts + sum(page[27 : 27 + n_parts])
    if page.startswith(b"OggS") and len(page) < wanted:
        raise CorruptAudio(
            f"{name}: the last Ogg page must have {wanted} bytes, found {len(page)}; "
            "the file was cut short: fetch it again"
        )


def _has_frame_count(file: OpenFile) -> bool:
    """Tell whether the first frame of an mp3 is a Xing, Info or VBRI header."""
    file.seek(0)
    head = file.read(10)
    if head.startswith(b"ID3") and len(head) == 10:
        a, b, c, d = head[6:]  # seven bits each
        file.seek(10 + (a << 21 | b << 14 | c << 7 | d))
    else:
        file.seek(0)
    first_frame = file.read(2048)
    return any(mark in first_frame for mark in (b"Xing", b"Info", b"VBRI"))
