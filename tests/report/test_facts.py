import json
import shutil
from pathlib import Path

import pytest

from distilwhisper.evaluation.bootstrap import Resampling
from distilwhisper.evaluation.comparison import compare
from distilwhisper.files import write_atomic
from distilwhisper.report.facts import ComparisonFacts, RunFacts, error_rate, read_facts
from distilwhisper.report.page import write_report
from distilwhisper.run.files import BadRunFolder
from evaluations import evaluation
from runs import make_run


def test_a_run_is_read_from_its_folder(run: Path) -> None:
    facts = read_facts(run)
    assert isinstance(facts, RunFacts)
    assert (facts.recipe["name"], facts.recipe["teacher"], facts.n_steps) == (
        "small",
        "openai/some-teacher",
        2,
    )
    assert facts.cell("student", "test").wer == 3 / 8
    assert facts.gap("test").difference == 2 / 8
    assert facts.gap("long").against == "teacher"
    assert facts.ratio == {"parameters": 0.75, "test": 2.5, "long": 2.5}
    assert set(facts.scores("teacher", "long")) == {"first", "second"}
    assert facts.retention is None


def test_a_single_evaluation_is_read_as_a_comparison_of_itself(run: Path) -> None:
    folder = run / "eval" / "student-test"
    write_atomic(folder / "stage.json", json.dumps({"settings": {"noise": "white:10"}}))
    facts = read_facts(folder)
    assert isinstance(facts, ComparisonFacts)
    (cell,) = facts.comparison.cells
    assert (cell.model, cell.noise, cell.wer) == ("student-test", "white:10", 3 / 8)
    page = write_report(folder / "report.html", [facts]).read_text()
    assert "student-test makes 37.5 %" in page


@pytest.mark.parametrize(
    ("wer", "shown"),
    [
        (None, "–"),
        (1.0, "100.0 %"),
        (55.2, "over 100 % (55.2 errors for every word: it loops, or makes words up)"),
    ],
)
def test_an_error_rate_over_100_percent_says_what_it_means(wer: float | None, shown: str) -> None:
    assert error_rate(wer) == shown


def test_a_run_under_noise_says_so(run: Path) -> None:
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text() + '[evaluate]\nnoise = "white:10"\n')
    facts = read_facts(run)
    assert isinstance(facts, RunFacts)
    assert facts.comparison.noises == ("white:10",)


def test_a_large_run_near_its_teacher_needs_no_caution(run: Path) -> None:
    path = run / "verdicts" / "summary.json"
    verdicts = json.loads(path.read_text())
    verdicts["kept"]["hours"] = 1000.0
    path.write_text(json.dumps(verdicts))
    far = read_facts(run)
    assert isinstance(far, RunFacts)
    assert far.caution is not None
    shutil.rmtree(run / "eval" / "student-test")
    shutil.copytree(run / "eval" / "teacher-test", run / "eval" / "student-test")
    near = read_facts(run)
    assert isinstance(near, RunFacts)
    assert near.caution is None


def test_a_comparison_is_read_as_it_was_written(tmp_path: Path) -> None:
    evaluations = [evaluation(tmp_path, name, heard={"a": "no"}) for name in ("one", "two")]
    few = Resampling(n=50)
    written = compare(evaluations, folder=tmp_path, baseline="one", resampling=few)
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(written.to_dict()))
    facts = read_facts(tmp_path)
    assert isinstance(facts, ComparisonFacts)
    assert facts.comparison == written


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"models": 1}'])
def test_a_comparison_of_another_version_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(BadRunFolder, match=r"(?s)comparison\.json must hold .*run evaluate on"):
        read_facts(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRunFolder, match=r"must be the folder of a finished run .* found none"):
        read_facts(tmp_path / "no")


def test_a_folder_of_something_else_is_told_by_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(BadRunFolder, match=r"with comparison\.json, .* found nothing"):
        read_facts(tmp_path)
    for i in range(12):
        (tmp_path / f"{i:02}.wav").touch()
    with pytest.raises(BadRunFolder, match=r"found 00\.wav, .*, 07\.wav and 4 more"):
        read_facts(tmp_path)


def test_an_unfinished_run_is_told_by_what_it_lacks(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    shutil.rmtree(run / "eval" / "student-test")
    message = (
        r"found no eval/student-test/summary\.json but data, eval, .*: distilwhisper run "
        r".*recipe\.toml --out .*run goes on where it stopped"
    )
    with pytest.raises(BadRunFolder, match=message):
        read_facts(run)
