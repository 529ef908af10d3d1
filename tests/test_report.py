import json
import re
from pathlib import Path
from typing import Any

import pytest

from distilwhisper.corpus.store import write_jsonl
from distilwhisper.report import write_report

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
    (tmp_path / "recipe.toml").write_text('name = "x"\n')
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


def test_the_page_says_what_the_files_say(run: Path) -> None:
    page = write_report(run, name="a run", teacher="openai/some-teacher").read_text()
    text = re.sub(r"<[^>]+>", "", page)
    assert "50.0 % word errors, the teacher 12.5 %: 37.5 points more errors" in text
    assert "100 % of the parameters and runs 2.50 times as fast" in text
    assert "trained for 2 steps on 0.10 hours of speech (3 utterances)" in text
    assert "1 (25.0 %) dropped" in text
    assert "wer above limit" in text
    assert "what the student heard" in text
    assert "openai/some-teacher" in text


def test_the_page_is_one_file_and_escapes_what_was_said(run: Path) -> None:
    page = write_report(run, name="<script>", teacher="t").read_text()
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert "a&lt;b" in page
    assert "heard &lt;i&gt;" in page
    assert page.count("<svg") == 2
    fetched = re.findall(r"(?:src|href)=[\"'](?!#)([^\"']+)", page)
    assert [link for link in fetched if not link.startswith("#")] == []


def test_words_that_were_missed_are_struck(run: Path) -> None:
    page = write_report(run, name="x", teacher="t").read_text()
    assert "<del>twice</del>" in page
    assert "<ins>once</ins>" in page


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    first = write_report(run, name="x", teacher="t").read_bytes()
    assert write_report(run, name="x", teacher="t").read_bytes() == first
