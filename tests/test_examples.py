"""The examples run, offline, with tiny models."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from corpora import corpus, hearing_model

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SYNTHETIC = EXAMPLES.parent / "demo" / "synthetic"


def run(name: str, *arguments: object, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_transcribe(
    tmp_path: Path,
    tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sounds = [SYNTHETIC / "slt-01.opus", SYNTHETIC / "rms-01.opus"]
    run("transcribe.py", *sounds, "--model", tiny_en, "--out", tmp_path, patch=monkeypatch)
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        *map(str, sounds)
    ]
    for sound in sounds:
        words = (tmp_path / f"{sound.stem}.txt").read_text().split()
        cues = (tmp_path / f"{sound.stem}.srt").read_text()
        assert len(words) >= 5
        assert words[-1] in cues
        assert max(map(len, cues.splitlines())) <= 42


@pytest.mark.slow
def test_distil(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = hearing_model(tmp_path / "teacher", multilingual=True, end=1.6)
    source = corpus(tmp_path / "speech", 12)
    out = tmp_path / "out"
    arguments = ("--teacher", teacher, "--out", out, "--steps", 2, "--max-wer", 1000)
    run("distil.py", source, *arguments, patch=monkeypatch)
    student, teachers = capsys.readouterr().out.splitlines()[-2:]
    assert student.startswith("student: ")
    assert teachers.startswith("teacher: ")
    assert (out / "run" / "student" / "model.safetensors").exists()
    assert json.loads((out / "compared" / "comparison.json").read_text())["models"]
