"""What the experiments that train share, at the unit scale."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments.__main__ import OK, SOME_FAILED
from experiments.context import Context
from experiments.settings import StudentsSettings
from experiments.students import (
    Corpus,
    kept_ids,
    label_corpus,
    nested,
    plan,
    train_students,
)

from distilwhisper.corpus.records import Label, Manifest, Utterance, read_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.model.checkpoint import load_checkpoint
from unit_scale import Run


def summary(out: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / name / "summary.json").read_text())
    return record


def corpus_of(lengths_s: Sequence[float]) -> Corpus:
    labels = {
        f"{number}": Label(
            f"{number}", (), "", "en", None, None, None, error=None, duration_s=length_s
        )
        for number, length_s in enumerate(lengths_s)
    }
    utterances = tuple(Utterance(id_, "a.wav") for id_ in labels)
    return Corpus(Manifest(Path("m"), Path(), utterances), Path("labels"), labels, {})


def test_more_hours_hold_fewer_hours() -> None:
    corpus = corpus_of([1.1, 0.3, 7.0, 2.2, 0.9, 3.3, 1.7, 0.1])
    ids = list(corpus.labels)
    total = corpus.hours(ids)
    assert total == pytest.approx(16.6 / 3600)
    before: set[str] = set()
    for share in (0.01, 0.3, 0.6, 1.0):
        drawn = nested(corpus, ids, share * total, seed=3)
        assert before <= set(drawn)
        assert drawn == [id_ for id_ in ids if id_ in drawn]  # the manifest's order
        assert share * total - 1e-9 <= corpus.hours(drawn) < share * total + 7.0 / 3600
        before = set(drawn)
    assert before == set(ids)
    assert nested(corpus, ids, 0.3 * total, seed=4) != nested(corpus, ids, 0.3 * total, seed=3)


def test_a_student_is_trained_once_and_its_checkpoints_go(
    context: Context[StudentsSettings],
) -> None:
    corpus = label_corpus(context)
    kept = kept_ids(context, corpus, context.settings.filter)
    twins = {name: plan(context, name, kept) for name in ("one", "same as one")}
    students = train_students(context, corpus, twins)
    assert students["one"].model.path == students["same as one"].model.path
    folder = Path(students["one"].model.path).parent
    weights = folder / "student" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    train_students(context, corpus, twins)
    assert weights.stat().st_mtime_ns == made
    assert {path.name for path in (folder / "train").iterdir() if path.name[0] != "."} == {
        "done", "metrics.jsonl", "stage.json"
    }  # fmt: skip
    assert not (folder / "student-init").exists()


def test_a_student_that_was_interrupted_ends_the_same(
    context: Context[StudentsSettings], tmp_path: Path
) -> None:
    """Its run goes on: here, from a student that was made and not yet trained."""
    corpus = label_corpus(context)
    kept = kept_ids(context, corpus, context.settings.filter)
    (whole,) = train_students(context, corpus, {"one": plan(context, "one", kept)}).values()
    other = replace(context, folder=tmp_path)
    shutil.copytree(context.folder / "labels", tmp_path / "labels")
    began = tmp_path / "students" / Path(whole.model.path).parent.name
    shutil.copytree(Path(whole.model.path).parent, began, symlinks=True)
    for part in ("student", "train", "stages"):
        shutil.rmtree(began / part)
    again = train_students(other, label_corpus(other), {"one": plan(other, "one", kept)})["one"]
    assert Path(again.model.path).parent == began
    ours, theirs = (
        load_checkpoint(Path(student.model.path)).model.state_dict() for student in (whole, again)
    )
    assert all((ours[name] == weight).all() for name, weight in theirs.items())


def test_budgets_and_controls_of_the_lambda_sweep(run: Run, results: Path) -> None:
    assert run("table10", results) == OK
    more = {arm["arm"]: arm["more"] for arm in summary(results, "table10")["arms"]}
    loosest, strict = "900 %", "100 %"
    for way in ("filtered", "by chance"):
        steps, passes = (more[f"{strict}, {way}, equal {what}"] for what in ("steps", "passes"))
        whole = more[f"{loosest}, {way}, equal passes"]
        assert passes["passes"] == pytest.approx(whole["passes"], rel=0.5)  # in whole steps
        assert steps["passes"] > 2 * whole["passes"]
    filtered, random = (more[f"{strict}, {way}, equal steps"] for way in ("filtered", "by chance"))
    assert (
        filtered["hours"] <= random["hours"] < more[f"{loosest}, by chance, equal steps"]["hours"]
    )
    rows = (results / "table10" / "table.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in rows[1:3]] == ["900", "100"]


def test_a_limit_that_keeps_nothing_has_no_students(run: Run, results: Path) -> None:
    assert run("table10", results, "--set", "max_wers=[9.0, 0.01]") == OK
    (line,) = (
        line
        for line in (results / "table10" / "table.md").read_text().splitlines()
        if line.startswith("| 1 |")
    )
    assert line.split("|")[2].strip() == "100.0"
    assert not line.replace("|", "").split()[2:]


def test_experiments_share_their_students(run: Run, results: Path) -> None:
    """What learns from all labels, as the settings say, is one student in all of them."""
    texts = []
    for name, arm in (
        ("table10", "900 %, filtered, equal steps"),
        ("table12", "1 + 2"),
        ("table21", "PL + KL"),
        ("encoder", "the teacher's, frozen"),
    ):
        before = set((results / "students").glob("*"))
        assert run(name, results) == OK
        made = set((results / "students").glob("*")) - before
        rows = read_jsonl(results / name / "rows.jsonl")
        texts.append({(r["set"], r["id"]): r["hypothesis"] for r in rows if r["arm"] == arm})
        assert all(text == texts[0] for text in texts)
        assert texts[0]
        arms = [a["arm"] for a in summary(results, name)["arms"] if a["more"]]
        assert len(made) < len(arms)


def test_the_encoders_likeness_is_one_where_it_is_the_teachers(run: Run, results: Path) -> None:
    assert run("encoder", results) == OK
    arms = {arm["arm"]: arm["more"] for arm in summary(results, "encoder")["arms"]}
    assert arms["the teacher's, frozen"]["similarity"] == pytest.approx(1.0)
    assert arms["trained"]["similarity"] < 1.0 - 1e-9
    for name in ("the teacher's, frozen", "trained", "trained, augmented"):
        assert 0.0 <= arms[name]["acceptance"] <= 1.0


def test_sound_that_cannot_be_labelled_is_named(
    run: Run, unit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = read_manifest(unit.parent / "train" / "manifest.jsonl")
    lines = [
        json.dumps(
            {"id": u.id, "audio": str(good.root / u.audio), "text": u.text, "language": "en"}
        )
        for u in good.utterances
    ]
    lines.append(json.dumps({"id": "lost", "audio": "lost.wav", "text": "rain", "language": "en"}))
    manifest = tmp_path / "train.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    assert run("label-quality", tmp_path, "--set", f"train={manifest}") == SOME_FAILED
    assert "lost" in capsys.readouterr().err
    assert "1 utterances have no label" in (tmp_path / "label-quality" / "table.md").read_text()
