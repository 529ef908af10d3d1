import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import soundfile

from corpora import hearing_model, noise
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.text.transcript import SubtitleSettings, Transcript, TranscriptFormat, render
from distilwhisper.transcribe import (
    Listening,
    language_doubt,
    output_paths,
    transcribe_files,
)

CPU = Hardware(device="cpu", dtype="float32")
FORMATS = get_args(TranscriptFormat)


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    model = hearing_model(tmp_path_factory.mktemp("models") / "hearing")
    settings = DecodingSettings(max_new_tokens=8, temperature=(0.0,), batch_size=1)
    return Transcriber.from_model(str(model), settings, CPU)


@pytest.fixture
def recordings(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{name}.wav") for name in ("one", "two")]
    for seed, path in enumerate(paths):
        write_wav(path, noise(0.5 + seed, seed=seed))
    return paths


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, recordings: list[str]) -> Iterator[None]:
    """The second recording on standard input, as a shell would put it there."""
    with Path(recordings[1]).open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield


def test_each_file_has_its_transcript_in_order(
    transcriber: Transcriber, recordings: list[str]
) -> None:
    results = list(transcribe_files(transcriber, recordings))
    assert [result.source for result in results] == recordings
    for result in results:
        alone = transcriber.transcribe(load_samples(result.source))
        assert result.transcript == alone
        assert result.error is None
    assert results[0].transcript != results[1].transcript


def test_a_language_in_doubt_is_told() -> None:
    doubt = language_doubt(Transcript("a", "nn", (), 1.0, 0.32))
    assert doubt == "the language may not be Nynorsk (32% sure): name it with --language"
    assert language_doubt(Transcript("a", "de", (), 1.0, 0.5)) is None
    assert language_doubt(Transcript("a", "de", ())) is None


def test_files_side_by_side_are_the_files_alone(
    transcriber: Transcriber, recordings: list[str]
) -> None:
    together = replace(transcriber, settings=replace(transcriber.settings, batch_size=4))
    sources = [*recordings, *recordings[::-1]]
    alone = transcribe_files(transcriber, sources)
    for one, other in zip(alone, transcribe_files(together, sources), strict=True):
        assert one.source == other.source
        assert one.transcript is not None
        assert other.transcript is not None
        assert [s.token_ids for s in one.transcript.segments] == [
            s.token_ids for s in other.transcript.segments
        ]


def test_a_file_that_cannot_be_read_stops_no_other(
    tmp_path: Path, transcriber: Transcriber, recordings: list[str]
) -> None:
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(os.urandom(100))
    empty = tmp_path / "empty.wav"
    empty.touch()
    sources = [str(broken), recordings[0], str(tmp_path / "absent.wav"), str(empty), recordings[1]]
    results = list(transcribe_files(transcriber, sources))
    assert [result.source for result in results] == sources
    assert [result.transcript is None for result in results] == [True, False, True, True, False]
    for result in results:
        assert (result.error is None) == (result.transcript is not None)
        assert result.error is None or Path(result.source).name in str(result.error)


def test_a_file_is_done_before_the_next_begins(
    tmp_path: Path, transcriber: Transcriber, recordings: list[str]
) -> None:
    out, are_whole = tmp_path / "out", []
    for done in transcribe_files(transcriber, recordings):
        Path(recordings[1]).unlink(missing_ok=True)
        are_whole.append(done.error is None)
        if done.transcript:
            done.transcript.save(out / f"{Path(done.source).stem}.txt")
    assert are_whole == [True, False]
    assert [path.name for path in out.iterdir()] == ["one.txt"]


@pytest.mark.usefixtures("stdin")
def test_a_dash_reads_standard_input(transcriber: Transcriber, recordings: list[str]) -> None:
    (result,) = transcribe_files(transcriber, ["-"])
    assert result.source == "-"
    assert result.transcript == transcriber.transcribe(load_samples(recordings[1]))


def test_standard_input_is_read_once(transcriber: Transcriber) -> None:
    with pytest.raises(ValueError, match="found - several times"):
        list(transcribe_files(transcriber, ["-", "-"]))


