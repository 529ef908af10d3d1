import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from corpora import hearing_model, noise

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.text.transcript import Transcript, TranscriptFormat, render
from distilwhisper.transcribe import (
    TranscribedFile,
    language_doubt,
    output_paths,
    transcribe_files,
    write_transcript,
)

CPU = Hardware(device="cpu", dtype="float32")
FORMATS = get_args(TranscriptFormat)


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    model = hearing_model(tmp_path_factory.mktemp("models") / "hearing")
    settings = DecodingSettings(max_new_tokens=8, temperatures=(0.0,), batch_size=1)
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
    done: list[TranscribedFile] = []
    results = transcribe_files(transcriber, recordings, on_done=done.append)
    assert done == results
    assert [result.source for result in results] == recordings
    for result in results:
        alone = transcriber.transcribe(load_samples(result.source))
        assert result.transcript == alone
        assert result.error is None
    assert results[0].transcript != results[1].transcript


def test_a_language_in_doubt_is_told() -> None:
    doubt = language_doubt(Transcript("a", "nn", (), 0.32))
    assert doubt == "the language may not be Nynorsk (32% sure): name it with --language"
    assert language_doubt(Transcript("a", "de", (), 0.5)) is None
    assert language_doubt(Transcript("a", "de", ())) is None


def test_files_side_by_side_are_the_files_alone(
    transcriber: Transcriber, recordings: list[str]
) -> None:
    together = replace(transcriber, settings=replace(transcriber.settings, batch_size=4))
    sources = [*recordings, *recordings[::-1]]
    alone = transcribe_files(transcriber, sources, on_done=lambda _: None)
    for one, other in zip(
        alone, transcribe_files(together, sources, on_done=lambda _: None), strict=True
    ):
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
    seen: list[str] = []
    results = transcribe_files(transcriber, sources, on_done=lambda d: seen.append(d.source))
    assert seen == sources
    assert [result.transcript is None for result in results] == [True, False, True, True, False]
    for result in results:
        assert (result.error is None) == (result.transcript is not None)
        assert result.error is None or Path(result.source).name in result.error


def test_a_file_is_done_before_the_next_begins(
    tmp_path: Path, transcriber: Transcriber, recordings: list[str]
) -> None:
    out = tmp_path / "out"

    def write_and_take_the_next_away(done: TranscribedFile) -> None:
        Path(recordings[1]).unlink(missing_ok=True)
        if done.transcript:
            write_transcript(done.transcript, out / f"{Path(done.source).stem}.txt", "txt")

    results = transcribe_files(transcriber, recordings, on_done=write_and_take_the_next_away)
    assert [result.error is None for result in results] == [True, False]
    assert [path.name for path in out.iterdir()] == ["one.txt"]


@pytest.mark.usefixtures("stdin")
def test_a_dash_reads_standard_input(transcriber: Transcriber, recordings: list[str]) -> None:
    (result,) = transcribe_files(transcriber, ["-"], on_done=lambda _: None)
    assert result.source == "-"
    assert result.transcript == transcriber.transcribe(load_samples(recordings[1]))


def test_standard_input_that_is_no_audio_is_named(
    transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no audio at all")))
    (result,) = transcribe_files(transcriber, ["-"], on_done=lambda _: None)
    assert result.transcript is None
    assert result.error


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_written_whole(
    tmp_path: Path, transcriber: Transcriber, recordings: list[str], format_: TranscriptFormat
) -> None:
    transcript = transcriber.transcribe(load_samples(recordings[0]))
    path = tmp_path / "new" / "folder" / f"one.{format_}"
    write_transcript(transcript, path, format_)
    assert path.read_text(encoding="utf-8") == render(transcript, format_)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if format_ == "json":
        assert json.loads(path.read_text())["language"] == "en"
    if format_ == "vtt":
        assert path.read_text().startswith("WEBVTT\n")


def test_transcripts_are_named_after_the_files_stems() -> None:
    paths = output_paths(["a/b.c.wav", "-", "d.mp3"], Path("out"), "srt")
    assert paths == [Path("out/b.c.srt"), Path("out/stdin.srt"), Path("out/d.srt")]


@pytest.mark.parametrize("pair", [("a/one.wav", "b/one.mp3"), ("-", "-"), ("stdin.wav", "-")])
def test_two_files_that_would_write_one_transcript_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"more than one file is called '(one|stdin)'.*--out"):
        output_paths(["other.wav", *pair], Path("out"), "txt")


def test_no_text_for_what_sounds_like_speech_is_a_warning(tmp_path: Path) -> None:
    """A model that always ends at once."""
    model = hearing_model(tmp_path / "ends", end=100.0)
    settings = DecodingSettings(temperatures=(0.0,), timestamps=False)
    silent = Transcriber.from_model(str(model), settings, CPU)
    for name, samples in (("speech", noise(6.0, seed=1)), ("silence", 0 * noise(6.0, seed=1))):
        write_wav(tmp_path / f"{name}.wav", samples)
    paths = [str(tmp_path / f"{name}.wav") for name in ("speech", "silence")]
    speech, silence = transcribe_files(silent, paths, on_done=lambda _: None)
    assert speech.transcript is not None
    assert speech.transcript.text == ""
    assert speech.warning is not None
    assert "no text was found" in speech.warning
    assert silence.warning is None
