"""Files that are damaged, late, holed, cancelled or of several tracks: what comes, and when."""

import io
import math
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from distilwhisper.speech.audio import (
    Choice,
    Note,
    Samples,
    load_samples,
    probe_audio,
    stream_samples,
)
from distilwhisper.speech.containers import DEFAULT
from distilwhisper.speech.sources import CorruptAudio, NamedBytes, Source
from distilwhisper.speech.units import SAMPLE_RATE_HZ

CASES = os.environ.get("DISTILWHISPER_CASES")
Pcm = npt.NDArray[np.int16]

# name: (codec, container); all at 16 kHz but Opus
FORMATS = {
    "a.mp4": ("aac", "mp4"),
    "a.mkv": ("aac", "matroska"),
    "a.ts": ("aac", "mpegts"),
    "a.webm": ("libopus", "webm"),
    "a.flv": ("aac", "flv"),
}


def read(source: Source, choice: Choice = DEFAULT) -> tuple[Samples, list[Note]]:
    notes: list[Note] = []
    blocks = stream_samples(source, choice=choice, on_note=notes.append)
    return np.concatenate(list(blocks)), notes


def noise(seconds: float, *, rate_hz: int = 16_000, seed: int = 0) -> Pcm:
    random = np.random.default_rng(seed)
    return (random.standard_normal(round(seconds * rate_hz)) * 3_000).astype(np.int16)