def test_standard_input_that_is_no_audio_is_named(
    transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no audio at all")))
    (result,) = transcribe_files(transcriber, ["-"])
    assert result.transcript is None
    assert result.error


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_written_whole(
    tmp_path: Path, transcriber: Transcriber, recordings: list[str], format_: TranscriptFormat
) -> None:
    transcript = transcriber.transcribe(load_samples(recordings[0]))
    path = tmp_path / "new" / "folder" / f"one.{format_}"
    transcript.save(path)
    wanted = render(transcript, format_, SubtitleSettings())
    assert path.read_text(encoding="utf-8") == wanted
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if format_ == "json":
        assert json.loads(path.read_text())["language"] == "en"
    if format_ == "vtt":
        assert path.read_text().startswith("WEBVTT\n")


def test_transcripts_are_named_after_the_files_stems(tmp_path: Path) -> None:
    (tmp_path / "d.txt").mkdir()
    paths, problems = output_paths(["a/b.c.wav", "-", "d.mp3"], tmp_path, ["srt", "txt"])
    assert paths == {
        source: [tmp_path / f"{stem}.srt", tmp_path / f"{stem}.txt"]
        for source, stem in {"a/b.c.wav": "b.c", "-": "stdin", "d.mp3": "d"}.items()
    }
    assert problems == {"d.mp3": f"its transcript would be {tmp_path / 'd.txt'}, which is a folder"}


@pytest.mark.parametrize("pair", [("a/one.wav", "b/one.mp3"), ("-", "-"), ("stdin.wav", "-")])
def test_two_files_that_would_write_one_transcript_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"more than one file is called '(one|stdin)'.*--out"):
        output_paths(["other.wav", *pair], Path("out"), ["txt"])


def test_no_text_for_what_sounds_like_speech_is_a_warning(tmp_path: Path) -> None:
    """A model that always ends at once."""
    model = hearing_model(tmp_path / "ends", end=100.0)
    settings = DecodingSettings(temperature=(0.0,), timestamps=False)
    silent = Transcriber.from_model(str(model), settings, CPU)
    for name, samples in (("speech", noise(6.0, seed=1)), ("silence", 0 * noise(6.0, seed=1))):
        write_wav(tmp_path / f"{name}.wav", samples)
    paths = [str(tmp_path / f"{name}.wav") for name in ("speech", "silence")]
    speech, silence = transcribe_files(silent, paths)
    assert speech.transcript is not None
    assert speech.transcript.text == ""
    (note,) = speech.notes
    assert "no text was found" in note.text
    assert speech.transcript.notes == (note.text,)
    assert silence.notes == ()


# Odd files


@pytest.fixture
def damaged(recordings: list[str], tmp_path: Path) -> str:
    """The second recording, of 1.5 s, of which the last half second is missing."""
    path = tmp_path / "damaged.wav"
    path.write_bytes(Path(recordings[1]).read_bytes()[:-16_000])
    return str(path)


@pytest.mark.parametrize("vad_filter", [False, True])
def test_what_can_be_read_of_a_damaged_file_is_transcribed(
    transcriber: Transcriber, recordings: list[str], damaged: str, vad_filter: bool
) -> None:
    # The voice activity detector reads the file a second time: it is said once.
    settings = replace(transcriber.settings, vad_filter=vad_filter)
    transcriber = replace(transcriber, settings=settings)
    results = list(transcribe_files(transcriber, [damaged, recordings[0]]))
    assert [result.error for result in results] == [None, None]
    assert [note.is_damage for note in results[0].notes] == [True]
    assert "ends at 1.00 s, the file states 1.50 s: 0.50 s are missing" in results[0].notes[0].text
    assert results[1].notes == ()
    transcript = results[0].transcript
    assert transcript
    assert json.loads(render(transcript, "json"))["notes"] == [results[0].notes[0].text]
    if not vad_filter:
        alone = transcriber.transcribe(load_samples(recordings[1])[:16_000])
        assert transcript.segments == alone.segments


def test_a_damaged_file_is_refused_on_request_before_it_is_transcribed(
    transcriber: Transcriber, recordings: list[str], damaged: str
) -> None:
    before = transcriber.counts.steps
    (result,) = transcribe_files(transcriber, [damaged], listening=Listening(strict=True))
    assert result.transcript is None
    assert "0.50 s are missing; the file was cut short" in str(result.error)
    assert transcriber.counts.steps == before
    (result,) = transcribe_files(transcriber, recordings[:1], listening=Listening(strict=True))
    assert result.transcript == transcriber.transcribe(load_samples(recordings[0]))


@pytest.mark.parametrize("vad_filter", [False, True])
def test_a_pipe_is_read_once(
    transcriber: Transcriber, recordings: list[str], tmp_path: Path, vad_filter: bool
) -> None:
    settings = replace(transcriber.settings, vad_filter=vad_filter)
    transcriber = replace(transcriber, settings=settings)
    data = Path(recordings[1]).read_bytes()
    pipe, (reading, writing) = tmp_path / "pipe", os.pipe()
    os.mkfifo(pipe)
    writers = [
        threading.Thread(target=pipe.write_bytes, args=(data,)),
        threading.Thread(target=_write_and_close, args=(writing, data)),
    ]
    for writer in writers:
        writer.start()
    sources = [str(pipe), f"/dev/fd/{reading}", recordings[1]]
    *piped, plain = transcribe_files(transcriber, sources)
    os.close(reading)
    for writer in writers:
        writer.join()
    assert [result.error for result in piped] == [None, None]
    assert [result.transcript for result in piped] == [plain.transcript] * 2


