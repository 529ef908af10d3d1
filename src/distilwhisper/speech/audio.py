"""Sound as samples: any file that people have, made mono, 16 kHz, float32.

Decoding follows openai-whisper's call of ffmpeg (``-ac 1 -ar 16000 -f s16le``) sample for sample:
downmixing and resampling end in 16-bit integers, which are then divided by 32768. What ffmpeg lets
pass in silence is named here: files cut short, NaN, packets that cannot be decoded. Unlike it, we
keep the clock of a file: sound that begins late, and holes, have their silence.
"""

import io
import math
import os
import wave
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from distilwhisper.files import write_atomic
from distilwhisper.speech import containers
from distilwhisper.speech.containers import DEFAULT
from distilwhisper.speech.containers import LENGTH_TOLERANCE_S as LENGTH_TOLERANCE_S
from distilwhisper.speech.containers import Choice as Choice
from distilwhisper.speech.sources import CorruptAudio, OpenFile, Source, digest_of, opened
from distilwhisper.speech.units import (
    SAMPLE_RATE_HZ,
    WINDOW_S,
    samples_to_seconds,
    seconds_to_samples,
)

TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")  # text and pictures among an mp3's frames
MAX_NOTES = 20  # on places in one file
OVERLAP_S = 1.0  # by which frames may run ahead of their clock before it counts as set anew
SILENT_PEAK = 10  # of 32768: -70 dB
LOUDEST = 16.0  # floats beyond this were never scaled: sound that is too loud stays below
MOST_CHANNELS = 8  # of which a mean is worth having
CANCELLED = 0.1  # of the power that the sum of unrelated channels has

Samples: TypeAlias = npt.NDArray[np.float32]  # 1-D, mono, 16 kHz, about [-1, 1]
Pcm: TypeAlias = npt.NDArray[np.int16]  # the same before it is divided by 32768
Row = TypeVar("Row", Samples, Pcm)
Rows: TypeAlias = npt.NDArray[Any]  # (channels, samples), of any type


@dataclass(frozen=True, slots=True)
class Note:
    """A fault or peculiarity of a file's sound, and where it is."""

    text: str  # without the file's name
    is_damage: bool = False  # sound is missing that should be there
    # From when to when there is no sound, and silence stands in its place
    holes_s: tuple[tuple[float, float], ...] = ()


OnNote: TypeAlias = Callable[[Note], None] | None  # without it, damage is refused


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """Properties of a file of sound, known without decoding it where that can be."""

    duration_s: float
    sample_rate_hz: int  # of the file, not of our samples
    digest: bytes  # of the file's bytes, not of the sound; see digest_of
    n_channels: int = 1  # of the file, not of our samples


def load_samples(
    source: Source,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    choice: Choice = DEFAULT,
) -> Samples:
    """Return the samples of a recording, or of a span of it.

    Spans are cut in samples: the same samples come back as from cutting the whole. Where the format
    can be entered exactly (PCM, FLAC) only the span is decoded; elsewhere all that precedes it is.
    Its start and its duration are rounded to samples each by itself, so that equal durations have
    equal lengths; None is all that is left. The last 0.1 s may lie beyond the end, and is then cut.

    A source is a path, a member of a plain tar as "shard.tar#member", the URL of either
    ("s3://bucket/shard.tar#member"), or an open binary file, read from its beginning (one that
    cannot seek, such as standard input, is read to its end).

    Raises:
        FileNotFoundError: no such file.
        MissingExtra: a package must be installed to read this URL.
        CorruptAudio: nothing in it can be decoded, or not all of it; a shard lacks the member; the
            span lies beyond the end; what was chosen is not there.
        ValueError: start_s or duration_s is negative, zero samples long, or not a number.
    """
    blocks = stream_samples(source, start_s=start_s, duration_s=duration_s, choice=choice)
    return np.concatenate(list(blocks))