def spans(samples: Samples) -> list[tuple[float, float]]:
    """Return from when to when there is sound, in tenths of a second."""
    size = SAMPLE_RATE_HZ // 10
    whole = samples[: len(samples) // size * size].reshape(-1, size)
    edges = np.flatnonzero(np.diff(np.r_[0, np.abs(whole).max(axis=1) > 0.01, 0]))
    return [(float(a) / 10, float(b) / 10) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def write(
    path: Path,
    pieces: Sequence[tuple[float, float]],
    *,
    codec: str,
    container: str,
    picture_s: tuple[float, float] | None = None,
) -> Path:
    """Write noise at some times, beside a picture at others; both as (begin, end) in seconds."""
    rate_hz = 48_000 if codec == "libopus" else 16_000
    with av.open(str(path), "w", format=container) as output:
        sound = output.add_stream(codec, rate=rate_hz, layout="mono")
        if picture_s is not None:
            write_picture(output, *picture_s)
        for begin_s, end_s in pieces:
            pcm = noise(end_s - begin_s, rate_hz=rate_hz)
            for start in range(0, len(pcm), 960):
                block = pcm[None, start : start + 960]
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
                frame.pts = round(begin_s * rate_hz) + start
                output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return path


def write_picture(output: av.container.OutputContainer, begin_s: float, end_s: float) -> None:
    codec = {"webm": "libvpx", "flv": "flv", "mpegts": "mpeg2video"}
    stream = output.add_stream(codec.get(output.format.name, "mpeg4"), rate=25)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    for index in range(round(begin_s * 25), round(end_s * 25), 5):
        frame = av.VideoFrame(32, 32, "yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def remux(path: Path, out: Path, *, shift_s: Sequence[tuple[float, float]]) -> Path:
    """Copy the packets of a file, those from a time on at other times: (from, by) in seconds."""
    with av.open(str(path)) as source, av.open(str(out), "w") as output:
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.pts is None or packet.time_base is None:
                continue
            time_s = float(packet.pts * packet.time_base)
            by = sum(by for from_s, by in shift_s if time_s >= from_s)
            packet.pts += round(by / packet.time_base)
            packet.dts = packet.pts
            packet.stream = stream
            output.mux(packet)
    return out


# --- the clock of a container


@pytest.mark.parametrize("name", FORMATS)
def test_sound_that_begins_after_the_picture_begins_late(name: str, tmp_path: Path) -> None:
    codec, container = FORMATS[name]
    path = write(
        tmp_path / name, [(2.5, 4.5)], codec=codec, container=container, picture_s=(0.0, 6.0)
    )
    samples, notes = read(path)
    assert spans(samples) == [pytest.approx((2.5, 4.5), abs=0.25)]
    assert not any(note.is_damage for note in notes)
    assert any("no sound from 0.00 to 2." in note.text for note in notes)
    assert np.array_equal(load_samples(path), samples)
    assert probe_audio(path).duration_s == pytest.approx(len(samples) / SAMPLE_RATE_HZ, abs=0.1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_hole_keeps_its_length(name: str, tmp_path: Path) -> None:
    codec, container = FORMATS[name]
    path = write(tmp_path / name, [(0.0, 2.0), (5.0, 7.0)], codec=codec, container=container)
    samples, notes = read(path)
    assert spans(samples) == [pytest.approx(span, abs=0.25) for span in ((0.0, 2.0), (5.0, 7.0))]
    assert [note.is_damage for note in notes] == [False]
    assert np.array_equal(load_samples(path), samples)


def test_small_holes_add_up(tmp_path: Path) -> None:
    # A call of which every fifth packet was lost: none is a hole by itself, altogether 2 s are.
    pieces = [(0.06 * n, 0.06 * n + 0.04) for n in range(100)]
    samples, _ = read(write(tmp_path / "a.mka", pieces, codec="pcm_s16le", container="matroska"))
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize("rate", [7.0, 23.976])
def test_the_picture_may_have_any_rate(rate: float, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("pcm_s16le", rate=16_000, layout="mono")
        picture = output.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        picture.codec_context.time_base = Fraction(1, 1000)
        for time_s in np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 20) / rate):
            image = av.VideoFrame(32, 32, "yuv420p")
            image.pts, image.time_base = round(time_s * 1000), Fraction(1, 1000)
            output.mux(picture.encode(image))
        frame = av.AudioFrame.from_ndarray(noise(1.0)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        output.mux(sound.encode(frame))
    samples, notes = read(path)
    assert np.array_equal(samples * 32_768, noise(1.0))
    assert notes == []


@pytest.mark.parametrize(
    ("name", "by_s", "direction"),
    [
        ("a.mkv", 7_200.0, "on"),
        ("a.webm", 7_200.0, "on"),
        ("a.ts", 7_200.0, "on"),
        ("a.ts", -1.9, "back"),
    ],
)
def test_a_clock_set_anew_makes_no_silence(
    name: str, by_s: float, direction: str, tmp_path: Path
) -> None:
    codec, container = FORMATS[name]
    plain = write(tmp_path / name, [(0.0, 4.0)], codec=codec, container=container)
    if name == "a.ts":
        # Two recordings, one behind the other, as `cat` joins them.
        first, second = plain.read_bytes(), remux(plain, tmp_path / "b.ts", shift_s=[(0, by_s)])
        odd = tmp_path / "joined.ts"
        odd.write_bytes(first + second.read_bytes())
        expected = 2 * len(load_samples(plain))
    else:
        odd = remux(plain, tmp_path / f"odd-{name}", shift_s=[(2.0, by_s)])
        expected = len(load_samples(plain))
    samples, notes = read(odd)
    assert len(samples) == pytest.approx(expected, abs=1_600)
    assert [f"clock goes {direction}" in note.text for note in notes] == [True]
    assert not notes[0].is_damage


def test_an_edit_list_may_begin_late(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [(3.0, 4.0)], codec="aac", container="mp4")
    samples, _ = read(path)
    assert spans(samples) == [pytest.approx((3.0, 4.0), abs=0.25)]


def test_a_recording_of_a_broadcast_begins_at_its_beginning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", [(50_000.0, 50_002.0)], codec="aac", container="mpegts")
    samples, notes = read(path)
    assert spans(samples) == [pytest.approx((0.0, 2.0), abs=0.25)]
    assert notes == []


# --- damage


def damaged(name: str, how: str, tmp_path: Path) -> tuple[Source, Source]:
    """Return a recording of 12 s, and the same with something wrong from the middle on."""
    codec, rate_hz, container = {
        "a.wav": ("pcm_s16le", 44_100, "wav"),
        "a.flac": ("flac", 44_100, "flac"),
        "a.mp3": ("libmp3lame", 44_100, "mp3"),
        "a.ogg": ("libopus", 48_000, "ogg"),
        "a.mka": ("aac", 44_100, "matroska"),
        "a.webm": ("libopus", 48_000, "webm"),
        "a.ts": ("aac", 44_100, "mpegts"),
        "fast.m4a": ("aac", 44_100, "mp4"),
    }[name]
    options = {"movflags": "faststart"} if name == "fast.m4a" else {}
    path = tmp_path / name
    with av.open(str(path), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(chirp(12.0, rate_hz)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    data = path.read_bytes()
    middle, part = len(data) // 2, len(data) // 12
    odd = {
        "cut": data[:middle],
        "zeros": data[:middle] + bytes(part) + data[middle + part :],
        "noise": data[:middle] + np.random.default_rng(1).bytes(part) + data[middle + part :],
    }[how]
    return path, NamedBytes(odd, name)


def chirp(seconds: float, rate_hz: int) -> Pcm:
    """Return a sound of which every place is known by its pitch."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.rint(9_000 * np.sin(2 * np.pi * (300 + 100 * times) * times)).astype(np.int16)


def place_of(part: Samples, whole: Samples) -> int:
    """Return the sample at which a part fits best."""
    n = len(whole) + len(part)
    product = np.fft.rfft(whole, n) * np.conj(np.fft.rfft(part, n))
    return int(np.argmax(np.fft.irfft(product, n)[: len(whole)]))


CUT = ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.mka", "a.webm", "fast.m4a"]


@pytest.mark.parametrize("name", CUT)
def test_of_a_file_cut_short_what_there_is_comes(name: str, tmp_path: Path) -> None:
    whole, cut = damaged(name, "cut", tmp_path)
    samples, notes = read(cut)
    expected = load_samples(whole)
    n = len(samples)
    assert 4.0 < n / SAMPLE_RATE_HZ < 7.0
    assert np.corrcoef(samples[: n - 3_000], expected[: n - 3_000])[0, 1] > 0.99
    assert [note.is_damage for note in notes] == [True]
    ends_s = re.search(r"ends at (\d+\.\d+) s", notes[0].text)
    assert ends_s
    assert float(ends_s[1]) == pytest.approx(n / SAMPLE_RATE_HZ, abs=0.05)
    with pytest.raises(CorruptAudio, match=r"ends at .*; fetch the file again$"):
        load_samples(cut)


@pytest.mark.parametrize("how", ["zeros", "noise"])
@pytest.mark.parametrize(
    "name", ["a.flac", "a.mp3", "a.ogg", "a.mka", "a.webm", "a.ts", "fast.m4a"]
)
def test_behind_damage_times_are_those_of_the_file(name: str, how: str, tmp_path: Path) -> None:
    whole, odd = damaged(name, how, tmp_path)
    samples, notes = read(odd)
    expected = load_samples(whole)
    assert len(samples) == pytest.approx(len(expected), abs=1_600)
    tail = expected[-3 * SAMPLE_RATE_HZ : -SAMPLE_RATE_HZ]
    at = place_of(tail, samples)
    assert at == pytest.approx(len(expected) - 3 * SAMPLE_RATE_HZ, abs=1_600)
    assert any(note.is_damage and "s are lost, from" in note.text for note in notes)
    assert not any("cut short" in note.text for note in notes)
    with pytest.raises(CorruptAudio, match="s are lost, from"):
        load_samples(odd)


def test_numbers_that_are_none_are_silence() -> None:
    values = np.full(48_000, 0.25)
    values[20_000] = math.nan
    file = io.BytesIO()
    soundfile.write(file, values, 16_000, format="WAV", subtype="FLOAT")
    samples, notes = read(file)
    assert np.flatnonzero(samples != 0.25).tolist() == [20_000]
    assert [note.is_damage for note in notes] == [True]
    assert "NaN or infinity in 1 values from 1.00 to 2.00 s" in notes[0].text


def test_floats_that_were_never_scaled_are_named() -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(1.0).astype(np.float32), 16_000, format="WAV", subtype="FLOAT")
    (note,) = read(file)[1]
    assert note.is_damage
    assert re.search(r"about \[-1, 1\], found 1\d{4} from 0.00 to 1.00 s: .* clipped", note.text)
    with pytest.raises(CorruptAudio, match=r"about .* divided by its full scale$"):
        load_samples(file)


@pytest.mark.parametrize(
    ("tail", "is_named"),
    [
        (noise(1.0).tobytes(), True),
        (bytes(32_000), False),  # padding
        (b"id3 " + (20_000).to_bytes(4, "little") + bytes(range(1, 201)) * 100, False),
        (b"LIST\x04\0\0\0abcd" + noise(1.0).tobytes(), True),
        (noise(0.05).tobytes(), False),
    ],
)
def test_sound_behind_the_length_that_a_wav_states_is_named(tail: bytes, is_named: bool) -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(1.0), 16_000, format="WAV")
    samples, notes = read(io.BytesIO(file.getvalue() + tail))
    assert len(samples) == 16_000
    assert [note.is_damage for note in notes] == [True] * is_named
    assert all("states 1.00 s, and 32000 bytes follow" in note.text for note in notes)
    if is_named:
        with pytest.raises(CorruptAudio, match=r"write the file again with its whole length$"):
            load_samples(io.BytesIO(file.getvalue() + tail))


def test_damage_everywhere_is_named_once_and_summed_up(tmp_path: Path) -> None:
    pieces = [(0.5 * n, 0.5 * n + 0.3) for n in range(60)]
    _, notes = read(write(tmp_path / "a.mka", pieces, codec="pcm_s16le", container="matroska"))
    assert len(notes) == 21
    assert notes[-1].text.startswith("39 more places like these")
    holes_s = [hole_s for note in notes for hole_s in note.holes_s]
    assert holes_s == [pytest.approx((0.5 * n + 0.3, 0.5 * n + 0.5)) for n in range(59)]


def test_damage_behind_many_remarks_is_damage_still(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        sound = output.add_stream("pcm_f32le", rate=16_000, layout="mono")
        for second in range(30):
            values = np.full((1, 8_000), np.nan if second == 28 else 0.1, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(values, format="flt", layout="mono")
            frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
            frame.pts = second * 16_000  # half of each is a hole
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    notes = read(tmp_path / "a.mkv")[1]
    assert [note.is_damage for note in notes] == [False] * 20 + [True]
    for duration_s in (None, 29.2):
        with pytest.raises(CorruptAudio, match="found NaN or infinity"):
            load_samples(tmp_path / "a.mkv", duration_s=duration_s)


def test_tags_and_pictures_between_joined_mp3s_are_no_damage(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.mp3", [(0.0, 2.0)], codec="libmp3lame", container="mp3")
    picture = b"\x89PNG" + np.random.default_rng(0).integers(0, 255, 60_000, np.uint8).tobytes()
    size = bytes((len(picture) >> shift) & 127 for shift in (21, 14, 7, 0))
    tag = b"ID3\x03\x00\x00" + size + picture
    joined = NamedBytes(plain.read_bytes() + tag + plain.read_bytes(), "joined.mp3")
    samples, notes = read(joined)
    assert len(samples) == pytest.approx(2 * len(load_samples(plain)), abs=3_200)
    assert not any(note.is_damage for note in notes)


@pytest.mark.parametrize("n_bytes", [0, 1, 10, 50, 127, 128, 129, 300])
@pytest.mark.parametrize("suffix", ["mp3", "wav", "ogg", "m4a", "flac", "aac", "mkv"])
def test_hardly_a_file_is_refused_without_a_traceback(
    n_bytes: int, suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(bytes(range(n_bytes % 256)) + bytes(n_bytes // 256 * 44))
    with pytest.raises(CorruptAudio, match=r"no sound|zero samples"):
        load_samples(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [0, 23, 1 << 62, (1 << 64) - 1])
def test_a_size_that_cannot_be_leaves_the_length_of_a_w64_unknown(size: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(1.0), 16_000, format="W64")
    data = bytearray(file.getvalue())
    struct.pack_into("<Q", data, data.index(b"data\xf3") + 16, size)
    with suppress(CorruptAudio):
        assert len(load_samples(io.BytesIO(data))) == 16_000


# --- channels and tracks


def stereo(left: npt.NDArray[np.generic], right: npt.NDArray[np.generic], subtype: str) -> Source:
    file = io.BytesIO()
    soundfile.write(file, np.stack([left, right], 1), 44_100, format="WAV", subtype=subtype)
    return file


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_channels_that_cancel_are_not_mixed(subtype: str) -> None:
    left = noise(3.0, rate_hz=44_100) / 32_768
    alone, _ = read(stereo(left, left, subtype))
    samples, notes = read(stereo(left, -0.9 * left, subtype))
    assert np.abs(samples - alone).max() < 0.02
    assert ["cancel" in note.text for note in notes] == [True]
    assert not notes[0].is_damage


@pytest.mark.parametrize("right", [0.0, 1.0, 0.3, "other"])
def test_channels_that_do_not_cancel_are_mixed_as_ever(right: float | str) -> None:
    left = noise(3.0, rate_hz=44_100) / 32_768
    other = noise(3.0, rate_hz=44_100, seed=1) / 32_768
    samples, notes = read(stereo(left, other if right == "other" else left * right, "PCM_16"))
    assert notes == []
    mixed, _ = read(
        stereo(*[(left + (other if right == "other" else left * right)) / 2] * 2, "PCM_16")
    )
    assert np.abs(samples - mixed).max() < 1e-4


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_channel_is_that_channel_alone(subtype: str, tmp_path: Path) -> None:
    left, right = (noise(2.3, rate_hz=44_100, seed=seed) / 32_768 for seed in (0, 1))
    both = stereo(left, right, subtype)
    assert probe_audio(both).n_channels == 2
    for channel, one in enumerate((left, right)):
        file = io.BytesIO()
        soundfile.write(file, one, 44_100, format="WAV", subtype=subtype)
        assert np.array_equal(read(both, Choice(channel=channel))[0], load_samples(file))
    with pytest.raises(CorruptAudio, match="no channel 2, found 2"):
        read(both, Choice(channel=2))


@pytest.mark.parametrize("n_channels", [3, 5, 6, 8])
def test_channels_without_a_place_are_averaged_and_none_is_lost(n_channels: int) -> None:
    for channel in range(n_channels):
        file, values = io.BytesIO(), np.zeros((16_000, n_channels), dtype=np.int16)
        values[:, channel] = noise(1.0)
        soundfile.write(file, values, 16_000, format="WAV")
        np.testing.assert_allclose(read(file)[0] * 32_768, noise(1.0) / n_channels, atol=0.51)


def test_more_channels_without_a_place_are_too_many_to_average() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.ones((1_600, 16), dtype=np.int16), 16_000, format="WAV")
    with pytest.raises(CorruptAudio, match=r"found 16 channels, .* choose a channel"):
        load_samples(file)


def test_of_many_channels_one_can_be_had() -> None:
    values = np.zeros((1_600, 32), dtype=np.int16)
    values[:, 30] = 99
    file = io.BytesIO()
    soundfile.write(file, values, 16_000, format="WAV")
    assert (read(file, Choice(channel=30))[0] * 32_768 == 99).all()


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    """Silence in German, which is the default, and noise in French."""
    path = tmp_path / "tracks.mka"
    with av.open(str(path), "w", format="matroska") as output:
        streams = [output.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for stream, language in zip(streams, ("ger", "fra"), strict=True):
            stream.metadata["language"] = language
        streams[0].disposition = av.stream.Disposition.default
        for stream, pcm in zip(streams, (noise(1.0) * 0, noise(1.0)), strict=True):
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            output.mux(stream.encode(frame))
    return path


def test_a_track_is_chosen_by_number_or_language(tracks: Path) -> None:
    for wanted in (1, "fra", "fr", "fre", "FRA"):
        samples, notes = read(tracks, Choice(track=wanted))
        assert np.array_equal(samples * 32_768, noise(1.0))
        assert notes == []
    for wanted in (0, "de", "deu"):
        assert not read(tracks, Choice(track=wanted))[0].any()
    for wanted in (2, "eng"):
        with pytest.raises(CorruptAudio, match=rf"no audio track {wanted}, found 0 ger, 1 fra"):
            read(tracks, Choice(track=wanted))


def test_a_silent_track_beside_one_that_is_not_is_named(tracks: Path) -> None:
    samples, notes = read(tracks)
    assert not samples.any()
    assert [note.text for note in notes] == [
        "audio track 0 is taken, of 0 ger, 1 fra",
        "audio track 0 is silent, and track 1 is not: choose one of 0 ger, 1 fra",
    ]


def test_a_silent_track_beside_one_that_cannot_be_decoded_is_read(tracks: Path) -> None:
    before, codec, after = tracks.read_bytes().rpartition(b"A_PCM/INT/LIT")
    samples, notes = read(NamedBytes(before + codec.replace(b"PCM", b"XXX") + after, "a.mka"))
    assert len(samples) == 16_000
    assert [note.text for note in notes] == ["audio track 0 is taken, of 0 ger, 1 fra"]


# --- what can be read once


def test_a_pipe_with_a_name_is_read_once(tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(1.0), 16_000, format="WAV")
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(file.getvalue()))
    writer.start()
    assert np.array_equal(load_samples(pipe) * 32_768, noise(1.0))
    writer.join()


# --- memory

PEAK = """
import re, sys
from pathlib import Path
from distilwhisper.speech.audio import stream_samples
n = sum(len(block) for block in stream_samples(sys.argv[1]))
print(n, re.search("VmHWM: *\\t* *(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak of one process")
def test_the_memory_of_a_compressed_recording_does_not_grow(tmp_path: Path) -> None:
    peaks_kb = []
    for minutes in (2, 20):
        path = tmp_path / f"{minutes}.m4a"
        write(path, [(0.0, 60.0 * minutes)], codec="aac", container="mp4")
        command = [sys.executable, "-c", PEAK, str(path)]
        n_samples, peak_kb = subprocess.check_output(command, text=True).split()
        assert int(n_samples) / SAMPLE_RATE_HZ == pytest.approx(60 * minutes, abs=0.2)
        peaks_kb.append(int(peak_kb))
    # Of 18 minutes more the samples alone are 70 MB; the index of the packets is 1 MB.
    assert peaks_kb[1] - peaks_kb[0] < 25_000


# --- the cases folder


@pytest.mark.slow
@pytest.mark.skipif(CASES is None, reason="needs DISTILWHISPER_CASES, the folder of odd files")
@pytest.mark.parametrize(
    ("name", "length_s", "silence_s", "damage"),
    [
        ("delay.mp4", 9.18, (0.0, 3.94), None),
        ("gap.mp4", 21.6, (5.12, 12.0), None),
        ("dent.ogg", 9.6, (4.01, 5.01), "1.00 s are lost, from 4.01 to 5.01 s"),
        ("mp3_mid_zeros.mp3", 9.6, (4.75, 5.29), "0.54 s are lost, from 4.75 to 5.29 s"),
        ("wav_trunc.wav", 6.4, None, "the file states 9.60 s: 3.20 s are missing"),
        ("multi.mkv", 5.25, None, None),
    ],
)
def test_the_cases_that_went_wrong(
    name: str, length_s: float, silence_s: tuple[float, float] | None, damage: str | None
) -> None:
    path = Path(str(CASES)) / name
    samples, notes = read(path)
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(length_s, abs=0.03)
    if silence_s is not None:
        first, stop = (round(time_s * SAMPLE_RATE_HZ) for time_s in silence_s)
        assert np.abs(samples[first + 160 : stop - 160]).max() == 0
    assert [damage in note.text for note in notes if note.is_damage] == [True] * (
        damage is not None
    )
    if damage is not None:
        with pytest.raises(CorruptAudio, match=damage):
            load_samples(path)
