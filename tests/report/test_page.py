import re
from pathlib import Path

from distilwhisper.report import read_facts, write_report


def page_of(run: Path, *, name: str = "x", teacher: str = "t") -> str:
    return write_report(run, read_facts(run, name=name, teacher=teacher)).read_text()


def test_the_page_says_what_the_files_say(run: Path) -> None:
    page = page_of(run, name="a run", teacher="openai/some-teacher")
    text = re.sub(r"<[^>]+>", "", page)
    assert "50.0 % word errors, the teacher 12.5 %: 37.5 points more errors" in text
    assert "100 % of the parameters and runs 2.50 times as fast" in text
    assert "trained for 2 steps on 0.10 hours of speech (3 utterances)" in text
    assert "1 (25.0 %) dropped" in text
    assert "wer above limit" in text
    assert "what the student heard" in text
    assert "openai/some-teacher" in text


def test_the_page_is_one_file_and_escapes_what_was_said(run: Path) -> None:
    page = page_of(run, name="<script>")
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert "a&lt;b" in page
    assert "heard &lt;i&gt;" in page
    assert page.count("<svg") == 2
    fetched = re.findall(r"(?:src|href)=[\"'](?!#)([^\"']+)", page)
    assert [link for link in fetched if not link.startswith("#")] == []


def test_words_that_were_missed_are_struck(run: Path) -> None:
    page = page_of(run)
    assert "<del>twice</del>" in page
    assert "<ins>once</ins>" in page


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert page_of(run) == page_of(run)
