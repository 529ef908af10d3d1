"""The wheel in an environment of its own, with the core alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from corpora import hearing_model, noise
from distilwhisper.speech.audio import write_wav

TOP = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys
import distilwhisper as dw

model = dw.load_model(sys.argv[1], device="cpu", dtype="float32")
result = model.transcribe(sys.argv[2], max_new_tokens=8)
assert [segment.text for segment in model.stream(sys.argv[2], max_new_tokens=8)]
result.save(sys.argv[3])
print(result.text)
"""


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_transcribes_with_the_core_alone(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, TOP)
    (wheel,) = tmp_path.glob("*.whl")
    (source,) = tmp_path.glob("*.tar.gz")
    assert source.stat().st_size < 5e6
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pins = TOP / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", pins, "torch", wheel)
    model = hearing_model(tmp_path / "model")
    write_wav(tmp_path / "one.wav", noise(1.0, seed=1))
    subtitles = tmp_path / "out" / "one.srt"
    text = run(python, "-c", PROGRAM, model, tmp_path / "one.wav", subtitles)
    assert subtitles.read_text().startswith("1\n00:00:00,")
    command = tmp_path / "venv" / "bin" / "distilwhisper"
    options = ["--model", model, "--max-new-tokens", "8", "--device", "cpu", "--dtype", "float32"]
    shown = run(command, "transcribe", tmp_path / "one.wav", *map(str, options))
    assert "".join(shown.split()) == text.strip()
    failed = subprocess.run(
        [command, "label", "none.jsonl", "--teacher", model, "--out", tmp_path / "labels"],
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    assert 'pip install "distilwhisper[train]"' in failed.stderr
