import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from distilwhisper.corpus.records import Utterance, write_manifest
from distilwhisper.report.facts import read_run
from distilwhisper.report.page import write_card
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


def with_data(run: Path, data: str, utterances: list[Utterance] | None = None) -> Path:
    """Give a run's recipe other data, and the manifest that it has trained on."""
    recipe = run / "recipe.toml"
    recipe.write_text(re.sub(r"\[data\]\n(.+\n)*", f"[data]\n{data}\n", recipe.read_text()))
    if utterances is not None:
        write_manifest(run / "data" / "train.jsonl", utterances)
    return run


def test_the_card_names_speech_and_licences(run: Path) -> None:
    utterances = [
        Utterance("1", "a.wav", source="mozilla/voices", extra={"licence": "CC0"}),
        Utterance("2", "a.wav", source="mozilla/voices", extra={"license": "CC0"}),
        Utterance("3", "a.wav", source="radio", extra={"licence": "CC BY 4.0"}),
        Utterance("4", "a.wav"),
    ]
    card = ModelCard.load(card_of(with_data(run, 'source = "speech/all.jsonl"', utterances)))
    assert card.data.datasets == ["mozilla/voices"]
    assert (
        "Speech: `all`. Sources, by utterances: mozilla/voices 2, radio 1, not named 1. Licences: "
        "CC0 2, CC BY 4.0 1, not named 1."
    ) in card.text
    assert "The held-out test is a part of `all.jsonl` that was not trained on." in card.text


def test_the_card_names_the_sets_of_the_recipe(run: Path) -> None:
    for name in ("x", "y"):
        write_manifest(run / f"{name}.jsonl", [Utterance(name, "a.wav")])
    data = f'train = ["{run}/x.jsonl", "{run}/y.jsonl"]\ntest = "sets/fleurs.jsonl"'
    text = card_of(with_data(run, data)).read_text()
    assert "Speech: `x`, `y`." in text
    assert "The held-out test is `fleurs`." in text


@pytest.mark.parametrize(
    ("language", "normaliser"),
    [
        ("fr-FR", "sides: Whisper's basic one, which keeps the marks"),
        ("English", "sides: Whisper's English one. RTFx"),
        (None, "sides: of English texts Whisper's English one, of others Whisper's basic one"),
    ],
)
def test_the_card_names_language_and_normaliser(
    run: Path, language: str | None, normaliser: str
) -> None:
    data = 'source = "speech"' + ("" if language is None else f'\nlanguage = "{language}"')
    card = ModelCard.load(card_of(with_data(run, data)))
    code = {"fr-FR": "fr", "English": "en", None: None}[language]
    assert card.data.language == (None if code is None else [code])
    assert normaliser in card.text
    asked = f', generate_kwargs={{"language": "{code}"}}' if code else ""
    assert f'recognise("talk.mp3"{asked})["text"]' in card.text
    assert card.text.count(f"--language {code}") == (2 if code else 0)


def test_the_card_of_an_english_model_gives_no_language(run: Path) -> None:
    assert "generate_kwargs" not in card_of(run, teacher="openai/whisper-base.en").read_text()