def stream_samples(
    source: Source,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    block_s: float = WINDOW_S,
    choice: Choice = DEFAULT,
    on_note: OnNote = None,
) -> Iterator[Samples]:
    """Yield a recording, or a span of it, in blocks of equal length, the last one shorter.

    Joined, the blocks are what :func:`load_samples` returns. No more than one is in memory. Nothing
    is opened before the first block is asked for, and a file cut short is known only at its end,
    after the last whole block.

    With ``on_note``, which is called with faults and peculiarities, all that can be decoded is
    yielded, at its time, with silence for what is lost; without it, a damaged file is refused.

    It raises as ``load_samples``; with ``on_note``, where nothing in it can be decoded, or what was
    chosen is not there. A block of less than a sample is a ValueError.
    """
    if not 0.0 <= start_s < math.inf:
        raise ValueError(f"start_s must be a time of zero or more, found {start_s}")
    start, size = seconds_to_samples(start_s), _length(block_s)
    stop = math.inf if duration_s is None else start + _length(duration_s)
    with open_track(source, choice, on_note) as sound:
        for block in in_blocks(sound.span(start, stop), size):
            yield block.astype(np.float32) / np.float32(32768)


def in_blocks(pieces: Iterable[Row], size: int) -> Iterator[Row]:
    """Yield the same numbers in rows of equal length, the last one shorter."""
    held: list[Row] = []
    for piece in pieces:
        room = size - sum(map(len, held))
        while len(piece) >= room:
            yield np.concatenate([*held, piece[:room]])
            held, piece, room = [], piece[room:], size
        held.append(piece)
    if any(map(len, held)):
        yield np.concatenate(held)


@contextmanager
def open_track(
    source: Source, choice: Choice = DEFAULT, on_note: OnNote = None
) -> Iterator["AudioTrack"]:
    """Open a track; what cannot be opened raises as for ``load_samples``."""
    with opened(source) as (file, name), containers.open_container(file, name) as container:
        yield AudioTrack(file, name, container, choice, on_note)


def probe_audio(source: Source) -> AudioFacts:
    """Return the properties of a recording; its length as by ``AudioTrack.duration_s``.

    It raises as ``load_samples``; but without decoding a file cut short is rarely noticed.
    """
    with open_track(source) as sound:
        duration_s = sound.duration_s()
        return AudioFacts(duration_s, sound.rate_hz, digest_of(sound.file), sound.n_channels)


def write_wav(path: str | Path, samples: Samples) -> None:
    """Write samples as :func:`wav_bytes`; the file appears under its name when it is whole.

    What ``load_samples`` gave comes back equal. No samples, NaN and infinity are a ValueError.
    """
    if not len(samples) or not np.isfinite(samples).all():
        n_finite = np.isfinite(samples).sum()
        raise ValueError(
            f"{path}: a wav file needs finite samples, found {n_finite} of {len(samples)} finite"
        )
    write_atomic(Path(path), wav_bytes(samples))


def wav_bytes(samples: Samples) -> bytes:
    """Return samples as a mono 16 kHz 16-bit wav file; what lies outside [-1, 1] is clipped."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(SAMPLE_RATE_HZ)
        wav.writeframes(to_pcm(samples).astype("<i2").tobytes())
    return file.getvalue()


def to_pcm(samples: Samples) -> Pcm:
    """Return samples as 16-bit integers; what lies outside [-1, 1] is clipped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _length(duration_s: float) -> int:
    if not 0.0 < duration_s < math.inf or not seconds_to_samples(duration_s):
        raise ValueError(f"a length must be at least one sample, found {duration_s} s")
    return seconds_to_samples(duration_s)


class _Decoded(NamedTuple):
    """A frame, and the state of its packets."""

    frame: av.AudioFrame
    time_s: float | None = None  # as stamped
    lost_s: float = 0.0  # packets just before it that could not be decoded
    is_damaged: bool = False  # there were such packets, or some that libav calls corrupt
    skipped_bytes: int = 0  # between the last packet and its own


