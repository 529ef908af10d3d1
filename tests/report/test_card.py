import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from distilwhisper.report import read_run, write_card
from distilwhisper.run.stages import fingerprint


def card_of(run: Path, *, teacher: str = "openai/some-teacher") -> Path:
    recipe = run / "recipe.toml"
    text = recipe.read_text().replace("openai/some-teacher", teacher)
    recipe.write_text(text.replace('"small"', '"a run: x"'))
    return write_card(run / "student", read_run(run))


def test_the_hub_reads_the_card(run: Path) -> None:
    data = ModelCard.load(card_of(run)).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "automatic-speech-recognition"
    assert data.base_model == "openai/some-teacher"
    assert data.language == ["en"]
    results = {r.dataset_type: (r.metric_type, r.metric_value) for r in data.eval_results}
    assert results == {"test": ("wer", 37.5), "long": ("wer", 37.5)}
    assert data.eval_results[0].dataset_name == "a run: x: held-out test"


def test_the_card_says_what_the_run_says(run: Path) -> None:
    text = ModelCard.load(card_of(run)).text
    assert "with 2 decoder layers" in text
    assert "| student, held-out test | 37.5 % | 1 / 2 / 0 of 8 words | 2 | 25.0 |" in text
    assert "| wer above limit | 1 | 0.02 |" in text
    assert "labelled 4 utterances (0.12 h); 3 (0.10 h) passed" in text
    assert "steps 2, kl_weight 0.8." in text
    assert "trained for 2 steps on 0.10 hours" in text
    assert "without previous text as a prompt" in text


def test_a_student_that_saw_prompts_is_not_warned_of_them(run: Path) -> None:
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text() + "prompt_probability = 0.2\n")
    assert "previous text" not in card_of(run).read_text()


@pytest.mark.parametrize("teacher", ["runs/a/student", "/models/base", "base"])
def test_a_teacher_that_is_no_hub_id_is_no_base_model(
    run: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    (run / "runs/a/student").mkdir(parents=True)
    assert ModelCard.load(card_of(run, teacher=teacher)).data.base_model is None


def test_a_card_without_references_gives_no_rate(run: Path) -> None:
    for name in ("teacher-test", "student-test"):
        path = run / "eval" / name / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "wer": None}))
    card = card_of(run)
    assert [r.dataset_type for r in ModelCard.load(card).data.eval_results] == ["long"]
    assert "| student, held-out test | – |" in card.read_text()


def test_characters_are_not_called_words(run: Path) -> None:
    for name in ("teacher-test", "student-test"):
        path = run / "eval" / name / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "unit": "character"}))
    card = ModelCard.load(card_of(run))
    types = {r.dataset_type: r.metric_type for r in card.data.eval_results}
    assert types == {"test": "cer", "long": "wer"}
    assert "| model, set | error rate |" in card.text
    assert "1 / 2 / 0 of 8 characters" in card.text


def test_listed_layers_are_counted(run: Path) -> None:
    recipe = run / "recipe.toml"
    text = recipe.read_text()
    assert "decoder_layers = 2\n" in text
    recipe.write_text(
        text.replace("decoder_layers = 2\n", "decoder_layers = 2\nlayers = [0, -2, -1]\n")
    )
    assert "with 3 decoder layers" in card_of(run).read_text()


def test_a_card_changes_no_fingerprint(run: Path) -> None:
    (run / "student").mkdir()
    (run / "student/config.json").write_text("{}")
    before = fingerprint(run / "student")
    card_of(run)
    assert fingerprint(run / "student") == before