def _write_and_close(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


@pytest.fixture
def call_of_two(tmp_path: Path) -> str:
    """The two recordings, one in each channel; the second begins half a second late."""
    left, right = np.zeros(32_000), np.zeros(32_000)
    left[:8_000], right[8_000:] = noise(0.5, seed=0), noise(1.5, seed=1)
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], 1), 16_000)
    return str(tmp_path / "call.wav")


def test_each_channel_has_its_transcript_and_they_are_one(
    transcriber: Transcriber, call_of_two: str, recordings: list[str]
) -> None:
    each = Listening(channel="each")
    sources = [call_of_two, recordings[0]]
    both, mono = transcribe_files(transcriber, sources, listening=each)
    assert both.transcript
    assert mono.transcript
    for channel, number in (("left", 0), ("right", 1)):
        (alone,) = transcribe_files(transcriber, sources[:1], listening=Listening(channel=number))
        assert alone.transcript
        assert [s.text for s in both.transcript.segments if s.channel == channel] == [
            s.text for s in alone.transcript.segments
        ]
    assert {segment.channel for segment in both.transcript.segments} == {"left", "right"}
    starts = [segment.start for segment in both.transcript.segments]
    assert starts == sorted(starts)
    assert [s.id for s in both.transcript.segments] == list(range(len(starts)))
    assert {segment.channel for segment in mono.transcript.segments} == {None}


def test_a_hole_moves_each_channel_as_if_it_were_alone(
    transcriber: Transcriber, tmp_path: Path
) -> None:
    path = str(tmp_path / "call.mka")
    both = np.stack([noise(40.0, seed=0), noise(40.0, seed=1)])
    pcm = (both * 32_767).astype(np.int16)
    with av.open(path, "w") as output:
        stream = output.add_stream("pcm_s16le", rate=16_000, layout="stereo")
        for begin, late in ((0, 0), (320_000, 160_000)):
            block = np.ascontiguousarray(pcm[:, begin : begin + 320_000].T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = (
                16_000,
                begin + late,
                Fraction(1, 16_000),
            )
            output.mux(stream.encode(frame))
    sources, found = [path], {}
    for channel in (0, 1, "each"):
        (result,) = transcribe_files(transcriber, sources, listening=Listening(channel=channel))
        assert result.transcript
        found[channel] = result.transcript.segments
    for number, name in ((0, "left"), (1, "right")):
        alone = [(one.start, one.end, one.text) for one in found[number]]
        of_each = [(s.start, s.end, s.text) for s in found["each"] if s.channel == name]
        assert of_each == sorted(of_each)
        assert of_each == alone


def test_a_channel_or_track_that_is_not_there_is_named(
    transcriber: Transcriber, call_of_two: str, recordings: list[str]
) -> None:
    for listening, message in (
        (Listening(channel=1), "no channel 1, found 1"),
        (Listening(track="fr"), "no audio track fr, found 0"),
    ):
        result, _ = transcribe_files(
            transcriber,
            [recordings[0], call_of_two],
            listening=listening,
        )
        assert message in str(result.error)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((None, "mix"), Listening()),
        (("1", "left"), Listening(1, 0)),
        (("deu", "right"), Listening("deu", 1)),
        ((None, "3"), Listening(None, 3)),
        ((None, "each"), Listening(None, "each")),
    ],
)
def test_what_is_taken_of_a_file_is_read(
    words: tuple[str | None, str], expected: Listening
) -> None:
    assert Listening.parse(*words, strict=False) == expected


@pytest.mark.parametrize("channel", ["middle", "-1", "", "1.5"])
def test_a_channel_that_cannot_be_is_refused(channel: str) -> None:
    with pytest.raises(ValueError, match="left, right, mix, each or a number counted from 0"):
        Listening.parse(None, channel, strict=False)


CASES = os.environ.get("DISTILWHISPER_CASES")


@pytest.mark.slow
@pytest.mark.skipif(CASES is None, reason="needs DISTILWHISPER_CASES, the folder of odd files")
@pytest.mark.parametrize(
    ("name", "starts_s", "last_end_s", "n_damaged"),
    [
        ("delay.mp4", [3.94], 8.98, 0),
        ("gap.mp4", [0.0, 12.0], 21.6, 0),
        ("dent.ogg", [0.0], 9.6, 1),
        ("mp3_mid_zeros.mp3", [0.0], 9.6, 1),
        ("wav_trunc.wav", [0.0], 6.4, 1),
    ],
)
def test_the_cases_that_went_wrong_are_on_their_files_clock(
    tiny_en: Path, name: str, starts_s: list[float], last_end_s: float, n_damaged: int
) -> None:
    transcriber = Transcriber.from_model(str(tiny_en), DecodingSettings(), CPU)
    (result,) = transcribe_files(transcriber, [str(Path(str(CASES)) / name)])
    assert result.transcript
    segments = result.transcript.segments
    for start_s in starts_s:
        assert min(abs(segment.start - start_s) for segment in segments) < 0.1
    assert segments[-1].end == pytest.approx(last_end_s, abs=1.0)
    assert sum(note.is_damage for note in result.notes) == n_damaged