class AudioTrack:
    """An audio track that :func:`open_track` has opened, to be decoded once from front to back.

    Every frame is put at its time on the file's clock. The clock begins where the container's
    does; sound that begins later and holes are filled with silence. A clock that goes back, or on
    by more than an hour, was set anew: then the frames just follow each other.
    """

    def __init__(
        self, file: OpenFile, name: str, container: InputContainer, choice: Choice, on_note: OnNote
    ) -> None:
        self.file, self.name, self._container, self._choice = file, name, container, choice
        self._is_strict, self._on_note = on_note is None, on_note or (lambda _: None)
        self._notes: list[Note] = []  # on places in the file
        self._kind = container.format.name
        self._stream = containers.audio_track(container, name, choice.track)
        # None: not known for sure
        self.stated_s = containers.stated_end_s(file, container, self._stream)
        self._zero_s = containers.clock_zero_s(container)
        self._frames: Iterable[_Decoded] = self._decoded()
        self._end_s = self._stamped_end_s = 0.0  # of the last frame; and as stamped
        self._n_decoded = self._peak = 0  # samples that came out of the decoder, and their greatest
        self._cancelled_from_s = self._cancelled_s = 0.0
        self._lost_s = self._tail_s = 0.0  # in all; of packets behind the last frame
        self._skipped_s = 0.0  # by a clock that only counts frames
        self._error: av.FFmpegError | None = None  # of the last packet that could not be decoded
        self._bad_from_s = 0.0  # place of the first
        self._stopped_by: av.FFmpegError | OSError | None = None
        self._is_torn = False  # the last packet was not all there
        self._n_bytes = self._good_bytes = 0  # of all packets; of those that were decoded
        self._good_s = 0.0
        if choice.track is None and len(container.streams.audio) > 1:
            number = container.streams.audio.index(self._stream)
            names = containers.track_names(container)
            self._on_note(Note(f"audio track {number} is taken, of {names}"))

    @property
    def rate_hz(self) -> int:
        """Sample rate of the file."""
        return self._stream.rate

    @property
    def n_channels(self) -> int:
        """Channels of the track."""
        return self._stream.codec_context.layout.nb_channels

    def duration_s(self) -> float:
        """Return the length as stated; where nothing is, decode all of it and count.

        What the container states is within 0.1 s of the samples of a whole file. Formats that state
        nothing, or only an estimate (an mp3 without a Xing header, raw AAC), are decoded.
        """
        if self.stated_s is not None:
            return self.stated_s
        return samples_to_seconds(sum(map(len, self.span(0, math.inf))))

    def span(self, start: int, stop: float) -> Iterator[Pcm]:
        """Yield the samples, mono at 16 kHz, from a place to another, in pieces of about a second.

        The sound must reach beyond the first place, and up to 0.1 s before the other, and be
        whole up to there where damage is refused; else it is CorruptAudio.
        """
        position = self._enter(start)
        for piece in self._pieces():
            inside = piece[max(start - position, 0) : int(min(stop - position, len(piece)))]
            if len(inside):
                yield inside
            position += len(piece)
            if position >= stop:
                return
        self._finish()
        least = stop - seconds_to_samples(LENGTH_TOLERANCE_S) if stop < math.inf else 0
        if position < max(start + 1, least):
            start_s, end_s = samples_to_seconds(start), samples_to_seconds(position)
            until = f"to {stop / SAMPLE_RATE_HZ:.3f} s" if stop < math.inf else "on"
            raise CorruptAudio(
                f"{self.name}: a span must lie inside the sound: asked from {start_s:.3f} s "
                f"{until}, the sound ends at {end_s:.3f} s; correct start_s and duration_s"
            )

    def _enter(self, start: int) -> int:
        """Jump to a whole second, at least one second before ``start``, where that is exact.

        At a whole second the resampler stands as it does at zero, whatever the rate of the file,
        and it remembers a few milliseconds only. Return the place of the first sample to come.
        """
        second = start // SAMPLE_RATE_HZ - 1
        if second < 1 or not containers.finds_samples(self._container, self._stream):
            return 0
        sample = second * self.rate_hz
        frames = self._decoded(at=sample)
        for frame, *_ in frames:
            if frame.pts is None or frame.pts > sample:
                break
            if frame.pts + frame.samples > sample:
                first = _with_rows(frame, _rows(frame)[:, sample - frame.pts :])
                self._frames = chain([_Decoded(first)], frames)
                self._end_s = float(second)
                return second * SAMPLE_RATE_HZ
        # Damaged, or cut short before that place: found when decoding from the beginning.
        self._frames = self._decoded(at=0)
        return 0

    def _pieces(self) -> Iterator[Pcm]:
        """Yield all that comes, with silence in holes."""
        position, silent_to_s = seconds_to_samples(self._end_s), self._end_s
        # A stream may change its form on the way, as broadcasts do between advert and programme.
        # Each run of one form is resampled by itself, as by ffmpeg.
        for (since_s, _), run in groupby(self._placed(), key=itemgetter(0, 1)):
            if since_s > silent_to_s:
                silent_to_s, hole = since_s, seconds_to_samples(since_s) - position
                for first in range(0, hole, SAMPLE_RATE_HZ):
                    yield np.zeros(min(SAMPLE_RATE_HZ, hole - first), dtype=np.int16)
                position += max(hole, 0)
            for piece in self._resampled(frame for _, _, frame in run):
                yield piece
                position += len(piece)
                self._n_decoded += len(piece)
                self._peak = max(self._peak, _peak(piece))

    def _finish(self) -> None:
        """Note what is known at the end alone."""
        if not self._n_decoded:
            error = self._stopped_by or self._error
            reason = f" ({error.strerror})" if error else ""
            raise CorruptAudio(
                f"{self.name}: zero samples at 16 kHz came out of {self._stream.codec_context.name}"
                f" at {self._stream.rate} Hz{reason}; leave the file out"
            )
        self._note_end()
        if more := self._notes[MAX_NOTES:]:
            text = f"{len(more)} more places like these; {self._lost_s:.2f} s lost in all"
            holes_s = tuple(hole_s for note in more for hole_s in note.holes_s)
            self._on_note(Note(text, any(note.is_damage for note in more), holes_s))
        if self._cancelled_s:
            place = f"in {self._cancelled_s:.0f} s from {self._cancelled_from_s:.2f} s on"
            text = f"the channels cancel each other when mixed, {place}: the loudest one was taken"
            self._on_note(Note(f"{text} there; choose a channel to have it throughout"))
        if not self._is_strict and self._peak <= SILENT_PEAK:
            self._note_other_tracks()

    def _note_end(self) -> None:
        """Note what is missing at the end."""
        end_s = max(self._end_s, self._stamped_end_s)
        missing_s = (self.stated_s or 0.0) - end_s
        n_missing = containers.missing_page_bytes(self.file) if self._kind == "ogg" else 0
        is_cut = n_missing or self._is_torn or self._kind in containers.SEEKING - {"flac"}
        cut = "; the file was cut short" if is_cut else ""
        if missing_s > LENGTH_TOLERANCE_S:
            self._lost_s += missing_s
            self._damage(
                f"the sound ends at {end_s:.2f} s, the file states {self.stated_s:.2f} s: "
                f"{missing_s:.2f} s are missing{cut}"
            )
        elif n_missing:
            self._damage(
                f"the sound ends at {end_s:.2f} s, and the last Ogg page lacks {n_missing} "
                f"bytes: how much is missing is not known{cut}"
            )
        elif self._kind == "wav" and (n_more := containers.bytes_behind_wav(self.file)):
            self._damage(
                f"the header states {end_s:.2f} s, and {n_more} bytes follow that it does not "
                "count, which may be sound: write the file again with its whole length",
                way_out="",
            )
        elif self._stopped_by:
            self._damage(f"cannot be read beyond {end_s:.2f} s ({self._stopped_by.strerror})")
        elif self._tail_s:
            self._lose(self._tail_s, "could not be decoded")
        elif self._kind == "aac" and self._error:
            # Of this, libav has skipped some without an error.
            lost_s = self._held_s(self.file.seek(0, os.SEEK_END) - self._n_bytes)
            if lost_s > LENGTH_TOLERANCE_S:
                self._lost_s += lost_s
                self._damage(
                    f"about {lost_s:.2f} s are lost, from {self._bad_from_s:.2f} s on: could not "
                    "be decoded; times behind it are too early"
                )

    def _note_other_tracks(self) -> None:
        """Note which other track is not silent."""
        tracks = self._container.streams.audio
        for number, track in enumerate(tracks):
            if track is self._stream:
                continue
            choice = Choice(number)
            with suppress(CorruptAudio), open_track(self.file, choice, lambda _: None) as other:
                if any(_peak(piece) > SILENT_PEAK for piece in other._pieces()):
                    silent = f"audio track {tracks.index(self._stream)} is silent"
                    names = containers.track_names(self._container)
                    text = f"{silent}, and track {number} is not: choose one of {names}"
                    self._on_note(Note(text))
                    return

    def _note(self, text: str, *holes_s: tuple[float, float], is_damage: bool = False) -> None:
        self._notes.append(Note(text, is_damage, holes_s))
        if len(self._notes) <= MAX_NOTES:
            self._on_note(self._notes[-1])

    def _damage(
        self, text: str, *holes_s: tuple[float, float], way_out: str = "; fetch the file again"
    ) -> None:
        if self._is_strict:
            raise CorruptAudio(f"{self.name}: {text}{way_out}")
        self._note(text, *holes_s, is_damage=True)

    def _lose(self, lost_s: float, why: str, *holes_s: tuple[float, float]) -> None:
        """Note that something behind the last frame is lost.

        A few packets in all are no matter: many whole files hold some that cannot be decoded.
        """
        self._lost_s += lost_s
        if self._lost_s > LENGTH_TOLERANCE_S:
            place = f"from {self._end_s:.2f} to {self._end_s + lost_s:.2f} s"
            self._damage(f"{lost_s:.2f} s are lost, {place}: {why}", *holes_s)

    def _decoded(self, at: int | None = None) -> Iterator[_Decoded]:
        """Yield frames as they come, passing over packets that cannot be decoded."""
        unit_s = float(self._stream.time_base or 0)
        lost_s, is_damaged, self._tail_s = 0.0, False, 0.0
        skipped_bytes, position = 0, None
        try:
            if at is not None:
                self._container.seek(at, stream=self._stream)
            for packet in self._container.demux(self._stream):
                length_s = (packet.duration or 0) * unit_s
                if packet.size:
                    self._n_bytes += packet.size
                    self._is_torn = packet.is_corrupt
                    is_damaged |= packet.is_corrupt
                    if packet.pos is not None:
                        skipped_bytes = 0 if position is None else packet.pos - position
                        position = packet.pos + packet.size
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    if not self._error:
                        self._bad_from_s = self._end_s
                    self._error, is_damaged = error, True
                    lost_s += length_s
                    if self._kind in containers.COUNTED and not bytes(packet).startswith(TAGS):
                        # The clock counted one frame, and the bytes may have held more.
                        self._skipped_s += max(self._held_s(packet.size) - length_s, 0.0)
                    continue
                self._good_bytes += packet.size
                self._good_s += length_s
                for frame in frames:
                    pts = frame.pts
                    time_s = None if pts is None else pts * unit_s + self._skipped_s
                    yield _Decoded(frame, time_s, lost_s, is_damaged, skipped_bytes)
                    lost_s, is_damaged = 0.0, False
        except (av.FFmpegError, OSError) as error:
            if self._is_strict and not isinstance(error, av.FFmpegError):
                raise
            self._stopped_by = error
        self._tail_s = lost_s

    def _held_s(self, n_bytes: int) -> float:
        """Return how much sound bytes may have held, by those that were decoded; 0 before any."""
        return n_bytes * self._good_s / self._good_bytes if self._good_bytes else 0.0

    def _placed(self) -> Iterator[tuple[float, tuple[str, str, int], av.AudioFrame]]:
        """Yield each frame behind the time from which on there was no hole, and its form."""
        since_s = self._end_s
        for decoded in self._frames:
            if hole_s := self._hole_s(decoded):
                self._end_s += hole_s
                since_s = self._end_s
            frame = decoded.frame
            yield since_s, (frame.format.name, frame.layout.name, frame.sample_rate), frame
            self._end_s += _length_s(frame)

    def _hole_s(self, decoded: _Decoded) -> float:
        """Return the silence that belongs in front of a frame, and note what there is to note."""
        ahead_s = 0.0 if decoded.time_s is None else decoded.time_s - self._zero_s - self._end_s
        if not self._end_s and ahead_s <= LENGTH_TOLERANCE_S:
            self._zero_s += ahead_s  # codec delay
            ahead_s = 0.0
        elif not -OVERLAP_S <= ahead_s <= containers.LONGEST_HOLE_S:
            self._note(
                f"the file's clock goes {'on' if ahead_s > 0 else 'back'} by {abs(ahead_s):.2f} s "
                f"at {self._end_s:.2f} s: it was set anew, and times are counted on from there"
            )
            self._zero_s += ahead_s
            ahead_s, self.stated_s = 0.0, None  # what is stated is of the other clock
        self._stamped_end_s = self._end_s + ahead_s + _length_s(decoded.frame)
        if ahead_s <= LENGTH_TOLERANCE_S:
            if decoded.lost_s:
                self._lose(decoded.lost_s, "could not be decoded")
            return 0.0
        hole_s = self._end_s, self._end_s + ahead_s
        is_alone = len(self._container.streams) == 1  # so that what libav skipped was of this track
        may_be_skipped = is_alone and 2 * self._held_s(decoded.skipped_bytes) > ahead_s
        if decoded.is_damaged:
            self._lose(ahead_s, "could not be decoded", hole_s)
        elif self._kind in containers.UNBROKEN or may_be_skipped:
            self._lose(ahead_s, "missing from the file", hole_s)
        else:
            self._note(f"the file has no sound from {hole_s[0]:.2f} to {hole_s[1]:.2f} s", hole_s)
        return ahead_s

    def _resampled(self, frames: Iterable[av.AudioFrame]) -> Iterator[Pcm]:
        """Yield what frames of one form become in mono at 16 kHz and 16 bits."""
        # Mono and 16 bits in one step: left to float, a downmix of stereo is 3 dB too loud.
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        begin_s = self._end_s
        for frame in _second_by_second(frames):
            channels = self._chosen(frame, begin_s)
            begin_s += _length_s(frame)
            try:
                pieces = resampler.resample(channels)
            except av.FFmpegError as error:
                raise self._not_mono(frame) from error
            yield from (piece.to_ndarray()[0] for piece in pieces)
        yield from (piece.to_ndarray()[0] for piece in resampler.resample(None))

    def _not_mono(self, frame: av.AudioFrame) -> CorruptAudio:
        return CorruptAudio(
            f"{self.name}: cannot be made mono: found {frame.layout.name}, {frame.format.name}, "
            f"{frame.sample_rate} Hz; choose a channel, or write some to a file of their own"
        )

    def _chosen(self, frame: av.AudioFrame, begin_s: float) -> av.AudioFrame:
        """Return the channel asked for; or all, unless hardly anything would be left of their sum.

        Of three channels and more whose places are not stated, libav takes one for a subwoofer and
        leaves it out: their mean is taken instead.
        """
        n_channels, channel = frame.layout.nb_channels, self._choice.channel
        if channel is not None and channel >= n_channels:
            raise CorruptAudio(
                f"{self.name}: has no channel {channel}, found {n_channels}, counted from 0"
            )
        if frame.format.name.startswith(("flt", "dbl")):
            frame = self._finite(frame, begin_s)
        if n_channels == 1:
            return frame
        rows = _rows(frame)
        if channel is not None:
            return _with_rows(frame, rows[channel : channel + 1])
        has_places = n_channels == 2 or not frame.layout.name.endswith(" channels")
        if not has_places and n_channels > MOST_CHANNELS:
            raise self._not_mono(frame)
        loudest = loudest_if_cancelled(rows)
        if loudest is not None:
            if not self._cancelled_s:
                self._cancelled_from_s = begin_s
            self._cancelled_s += _length_s(frame)
            rows = np.repeat(rows[loudest : loudest + 1], n_channels, axis=0)
        if not has_places:
            mean = rows.mean(axis=0, keepdims=True)
            rows = (mean if rows.dtype.kind == "f" else mean.round()).astype(rows.dtype)
        return frame if loudest is None and has_places else _with_rows(frame, rows)

    def _finite(self, frame: av.AudioFrame, begin_s: float) -> av.AudioFrame:
        """Put silence for NaN and infinity; conversion would make ordinary numbers of them."""
        values = frame.to_ndarray()
        place = f"from {begin_s:.2f} to {begin_s + _length_s(frame):.2f} s"
        if n_bad := np.count_nonzero(~np.isfinite(values)):
            self._damage(f"samples must be finite, found NaN or infinity in {n_bad} values {place}")
            return _with_rows(frame, np.nan_to_num(_rows(frame), posinf=0.0, neginf=0.0))
        peak = max(values.max(), -values.min())
        if peak > LOUDEST:
            self._damage(
                f"samples must lie in about [-1, 1], found {peak:g} {place}: what lies beyond "
                "was clipped; write the file again, divided by its full scale",
                way_out="",
            )
        return frame


