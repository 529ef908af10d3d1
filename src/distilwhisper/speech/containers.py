"""What libav opens: a container, the track that is wanted of it, and the length that it states."""

import math
import os
import re
import struct
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer

from distilwhisper.languages import media_codes
from distilwhisper.speech.sources import CorruptAudio, OpenFile

# By how much the length of a sound may differ from that stated by its container, or a manifest, and
# times of its frames from their number. Whole files were found within 0.03 s (codec delay,
# padding to a packet, times rounded to 1 ms), and an mp3 header may count one frame too many, at
# most 0.072 s. One number serves all, so that a duration taken from probe_audio never asks for
# more than load_samples grants.
LENGTH_TOLERANCE_S = 0.1

# The sounds of speech are told apart by what lies above 500 Hz, which a lower rate than the first
# cannot hold. No recorder has a higher rate than the second.
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000, 768_000

LONGEST_HOLE_S = 3600.0  # a silence that time stamps ask for is believed up to this length

# Formats, by libav's names.
SEEKING = frozenset({"aiff", "au", "caf", "flac", "w64", "wav"})  # any sample is found at once
UNBROKEN = frozenset({"aac", "flac", "mp3", "ogg"})  # what is missing between frames was lost
COUNTED = frozenset({"aac", "mp3"})  # time stamps are made by counting the frames that are found
# The header or index holds the length, and not an estimate from a bit rate.
_STATING = frozenset({"aiff", "au", "flac", "g722", "mov,mp4,m4a,3gp,3g2,mj2", "ogg"})
# The clock begins at zero; that of others with what comes first.
_FROM_ZERO = frozenset({"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"})


@dataclass(frozen=True, slots=True)
class Choice:
    """What is taken of a file that holds more than one sound."""

    # A number, from 0, or a language; none: the one that the file marks as its default
    track: int | str | None = None
    channel: int | None = None  # from 0; none: all of them mixed


DEFAULT = Choice()


def open_container(file: OpenFile, name: str) -> InputContainer:
    """Open a container; one that libav does not know is CorruptAudio."""
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not n_bytes:
        raise CorruptAudio(
            f"{name}: holds no sound: found 0 bytes, the file is empty; leave it out"
        )
    try:
        # Without a protocol, a playlist that somebody sends us cannot make us open other files.
        # Tags in an unknown encoding are no reason to refuse a sound.
        return av.open(
            file, "r", metadata_errors="ignore", container_options={"protocol_whitelist": "none"}
        )
    except av.FFmpegError as error:
        file.seek(0)
        head = file.read(12)
        cut = "; its index is missing, as where a recording was cut short"
        raise CorruptAudio(
            f"{name}: holds no sound that can be decoded: found {n_bytes} bytes, the first of "
            f"them {head!r} ({error.strerror}){cut if head[4:8] == b'ftyp' else ''}; fetch it "
            "again, convert it to wav or flac, or leave it out"
        ) from error


def audio_track(container: InputContainer, name: str, wanted: int | str | None) -> av.AudioStream:
    """Return an audio track, by its number or language; none: the default one.

    Where there is none such, or none that can be decoded, it raises CorruptAudio.
    """
    tracks, kind = container.streams.audio, container.format.name
    if wanted is None:
        track = container.streams.best("audio")
    elif isinstance(wanted, int):
        track = tracks[wanted] if wanted < len(tracks) else None
    else:
        codes = media_codes(wanted.lower())
        track = next((track for track in tracks if _language(track) in codes), None)
    if not tracks:
        types = ", ".join(stream.type for stream in container.streams) or "none"
        fault = (
            f"needs an audio stream, found a {kind} file whose streams are: {types}; leave it out"
        )
    elif track is None and wanted is not None:
        fault = f"has no audio track {wanted}, found {track_names(container)}"
    elif not isinstance(track, av.AudioStream) or track.codec_context is None:
        fault = (
            "holds no sound that can be decoded: its audio track must have a form that libav "
            f"knows, found another in a {kind} file; convert it to wav or flac with another "
            "program, or leave it out"
        )
    elif track.rate and not LOWEST_RATE_HZ <= track.rate <= HIGHEST_RATE_HZ:
        fault = (
            f"the sample rate must be from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz, found "
            f"{track.rate} Hz: if its header is wrong, correct it; else leave the file out"
        )
    else:
        return track
    raise CorruptAudio(f"{name}: {fault}")


def track_names(container: InputContainer) -> str:
    """Return the numbers and languages of a container's audio tracks, for messages."""
    return ", ".join(
        f"{number} {_language(track)}".rstrip()
        for number, track in enumerate(container.streams.audio)
    )


def _language(track: av.AudioStream) -> str:
    return track.metadata.get("language", "").lower()


def finds_samples(container: InputContainer, stream: av.AudioStream) -> bool:
    """Return whether libav can go to any sample: where frames know their place and stand alone."""
    rate, codec = stream.rate, stream.codec_context
    bits = re.search(r"\d+", codec.name)  # of a sample; pcm_alaw and pcm_mulaw have 8
    bit_rate = rate * codec.layout.nb_channels * int(bits[0] if bits else 8)
    # libav leaps by the bits a second that the header states: in some files they are wrong.
    is_pcm = codec.name.startswith("pcm_") and codec.bit_rate in (0, bit_rate)
    counts_samples = stream.time_base == Fraction(1, rate) and not stream.start_time
    return (is_pcm or codec.name == "flac") and counts_samples and container.format.name in SEEKING


def clock_zero_s(container: InputContainer) -> float:
    """Return the time stamp at which a container's clock begins."""
    start_s = (container.start_time or 0) / av.time_base
    is_late = container.format.name in _FROM_ZERO and 0 < start_s <= LONGEST_HOLE_S
    return 0.0 if is_late else start_s


