"""Tables as people write them: what cannot be read right is named with its line."""

import os
from pathlib import Path

import numpy as np
import pytest

from distilwhisper.corpus.importing.entries import BadTranscripts
from distilwhisper.corpus.importing.importer import import_data
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import read_manifest
from distilwhisper.speech.audio import write_wav

Texts = dict[str, str | None]

COMMA = """path,text
a.wav,hello, this has a comma
b.wav,"an unclosed quote
"""
COMMA_INTO_SPEAKER = """path,text,speaker
a.wav,hello, this has a comma,ann
b.wav,short
"""
UNCLOSED_QUOTE = """path,text
a.wav,the first one
b.wav,"hello he said
c.wav,the third one
d.wav,the fourth one
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in "abcd":
        write_wav(tmp_path / f"{name}.wav", np.full(1600, 0.1, dtype=np.float32))
    return tmp_path


def imported(table: Path, settings: ImportSettings | None = None) -> tuple[Texts, dict[int, str]]:
    """Return the texts of a table's utterances by id, and its problems by line."""
    out = table.parent / "out" / "all.jsonl"
    summary = import_data(table, out, settings or ImportSettings())
    assert summary.n_utterances + len(summary.problems) > 0
    texts = {u.id: u.text for u in read_manifest(out).utterances} if summary.n_utterances else {}
    return texts, {int(p.where.rpartition(":")[2]): p.message for p in summary.problems}


def written(source: Path, text: str, name: str = "x.csv", encoding: str = "utf-8") -> Path:
    (source / name).write_bytes(text.encode(encoding))
    return source / name


def test_a_row_with_more_cells_than_the_header_and_an_open_quote_are_named(source: Path) -> None:
    texts, problems = imported(written(source, COMMA))
    assert texts == {}
    assert list(problems) == [2, 3]
    assert "must have 2 cells" in problems[2]
    assert "found 3" in problems[2]
    assert "must be closed" in problems[3]


def test_a_rest_of_the_text_is_no_speaker(source: Path) -> None:
    texts, problems = imported(written(source, COMMA_INTO_SPEAKER))
    assert texts == {"b": "short"}
    assert list(problems) == [2]


def test_an_open_quote_costs_its_own_row_alone(source: Path) -> None:
    texts, problems = imported(written(source, UNCLOSED_QUOTE))
    assert texts == {"a": "the first one", "c": "the third one", "d": "the fourth one"}
    assert list(problems) == [3]


def test_an_open_quote_that_a_later_row_closes_costs_its_own_row_alone(source: Path) -> None:
    text = 'path,text\na.wav,"hello he said\nb.wav,"second"\nc.wav,"third, at last"\n'
    texts, problems = imported(written(source, text))
    assert texts == {"b": "second", "c": "third, at last"}
    assert list(problems) == [2]


def test_a_cell_in_quotes_may_have_lines_signs_and_quotes(source: Path) -> None:
    text = 'path,text\na.wav,"one,\n\ntwo"\nb.wav,"he said ""no"""\n'
    text += 'c.wav,"so" he said\nd.wav,5" pipe\n'
    texts, problems = imported(written(source, text))
    assert texts == {"a": "one, two", "b": 'he said "no"', "c": "so he said", "d": '5" pipe'}
    assert problems == {}


