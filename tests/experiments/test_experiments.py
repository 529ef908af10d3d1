"""Every experiment at the unit scale, from the command line, offline, in one folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from experiments.__main__ import call
from experiments.catalogue import EXPERIMENTS
from experiments.context import Context
from experiments.settings import Settings

from distilwhisper.cli import OK, SOME_FAILED, USAGE
from distilwhisper.corpus.records import read_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.text.wer import ErrorCounts, word_errors
from unit_scale import Run

WITH_FIGURE = {
    *("table5", "table10", "table11", "table12", "table20", "table21", "table23"),
    *("figure2", "overlap", "prompts", "hallucination", "encoder", "label-quality"),
}
NAMES = [experiment.name for experiment in EXPERIMENTS]


def summary(out: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / name / "summary.json").read_text())
    return record


def measured(out: Path) -> dict[str, int]:
    """Return when every file that holds a measurement was written."""
    folders = (out / "cells", out / "results")
    return {
        str(path): path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and (path.name.startswith("shard-") or folder.name == "results")
    }


def read_all(folder: Path) -> dict[str, bytes]:
    """Return what an experiment has written, but for the record of its starts."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs_offline_and_again_without_measuring(
    name: str, run: Run, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, results) == OK
    folder = results / name
    assert capsys.readouterr().out.startswith((folder / "table.md").read_text() + "\n")
    check_tables(folder)
    check_rows(folder)
    assert ((folder / "figure.svg").exists(), (folder / "figure.png").exists()) == (
        (True, True) if name in WITH_FIGURE else (False, False)
    )
    files, before, n_starts = read_all(folder), measured(results), n_invocations(folder)
    assert run(name, results) == OK
    assert measured(results) == before
    assert read_all(folder) == files
    assert n_invocations(folder) == n_starts + 1


def n_invocations(folder: Path) -> int:
    return len(json.loads((folder / "run.json").read_text())["invocations"])


def check_tables(folder: Path) -> None:
    """The same rows in both, and a title."""
    lines = (folder / "table.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert lines[0].startswith("# ")
    assert len((folder / "table.csv").read_text().splitlines()) == len(rows) - 1


def check_rows(folder: Path) -> None:
    """An arm is the sum of its rows, and their errors are those of their texts."""
    by_arm: dict[str, ErrorCounts] = {}
    for row in read_jsonl(folder / "rows.jsonl"):
        counted = word_errors(row["reference"], row["hypothesis"])
        assert row["errors"]["words"] == counted.words
        by_arm[row["arm"]] = by_arm.get(row["arm"], ErrorCounts()) + counted
    arms = json.loads((folder / "summary.json").read_text())["arms"]
    assert {arm["arm"]: arm["wer"] for arm in arms} == {
        arm: counts.wer for arm, counts in by_arm.items()
    }
    for arm in arms:
        for interval in (arm["mean_wer"], arm["difference"]):
            assert interval is None or interval["low"] <= interval["value"] <= interval["high"]


def test_experiments_share_what_they_measure(run: Run, results: Path) -> None:
    assert run("table16", results) == OK
    before = measured(results)
    assert run("table6", results) == OK
    assert measured(results) == before


def test_all_arms_transcribe_all_utterances(run: Run, unit: Path, results: Path) -> None:
    assert run("table16", results) == OK
    rows = list(read_jsonl(results / "table16" / "rows.jsonl"))
    ids = [
        u.id
        for name in ("short-a", "short-b")
        for u in read_manifest(unit.parent / name / "manifest.jsonl").utterances
    ]
    heard = set()
    for arm in ("teacher", "student", "other"):
        of_arm = [row for row in rows if row["arm"] == arm]
        assert [row["id"] for row in of_arm] == ids
        heard.add(tuple(row["hypothesis"] for row in of_arm))
    assert len(heard) == 3  # else the experiments could not tell the models apart


def test_drafts_never_change_a_text(run: Run, results: Path) -> None:
    assert run("table9", results) == OK
    lines = (results / "table9" / "table.csv").read_text().splitlines()
    place = lines[0].split(",").index("other texts") - len(lines[0].split(","))
    assert [line.split(",")[place] for line in lines[1:3]] == ["0", "0"]
    arms = {arm["arm"]: arm for arm in summary(results, "table9")["arms"]}
    drafting = arms["teacher with student, batch 1"]
    assert 0 <= drafting["more"]["acceptance"] <= 1
    assert drafting["difference"]["value"] == 0.0
    assert drafting["p"] == 1.0
    assert arms["teacher, batch 1"]["more"]["acceptance"] is None


def test_a_lower_confidence_uses_fewer_layers(run: Run, results: Path) -> None:
    assert run("table20", results, "--set", "exit_confidences=[1.0, 0.01]") == OK
    layers = [arm["more"]["layers_per_token"] for arm in summary(results, "table20")["arms"]]
    assert layers == [4.0, 1.0]


def test_settings_bend_an_experiment(run: Run, unit: Path, results: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        unit.read_text()
        .replace("chunks_s = [30.0, 15.0]", "chunks_s = [20.0]")
        .replace("max_new_tokens = 8", "max_new_tokens = 3")
    )
    assert run("table23", results, "--settings", str(recipe), "--set", "seed=7") == OK
    arms = summary(results, "table23")["arms"]
    assert [arm["arm"] for arm in arms] == ["teacher, 20 s", "student, 20 s"]
    resolved = (results / "table23" / "recipe.toml").read_text()
    assert "max_new_tokens = 3" in resolved
    assert "seed = 7" in resolved


def test_a_recording_that_cannot_be_read_is_named(
    run: Run, context: Context[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "broken.jsonl"
    good = read_manifest(context.short[0].manifest)
    lines = [
        json.dumps({"id": u.id, "audio": str(good.root / u.audio), "text": u.text})
        for u in good.utterances
    ]
    lines.append(json.dumps({"id": "lost", "audio": "lost.wav", "text": "the rain"}))
    manifest.write_text("\n".join(lines) + "\n")
    assert run("table16", tmp_path, "--set", f'short=["{manifest}"]') == SOME_FAILED
    assert "broken: lost" in capsys.readouterr().err
    rows = list(read_jsonl(tmp_path / "table16" / "rows.jsonl"))
    assert [row["errors"]["deletions"] for row in rows if row["id"] == "lost"] == [2, 2, 2]
    more = ("--set", "prompt_utterances=9", "--set", f'short=["{manifest}"]')
    assert run("prompts", tmp_path, *more) == SOME_FAILED
    assert f"'lost' of {manifest} must have audio that can be read" in capsys.readouterr().err


def test_what_is_missing_is_named_with_the_way_to_give_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["table9", "--out", str(tmp_path)]) == USAGE
    message = capsys.readouterr().err
    assert "--set student=MODEL" in message
    assert "--set 'short=" in message
    assert "long=" not in message


def test_list_and_unknown_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(["--list"]) == OK
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == NAMES
    assert call(["table99", "--out", str(tmp_path)]) == USAGE
    assert "nearest is table9" in capsys.readouterr().err
    assert call([]) == USAGE
    assert not list(tmp_path.iterdir())