def stated_end_s(file: OpenFile, container: InputContainer, stream: av.AudioStream) -> float | None:
    """Return when a track ends, from the clock's zero, where its container is sure of it.

    libav's own number will not do alone: for wav, w64, caf and Ogg it follows what is left of a
    file that was cut short; for an mp3 without a Xing header, raw AAC and others it is guessed from
    a bit rate (found 12.9 s for 9.0); of Matroska it is the end of the longest stream.
    """
    position = file.tell()  # where libav reads on
    length_s = _stated_length_s(file, container, stream)
    file.seek(position)
    start_s = float((stream.start_time or 0) * (stream.time_base or 0)) - clock_zero_s(container)
    return length_s and length_s + (start_s if start_s > LENGTH_TOLERANCE_S else 0.0)


def _stated_length_s(
    file: OpenFile, container: InputContainer, stream: av.AudioStream
) -> float | None:
    kind = container.format.name
    is_pcm = stream.codec_context.name.startswith("pcm_")
    if kind in ("wav", "w64"):
        _, size, byte_rate = _wav_data(file)
        # Writers to a pipe leave the size zero or near one of three limits.
        is_known = 0 < size < 0x7FFF_0000 or 1 << 32 <= size < 1 << 62
        return size / byte_rate if is_known and is_pcm and byte_rate else None
    if kind == "caf" and is_pcm:
        return stream.frames / stream.rate or None
    if kind == "matroska,webm":
        return _matroska_s(container, stream)
    if kind in _STATING or (kind == "mp3" and _has_frame_count(file)):
        return float((stream.duration or 0) * (stream.time_base or 0)) or None
    return None


def _wav_data(file: OpenFile) -> tuple[int, int, int]:
    """Return where a wav file's data begin, the size stated, and bytes a second; 0: not there.

    It may be of the wide kinds RF64 and w64.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_w64 = file.read(4) == b"riff"
    # A chunk's name and size. Those of w64 are a GUID that begins with the name, and count as well.
    head = struct.Struct("<4s12xQ" if is_w64 else "<4sI")
    position, byte_rate, long_size = 40 if is_w64 else 12, 0, 0
    while position + head.size <= n_bytes:
        file.seek(position)
        kind, size = head.unpack(file.read(head.size))
        content = file.read(16).ljust(16, b"\0")
        position += head.size
        if is_w64 and (size := size - head.size) < 0:
            break
        if kind == b"fmt ":
            # The header's own byte rate is wrong in some files, and no decoder reads it.
            _, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content)
            byte_rate = rate * channels * ((bits + 7) // 8)
        elif kind == b"ds64":  # RF64: of data too large for wav
            _, long_size = struct.unpack("<QQ", content)
        elif kind == b"data":
            return position, long_size if size == 0xFFFF_FFFF else size, byte_rate
        position += size + -size % (8 if is_w64 else 2)
    return position, 0, byte_rate


def bytes_behind_wav(file: OpenFile) -> int:
    """Return how much follows a wav file's data that is no chunk, if it may be sound.

    A program that dies while it records leaves the length that it wrote last. Padding is no sound.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    end, size, byte_rate = _wav_data(file)
    n_more, head = 0, b""
    while size:
        end += size + size % 2
        n_more = n_bytes - end
        file.seek(min(end, n_bytes))
        head = file.read(1 << 16)
        chunk = re.match(rb"[ -~]{4}(.{4})", head, re.DOTALL)  # a name and a size
        size = int.from_bytes(chunk[1], "little") + 8 if chunk else 0
    may_be = byte_rate > 0 and n_more > LENGTH_TOLERANCE_S * byte_rate and any(head)
    return n_more if may_be else 0


def _matroska_s(container: InputContainer, stream: av.AudioStream) -> float | None:
    """Return the length from the stream's own tag, or the file's if it has no other stream."""
    file_s = (container.duration or 0) / av.time_base
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d*)?)", stream.metadata.get("DURATION", ""))
    end_s = file_s if len(container.streams) == 1 else math.inf
    if tag:
        tag_s = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        end_s = min(tag_s, file_s or tag_s)
    if not 0 < end_s < math.inf:
        return None
    return end_s - float((stream.start_time or 0) * (stream.time_base or 0))


def missing_page_bytes(file: OpenFile) -> int:
    """Return how much of an Ogg file's last page is missing (RFC 3533, section 6)."""
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, n_bytes - 65_307))  # the longest page
    tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    n_parts = page[26] if len(page) > 26 else 255
    page_bytes = 27 + n_parts + sum(page[27 : 27 + n_parts])
    return max(page_bytes - len(page), 0) if page.startswith(b"OggS") else 0


def _has_frame_count(file: OpenFile) -> bool:
    """Return whether an mp3 begins with a Xing, Info or VBRI header that covers all of it."""
    start = 0
    file.seek(0)
    head = file.read(10)
    if head.startswith(b"ID3") and len(head) == 10:
        a, b, c, d = head[6:]  # seven bits each
        start = 10 + (a << 21 | b << 14 | c << 7 | d)
    n_bytes = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    first_frame = file.read(2048)
    xing = re.search(rb"(?:Xing|Info)\0\0\0[\3\7\x0b\x0f].{4}(.{4})", first_frame, re.DOTALL)
    if xing is None:
        return any(mark in first_frame for mark in (b"Xing", b"Info", b"VBRI"))
    # Where several files were joined, it speaks of the first, and libav guesses.
    return n_bytes - n_bytes // 16 <= int.from_bytes(xing[1], "big")
