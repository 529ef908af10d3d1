import json
from pathlib import Path
from typing import Any

import pytest

from distilwhisper.corpus.store import write_jsonl

RECIPE = """
name = "x"
teacher = "openai/some-teacher"
[data]
source = "speech"
language = "en"
[student]
decoder_layers = 2
[training]
steps = 2
kl_weight = 0.8
"""
WORDS = {"substitutions": 1, "deletions": 0, "insertions": 0, "words": 8}


def evaluation(folder: Path, *, hypothesis: str, errors: dict[str, int], rtfx: float) -> None:
    folder.mkdir(parents=True)
    row = {"id": "a<b", "reference": "say <b> twice", "hypothesis": hypothesis, "errors": errors}
    write_jsonl(folder / "scores.jsonl", [row])
    summary: dict[str, Any] = {
        "n_utterances": 1, "failed": {}, "n_parameters": 40_000_000, "rtfx": rtfx, "errors": errors,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's files: the student makes four errors of eight words, the teacher one."""
    for set_ in ("test", "long"):
        evaluation(tmp_path / f"eval/teacher-{set_}", hypothesis="say <b> once", errors=WORDS,
                   rtfx=10.0)  # fmt: skip
        evaluation(tmp_path / f"eval/student-{set_}", hypothesis="say it", rtfx=25.0,
                   errors={**WORDS, "deletions": 3})  # fmt: skip
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "verdicts").mkdir()
    kept, dropped = {"count": 3, "hours": 0.1}, {"count": 1, "hours": 0.02}
    verdicts = {
        "total": {"count": 4, "hours": 0.12},
        "kept": kept,
        "by_reason": {"wer_above_limit": dropped, "kept": kept},
    }
    (tmp_path / "verdicts/summary.json").write_text(json.dumps(verdicts))
    (tmp_path / "train").mkdir()
    write_jsonl(
        tmp_path / "train/metrics.jsonl",
        [
            {"step": 1, "loss": 3.0, "kl": 2.0, "pl": 1.4, "epoch": 0.5},
            {"step": 2, "loss": 2.0, "kl": 1.0, "pl": 1.2, "epoch": 1.0},
            {"step": 2, "validation_wer": 0.25},
        ],
    )
    (tmp_path / "transcripts").mkdir()
    for model in ("teacher", "student"):
        (tmp_path / f"transcripts/{model}.txt").write_text(f"what the {model} heard <i>")
    return tmp_path