def _peak(piece: Pcm) -> int:
    return int(max(piece.max(initial=0), -piece.min(initial=0).astype(int)))


def _length_s(frame: av.AudioFrame) -> float:
    return frame.samples / frame.sample_rate


def _rows(frame: av.AudioFrame) -> Rows:
    values: Rows = frame.to_ndarray()
    return values if frame.format.is_planar else values.reshape(frame.samples, -1).T


def _with_rows(frame: av.AudioFrame, rows: Rows) -> av.AudioFrame:
    """Return a frame with other channels: one, or as many as it has."""
    layout = frame.layout.name if len(rows) == frame.layout.nb_channels else "mono"
    values = rows if frame.format.is_planar else rows.T.reshape(1, -1)
    result = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(values), format=frame.format.name, layout=layout
    )
    result.sample_rate = frame.sample_rate
    return result


def loudest_if_cancelled(rows: Rows) -> int | None:
    """Return the loudest channel, if the channels cancel each other when they are mixed."""
    values = rows.astype(np.float32)
    if rows.dtype.kind in "iu":
        full = 2.0 ** (8 * rows.dtype.itemsize - 1)
        values = values / full - (1.0 if rows.dtype.kind == "u" else 0.0)
    powers = np.square(values).mean(axis=1)
    mixed = np.square(values.sum(axis=0)).mean()
    loudest = int(powers.argmax())
    is_audible = powers[loudest] > (SILENT_PEAK / 32768) ** 2
    return loudest if is_audible and mixed < CANCELLED * powers.sum() else None


def _second_by_second(frames: Iterable[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """Join short frames: each call of the resampler costs as much as some thousand samples."""
    fifo = av.AudioFifo()
    for frame in frames:
        frame.pts = None  # the queue would refuse gaps
        fifo.write(frame)
        yield from fifo.read_many(frame.sample_rate)
    if rest := fifo.read():
        yield rest
