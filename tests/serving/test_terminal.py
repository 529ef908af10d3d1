"""Live captions in a terminal."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from distilwhisper.cli import call
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.text.wer import word_errors
from servers import CPU

pytest.importorskip("silero_vad", exc_type=ImportError)

from distilwhisper.serving import captions
from distilwhisper.serving.captions import CaptionSettings, live_settings


@pytest.mark.slow
def test_a_pipe_of_speech_becomes_a_line(tiny_en: Path, prompts) -> None:
    samples, text = max(prompts, key=lambda prompt: len(prompt[0]))
    pcm = np.rint(samples * 32767).astype("<i2").tobytes()
    settings = live_settings(DecodingSettings(), None)
    transcriber = Transcriber.from_model(str(tiny_en), settings, CPU)
    written: list[str] = []
    blocks = captions.pipe_blocks(io.BytesIO(pcm))
    captions.caption(blocks, transcriber, CaptionSettings(), written.append)
    assert written[-1].endswith("\n")
    heard = "".join(written)
    assert word_errors(text.lower(), heard.lower()).wer < 0.5


def test_silence_writes_nothing(tiny_model: Path) -> None:
    settings = live_settings(DecodingSettings(), None)
    transcriber = Transcriber.from_model(str(tiny_model), settings, CPU)
    written: list[str] = []
    blocks = captions.pipe_blocks(io.BytesIO(bytes(2 * 16_000 * 5 + 1)))
    captions.caption(blocks, transcriber, CaptionSettings(), written.append)
    assert "".join(written).strip() == ""


def test_where_there_is_no_microphone_a_pipe_is_the_way_out(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(captions, "SYSTEM", "plan9")
    assert call(["live", f"--model={tiny_model}", "--device=cpu"]) == 1
    assert "distilwhisper live -" in capsys.readouterr().err
    assert call(["live", "elsewhere", f"--model={tiny_model}"]) == 2
    assert sys.platform != "plan9"
