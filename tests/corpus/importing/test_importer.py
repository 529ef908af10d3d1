"""What a person is told of an import."""

import json
from pathlib import Path

import numpy as np
import pytest

from distilwhisper.cli import SOME_FAILED, call
from distilwhisper.speech.audio import write_wav


def recordings(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        write_wav(folder / f"{i:04d}.wav", np.full(1600 * (i % 5 + 1), 0.1, dtype=np.float32))
    return folder


def test_the_table_and_json_tell_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = recordings(tmp_path / "speech", 2)
    write_wav(source / "long.wav", np.full(16_000 * 31, 0.1, dtype=np.float32))
    (source / "0000.txt").write_text("one")
    (source / "torn.wav").write_bytes(b"RIFF")
    command = ["data", str(source), "--out", str(tmp_path / "all.jsonl"), "--language", "en"]
    assert call(command) == SOME_FAILED
    shown, named = capsys.readouterr()
    lines = {line[:14].strip(): line[14:].strip() for line in shown.splitlines()}
    assert lines["utterances"] == "3, 1 with text"
    assert lines["hours"] == "0.01"
    assert lines["languages"] == "en 3 utterances"
    assert lines["sample rates"] == "16000 Hz 3"
    assert lines["length"] == "0.10 to 31.00 s, median 0.20 s"
    assert lines["duplicates"] == "0 of audio, 0 of text and length"
    assert lines["too long"].startswith("1 over 30 s: see --cut")
    assert lines["problems"].endswith("1")
    assert "torn.wav" in named
    assert call([*command, "--json"]) == SOME_FAILED
    told = json.loads(capsys.readouterr().out)
    assert (told["n_utterances"], told["n_with_text"], told["max_s"]) == (3, 1, 31.0)
    assert told["n_by_length"] == [2, 0, 0, 0, 0, 0, 1]
    assert sum(told["problems"].values()) == 1