def test_empty_cells_behind_the_last_and_empty_rows_are_no_fault(source: Path) -> None:
    texts, problems = imported(written(source, "path,text,\na.wav,one,,\n,,,\n\nb.wav,two\n"))
    assert texts == {"a": "one", "b": "two"}
    assert problems == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", 'path;text\na.wav;one, two\nb.wav;"three; four"\n'),
        ("x.csv", "path\ttext\na.wav\tone, two\nb.wav\tthree; four\n"),
        ("x.csv", "path|text\na.wav|one, two\nb.wav|three; four\n"),
        ("x.tsv", 'path,text\na.wav,"one, two"\nb.wav,three; four\n'),
        ("x.csv", 'File;Text\r\na.wav;one, two\r\nb.wav;"three; four"\r\n'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with its mark"])
def test_the_first_line_tells_what_separates_cells_and_the_encoding(
    source: Path, name: str, text: str, encoding: str
) -> None:
    if encoding.endswith("mark"):
        text, encoding = f"\ufeff{text}", "utf-16-le"
    texts, problems = imported(written(source, text, name, encoding))
    assert texts == {"a": "one, two", "b": "three; four"}
    assert problems == {}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_its_mark_is_refused_by_its_name(source: Path, encoding: str) -> None:
    table = written(source, "path,text\na.wav,one\n", encoding=encoding)
    with pytest.raises(
        BadTranscripts, match="must be UTF-8 text, found: a zero byte, as of UTF-16"
    ):
        imported(table)


def test_json_in_utf16_is_refused_by_its_name(source: Path) -> None:
    table = written(source, '{"path": "a.wav", "text": "one"}\n', "x.jsonl", "utf-16")
    with pytest.raises(BadTranscripts, match="must be UTF-8 text, found UTF-16"):
        imported(table)


def test_a_tab_in_a_cell_of_common_voice_is_named(source: Path) -> None:
    (source / "clips").mkdir()
    for name in "ab":
        os.link(source / f"{name}.wav", source / "clips" / f"{name}.wav")
    text = "client_id\tpath\tsentence\tage\nx\ta.wav\tone\ttwo\tteens\ny\tb.wav\tthree\t\n"
    written(source, text, "train.tsv")
    out = source / "out" / "all.jsonl"
    summary = import_data(source, out, ImportSettings(format="commonvoice"))
    assert [u.text for u in read_manifest(out).utterances] == ["three"]
    [problem] = summary.problems
    assert problem.where == f"{source}/train.tsv:2"
    assert "found 5: correct the line" in problem.message


@pytest.mark.parametrize("ending", ["", ".wav"])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_the_form_of_lj_speech_needs_no_header(
    source: Path, ending: str, *, whole_folder: bool
) -> None:
    (source / "corpus" / "wavs").mkdir(parents=True)
    for name in "abcd":
        (source / f"{name}.wav").rename(source / "corpus" / "wavs" / f"{name}.wav")
    lines = ["a|in 1455,|in fourteen fifty-five,", 'b|"so|he" said|so', "c|three|three", "d|four"]
    text = "".join(line.replace("|", f"{ending}|", 1) + "\n" for line in lines)
    table = written(source / "corpus", text, "metadata.csv")
    out = source / "out" / "all.jsonl"
    summary = import_data(table.parent if whole_folder else table, out, ImportSettings())
    found = {Path(u.audio).stem: u.text for u in read_manifest(out).utterances if u.text}
    assert found == {"a": "in fourteen fifty-five,", "c": "three"}
    assert [p.where.rpartition(":")[2] for p in summary.problems] == ["2", "4"]
    assert all("must have 3 cells" in p.message for p in summary.problems)


@pytest.mark.parametrize(
    "text",
    [
        '{"audio_filepath": "a.wav", "text": "one", "duration": 0.1}\n'
        '{"audio_filepath": "b.wav", "text": "two", "duration": 0.1}\n',
        '[{"audio_filepath": "a.wav", "text": "one"},\n'
        ' {"audio_filepath": "b.wav", "text": "two"}]',
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_nemos_manifests_are_read_with_the_ending_json(
    source: Path, text: str, mark: str, *, whole_folder: bool
) -> None:
    table = written(source, mark + text, "train_manifest.json")
    texts, problems = imported(table) if not whole_folder else (None, None)
    if whole_folder:
        out = source.parent / "all.jsonl"
        summary = import_data(source, out, ImportSettings())
        texts = {u.id: u.text for u in read_manifest(out).utterances if u.text}
        problems = summary.failed
    assert texts == {"a": "one", "b": "two"}
    assert not problems


def test_a_row_of_json_that_is_no_object_is_named(source: Path) -> None:
    table = written(source, '[{"path": "a.wav", "text": "one"}, 3]', "x.json")
    texts, problems = imported(table, ImportSettings(format="table"))
    assert texts == {"a": "one"}
    assert problems == {2: "must be one JSON object"}


@pytest.mark.slow
@pytest.mark.skipif("DISTILWHISPER_CASES" not in os.environ, reason="the cases are not here")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("comma", COMMA),
        ("comma-into-speaker", COMMA_INTO_SPEAKER),
        ("unclosed-quote", UNCLOSED_QUOTE),
    ],
)
def test_the_tables_here_are_the_cases(name: str, text: str) -> None:
    folder = Path(os.environ["DISTILWHISPER_CASES"]) / "data"
    assert (folder / f"{name}.csv").read_text("utf-8") == text
