import json
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora import bad_utterances, corpus, hearing_model, noise, snapshot, utterance
from distilwhisper.corpus.records import Utterance, read_manifest, write_manifest
from distilwhisper.corpus.store import ChangedShard, read_jsonl, shard_path
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.engines import DecodingJob
from distilwhisper.evaluation.comparison import Comparison
from distilwhisper.evaluation.scoring import EvaluationSummary, summary_line
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.layout import BadCheckpoint
from distilwhisper.run.files import BadRunFolder
from distilwhisper.run.stages import StageChanged
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.stages.evaluate import (
    EvaluationTask,
    evaluate_all,
    evaluate_tasks,
    short_names,
)
from distilwhisper.stages.settings import EvaluateSettings, Workers
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.wer import ErrorCounts, character_errors, word_errors

CPU = Hardware(device="cpu", dtype="float32")
ON_CPU = Workers(CPU)
DECODING = DecodingSettings(max_new_tokens=8, batch_size=3, temperature=(0.0,))
SETTINGS = EvaluateSettings(decoding=DECODING, shard_size=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearing_model(tmp_path_factory.mktemp("models") / "hearing")


def evaluate(
    model: Path, manifest: Path, out: Path, settings: EvaluateSettings = SETTINGS
) -> EvaluationSummary:
    task = EvaluationTask(manifest, settings, out)
    (summary,) = evaluate_tasks(str(model), [task], ON_CPU)
    return summary


def hypotheses(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("shard-*.jsonl")) for row in read_jsonl(path)]


def scores(out: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_jsonl(out / "scores.jsonl")}


def test_every_utterance_has_its_row_and_the_rate_is_errors_over_words(
    tmp_path: Path, model: Path
) -> None:
    manifest, out = corpus(tmp_path, 6), tmp_path / "eval"
    summary = evaluate(model, manifest, out)
    utterances = read_manifest(manifest).utterances
    rows = hypotheses(out)
    assert [row["id"] for row in rows] == [u.id for u in utterances]
    assert len({row["text"] for row in rows}) > 1

    normalize = normalizer_for("en")
    total = ErrorCounts(0, 0, 0, 0)
    for u, row in zip(utterances, rows, strict=True):
        counted = word_errors(normalize(u.text or ""), normalize(row["text"]))
        assert scores(out)[u.id]["errors"] == asdict(counted)
        total += counted
    assert summary.errors == total
    assert total.words == sum(len((u.text or "").split()) for u in utterances)
    written = json.loads((out / "summary.json").read_text())
    assert written["wer"] == pytest.approx(total.errors / total.words)
    assert written == summary.to_dict()
    # A mean over utterances would be another number: the texts differ in length.
    assert len({row["errors"]["words"] for row in scores(out).values()}) > 1


def test_hypotheses_are_those_of_the_utterances(tmp_path: Path, model: Path) -> None:
    manifest, out = corpus(tmp_path, 5), tmp_path / "eval"
    evaluate(model, manifest, out)
    alone = Transcriber.from_model(
        str(model), DecodingSettings(max_new_tokens=8, temperature=(0.0,)), CPU
    )
    for row in hypotheses(out):
        (window,) = alone.decode([load_samples(tmp_path / f"{row['id']}.wav")])
        assert row["text"] == window.text


def test_recordings_that_cannot_be_read_are_named_and_count_as_deletions(
    tmp_path: Path, model: Path
) -> None:
    manifest, out = corpus(tmp_path, 2, more=bad_utterances(tmp_path)), tmp_path / "eval"
    summary = evaluate(model, manifest, out)
    assert set(summary.failed) == {"missing", "corrupt", "beyond"}
    assert str(tmp_path / "missing.wav") in summary.failed["missing"]
    assert summary.n_utterances == len(hypotheses(out)) == 5
    lost = scores(out)["missing"]["errors"]
    assert lost == {"substitutions": 0, "deletions": 5, "insertions": 0, "words": 5}
    assert summary.errors.words == sum(r["errors"]["words"] for r in scores(out).values())
    heard_s = sum(u.duration_s or 0 for u in read_manifest(manifest).utterances[:2])
    assert summary.audio_s == pytest.approx(heard_s, abs=0.002)


def test_all_recordings_may_fail(tmp_path: Path, model: Path) -> None:
    manifest = corpus(tmp_path, 0, more=bad_utterances(tmp_path))
    summary = evaluate(model, manifest, tmp_path / "eval")
    assert len(summary.failed) == 3
    assert summary.errors.wer == 1.0
    assert summary.rtfx == 0.0


def test_an_utterance_without_reference_is_transcribed_and_not_scored(
    tmp_path: Path, model: Path
) -> None:
    silent = replace(utterance(tmp_path, 50), text=None)
    manifest, out = corpus(tmp_path, 2, more=[silent]), tmp_path / "eval"
    summary = evaluate(model, manifest, out)
    assert summary.n_utterances == 3
    assert summary.n_without_reference == 1
    assert set(scores(out)) == {"u000", "u001"}
    assert hypotheses(out)[2]["id"] == "u050"
    assert hypotheses(out)[2]["error"] is None


def test_a_set_without_references_has_no_rate(tmp_path: Path, model: Path) -> None:
    silent = [replace(utterance(tmp_path, i), text=None) for i in range(2)]
    summary = evaluate(model, corpus(tmp_path, 0, more=silent), tmp_path / "eval")
    written = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert written["wer"] is None
    assert summary.n_without_reference == 2
    assert "no references" in summary_line("tiny", summary)


def test_a_set_with_an_unspaced_language_is_counted_in_characters(tmp_path: Path) -> None:
    model = hearing_model(tmp_path / "model", multilingual=True)
    chinese = replace(utterance(tmp_path, 7, language="zh"), text="那里有雨")
    english = utterance(tmp_path, 8, language="en")
    out = tmp_path / "eval"
    summary = evaluate(model, corpus(tmp_path, 0, more=[chinese, english]), out)
    assert summary.unit == "character"
    for id_, language in (("u007", "zh"), ("u008", "en")):
        row = next(r for r in hypotheses(out) if r["id"] == id_)
        reference = {"u007": chinese, "u008": english}[id_].text or ""
        normalize = normalizer_for(language)
        counted = character_errors(normalize(reference), normalize(row["text"]))
        assert scores(out)[id_]["errors"] == asdict(counted)
    assert "CER" in summary_line("tiny", summary)


@pytest.mark.parametrize("language", ["germn", "fr"])
def test_a_language_the_model_does_not_know_is_refused_before_any_work(
    tmp_path: Path, tiny_multilingual_model: Path, language: str
) -> None:
    manifest = corpus(tmp_path, 2, more=[utterance(tmp_path, 7, language=language)])
    with pytest.raises(ValueError, match=f"'u007'.*\"{language}\""):
        evaluate(tiny_multilingual_model, manifest, tmp_path / "eval")
    assert not list((tmp_path / "eval").glob("shard-*"))


@pytest.mark.slow
@pytest.mark.parametrize("named", [None, "en"])
def test_a_language_that_is_asked_for_decides_how_errors_are_counted(
    tmp_path: Path,
    tiny_multilingual_model: Path,
    named: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The English normaliser takes accents away; in German they make another word."""
    one = replace(utterance(tmp_path, 0, language=named), text="Über twenty")
    write_manifest(tmp_path / "manifest.jsonl", [one])
    for language, reference in ((None, "uber 20"), ("German", "über twenty")):
        asked = replace(SETTINGS, decoding=replace(SETTINGS.decoding, language=language))
        out = tmp_path / str(language)
        manifest = tmp_path / "manifest.jsonl"
        evaluate(tiny_multilingual_model, manifest, out, asked)
        (row,) = read_jsonl(out / "scores.jsonl")
        assert row["reference"] == reference
    assert ("(en) and are taken for de" in capsys.readouterr().err) is (named == "en")


def test_a_long_utterance_is_cut_into_chunks(tmp_path: Path, model: Path) -> None:
    samples = noise(45.0, seed=5)
    write_wav(tmp_path / "long.wav", samples)
    long = Utterance(id="long", audio="long.wav", text="the rain in the valley")
    settings = EvaluateSettings(replace(DECODING, chunk_s=15, overlap_s=3))
    manifest, out = corpus(tmp_path, 1, more=[long]), tmp_path / "eval"
    summary = evaluate(model, manifest, out, settings)
    assert summary.failed == {}
    transcriber = Transcriber.from_model(str(model), settings.decoding, CPU)
    heard = transcriber.transcribe(load_samples(tmp_path / "long.wav"))
    assert len({segment.seek for segment in heard.segments}) > 1
    assert hypotheses(out)[1] == {"id": "long", "text": heard.text, "language": "en", "error": None}
    assert summary.audio_s == pytest.approx(45.3)


def test_a_second_run_changes_no_hypothesis_and_no_result(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out = corpus(tmp_path, 5, more=bad_utterances(tmp_path)), tmp_path / "eval"
    first = evaluate(model, manifest, out)
    before = snapshot(out)
    capsys.readouterr()
    assert evaluate(model, manifest, out) == first
    after = snapshot(out)
    assert {k: v[1] for k, v in after.items()} == {k: v[1] for k, v in before.items()}
    decoded = [name for name in before if name.startswith("shard-")]
    assert len(decoded) == 2
    for name in [*decoded, "timing/00000.json", "timing/00001.json", "stage.json"]:
        assert after[name][0] == before[name][0], f"{name} was written again"


@pytest.mark.slow
def test_a_run_that_lost_a_shard_decodes_that_one(tmp_path: Path, model: Path) -> None:
    manifest, out = corpus(tmp_path, 9), tmp_path / "eval"
    first = evaluate(model, manifest, out)
    before = snapshot(out)
    shard_path(out, 1).unlink()
    again = evaluate(model, manifest, out)
    after = snapshot(out)
    for name in ("shard-00000.jsonl", "shard-00002.jsonl"):
        assert after[name] == before[name]
    assert after["shard-00001.jsonl"][1] == before["shard-00001.jsonl"][1]
    assert after["scores.jsonl"][1] == before["scores.jsonl"][1]
    assert (again.errors, again.audio_s) == (first.errors, first.audio_s)


def test_scores_can_be_made_again_without_decoding(tmp_path: Path, model: Path) -> None:
    manifest, out = corpus(tmp_path, 3), tmp_path / "eval"
    evaluate(model, manifest, out)
    before = snapshot(out)
    (out / "scores.jsonl").unlink()
    (out / "summary.json").unlink()
    evaluate(model, manifest, out)
    after = snapshot(out)
    assert after["scores.jsonl"][1] == before["scores.jsonl"][1]
    assert after["summary.json"][1] == before["summary.json"][1]


def test_other_settings_and_inputs_are_refused_by_name(tmp_path: Path, model: Path) -> None:
    manifest, out = corpus(tmp_path, 2), tmp_path / "eval"
    evaluate(model, manifest, out)
    before = snapshot(out)
    other = replace(SETTINGS, decoding=replace(SETTINGS.decoding, timestamps=False))
    with pytest.raises(StageChanged, match=r"decoding\.timestamps: was true, now false"):
        evaluate(model, manifest, out, other)
    write_manifest(manifest, read_manifest(manifest).utterances[:1])
    with pytest.raises(StageChanged, match="input manifest: was"):
        evaluate(model, manifest, out)
    assert snapshot(out) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_damaged_model_is_named_and_costs_no_result(
    tmp_path: Path, model: Path, force: bool
) -> None:
    damaged = shutil.copytree(model, tmp_path / "model")
    manifest, out = corpus(tmp_path, 2), tmp_path / "eval"
    evaluate(damaged, manifest, out)
    before = snapshot(out)
    weights = damaged / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    task = EvaluationTask(manifest, SETTINGS, out)
    with pytest.raises(BadCheckpoint, match=f"{re.escape(str(weights))}: not a whole safetensors"):
        evaluate_tasks(str(damaged), [task], ON_CPU, force=force)
    assert snapshot(out) == before


def test_repeated_five_grams_are_counted_over_all_hypotheses(tmp_path: Path, model: Path) -> None:
    manifest, out = corpus(tmp_path, 4), tmp_path / "eval"
    summary = evaluate(model, manifest, out)
    words = " ".join(scores(out)[f"u00{i}"]["hypothesis"] for i in range(4)).split()
    grams = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    assert summary.repeated_5_grams == len(grams) - len(set(grams))


def test_a_shard_holds_at_least_one_utterance() -> None:
    with pytest.raises(ValueError, match="shard_size must be at least 1, found 0"):
        EvaluateSettings(shard_size=0)


def test_hypotheses_that_somebody_has_edited_are_refused(tmp_path: Path, model: Path) -> None:
    manifest, out = corpus(tmp_path, 5), tmp_path / "eval"
    before = evaluate(model, manifest, out)
    shard = shard_path(out, 1)
    shard.write_bytes(shard.read_bytes().replace(b'"text": "', b'"text": "better '))
    with pytest.raises(ChangedShard, match=r"shard-00001\.jsonl must hold what its stage wrote"):
        evaluate(model, manifest, out)
    shard.unlink()
    assert evaluate(model, manifest, out).errors == before.errors


def noisy(text: str, *, seed: int = 0) -> EvaluateSettings:
    return replace(SETTINGS, noise=text, noise_seed=seed)


def test_noise_is_heard_goes_on_after_a_kill_and_is_part_of_the_result(
    tmp_path: Path, model: Path
) -> None:
    manifest, out = corpus(tmp_path, 5), tmp_path / "eval"
    clean = evaluate(model, manifest, tmp_path / "clean")
    first = evaluate(model, manifest, out, noisy("babble:0"))
    before = snapshot(out)
    assert hypotheses(out) != hypotheses(tmp_path / "clean")
    assert (first.audio_s, first.failed) == (clean.audio_s, {})
    shard_path(out, 1).unlink()
    evaluate(model, manifest, out, noisy("babble:0"))
    assert snapshot(out)["shard-00001.jsonl"][1] == before["shard-00001.jsonl"][1]
    for other, difference in (
        (noisy("babble:5"), 'noise: was "babble:0", now "babble:5"'),
        (noisy("babble:0", seed=1), "noise_seed: was 0, now 1"),
        (SETTINGS, 'noise: was "babble:0", now null'),
    ):
        with pytest.raises(StageChanged, match=difference):
            evaluate(model, manifest, out, other)


def test_noise_that_cannot_be_is_refused_before_any_set_is_decoded(
    tmp_path: Path, model: Path
) -> None:
    alone = corpus(tmp_path / "alone", 1)
    tasks = [
        EvaluationTask(corpus(tmp_path / "many", 3), SETTINGS, tmp_path / "out" / "many"),
        EvaluationTask(alone, noisy("babble:5"), tmp_path / "out" / "alone"),
    ]
    with pytest.raises(ValueError, match="babble must be of other speakers"):
        evaluate_tasks(str(model), tasks, ON_CPU)
    assert not shard_path(tasks[0].out, 0).exists()


def test_a_folder_of_noise_that_has_changed_is_refused(tmp_path: Path, model: Path) -> None:
    manifest, out = corpus(tmp_path, 2), tmp_path / "eval"
    noises = tmp_path / "noises"
    noises.mkdir()
    write_wav(noises / "a.wav", noise(1.0, seed=9))
    settings = noisy(f"recorded:0@{noises}")
    evaluate(model, manifest, out, settings)
    evaluate(model, manifest, out, settings)
    write_wav(noises / "b.wav", noise(1.0, seed=10))
    with pytest.raises(StageChanged, match="input noise: was"):
        evaluate(model, manifest, out, settings)


def test_a_silent_utterance_stays_under_noise_and_is_counted(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "silent.wav", np.zeros(8_000, dtype=np.float32))
    silent = Utterance(id="silent", audio="silent.wav", text="")
    manifest = corpus(tmp_path, 2, more=[silent])
    summary = evaluate(model, manifest, tmp_path / "eval", noisy("white:0"))
    assert (summary.n_utterances, summary.failed) == (3, {})
    said = "evaluate: 1 utterances are silent, and were left without white:0"
    assert said in capsys.readouterr().err


def test_faults_of_the_settings_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"shard_size must be .* 0; .*found \"pub:10\", there are"):
        EvaluateSettings(shard_size=0, noise="pub:10")


# Several models, sets and noises


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearing_model(tmp_path_factory.mktemp("models") / "other", end=3.0)


def evaluate_both(models: list[Path], sets: list[Path], out: Path) -> Comparison:
    return evaluate_all([str(model) for model in models], sets, [None], out, SETTINGS, ON_CPU)


def test_every_model_hears_every_set_as_it_would_alone(
    tmp_path: Path, model: Path, other_model: Path
) -> None:
    sets = [corpus(tmp_path / name, n) for name, n in (("one", 2), ("two", 3))]
    out = tmp_path / "out"
    found = evaluate_both([model, other_model], sets, out)
    assert found.models == ("hearing", "other")
    assert found.sets == ("one-manifest", "two-manifest")
    assert found.baseline == "other"
    assert [cell.folder for cell in found.cells] == [
        "hearing/one-manifest", "hearing/two-manifest", "other/one-manifest", "other/two-manifest",
    ]  # fmt: skip
    assert found.cells[1].errors != found.cells[3].errors
    evaluate(other_model, sets[1], tmp_path / "alone")
    for name in ("shard-00000.jsonl", "stage.json"):
        there, alone = (
            folder / name for folder in (out / "other/two-manifest", tmp_path / "alone")
        )
        assert there.read_bytes() == alone.read_bytes()
    written = json.loads((out / "comparison.json").read_text())
    assert written == json.loads(json.dumps(found.to_dict()))
    figures = sorted(path.name for path in (out / "figures").iterdir())
    assert figures == ["wer-rtfx.png", "wer-rtfx.svg"]


def test_a_model_is_loaded_once_for_all_its_sets_and_not_at_all_to_score_anew(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = DecodingJob.load

    def counted(job: DecodingJob) -> Transcriber:
        loaded.append(Path(job.model))
        return load(job)

    monkeypatch.setattr(DecodingJob, "load", counted)
    tasks = [
        EvaluationTask(corpus(tmp_path / name, 2), SETTINGS, tmp_path / "out" / name)
        for name in ("one", "two")
    ]
    first = evaluate_tasks(str(model), tasks, ON_CPU)
    assert loaded == [model]
    (tasks[1].out / "summary.json").unlink()
    (tasks[1].out / "scores.jsonl").unlink()
    assert evaluate_tasks(str(model), tasks, ON_CPU) == first
    assert loaded == [model]
    assert (tasks[1].out / "scores.jsonl").exists()
    shard_path(tasks[1].out, 0).unlink()
    evaluate_tasks(str(model), tasks, ON_CPU)
    assert loaded == [model, model]


def test_a_draft_is_the_first_model_s_alone_and_part_of_its_name(
    tmp_path: Path, model: Path, other_model: Path
) -> None:
    found = evaluate_all(
        [str(model), str(model)],
        [corpus(tmp_path, 1)],
        [None],
        tmp_path / "out",
        SETTINGS,
        Workers(CPU, draft=str(other_model)),
    )
    assert found.models == ("hearing+other", "hearing")
    assert found.cells[0].acceptance is not None
    assert found.cells[1].acceptance is None
    assert found.differences[0].difference == 0.0
    assert found.differences[0].against == "hearing"


def test_names_are_as_short_as_they_can_be_told_apart_by() -> None:
    names = ["openai/whisper-tiny", "runs/a/student", "runs/b/student/", "my model@v2"]
    assert short_names(names) == ["whisper-tiny", "a-student", "b-student", "my-model-v2"]


@pytest.mark.parametrize(
    ("models", "sets", "noises", "message"),
    [
        (["m", "./m"], ["a"], [None], "every model must be named once"),
        (["m"], ["a.jsonl", "a"], [None], "every set must be named once"),
        (["m"], ["a"], ["white:10", "white:10"], "every noise must be named once"),
        (["m"], [], [None], "at least one model, one set"),
    ],
)
def test_what_is_named_twice_or_not_at_all_is_refused_before_any_work(
    tmp_path: Path, models: list[str], sets: list[str], noises: list[str | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_all(models, [Path(set_) for set_ in sets], noises, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("hub_id", [False, True])
def test_a_model_among_the_sets_is_sent_behind_them(
    tmp_path: Path, model: Path, hub_id: bool
) -> None:
    other = Path("openai/whisper-base") if hub_id else model
    manifests = [other, corpus(tmp_path, 1)]
    with pytest.raises(ValueError, match=rf"as --against {other}$"):
        evaluate_all([str(model)], manifests, [None], tmp_path / "out", SETTINGS, ON_CPU)
    assert not list(tmp_path.glob("out/*/*"))


def test_a_comparison_does_not_go_into_the_folder_of_an_evaluation_nor_the_other_way(
    tmp_path: Path, model: Path
) -> None:
    manifest = corpus(tmp_path, 1)
    evaluate(model, manifest, tmp_path / "single")
    with pytest.raises(ValueError, match=r"found a single evaluation's stage\.json"):
        evaluate_all([str(model)], [manifest], [None], tmp_path / "single", SETTINGS, ON_CPU)
    evaluate_all([str(model)], [manifest], [None], tmp_path / "many", SETTINGS, ON_CPU)
    with pytest.raises(BadRunFolder, match=r"found no stage\.json but comparison\.json"):
        evaluate(model, manifest, tmp_path / "many")


def test_other_settings_are_refused_before_any_model_is_at_work(
    tmp_path: Path, model: Path, other_model: Path
) -> None:
    sets = [corpus(tmp_path / name, 1) for name in ("one", "two")]
    before = replace(SETTINGS, shard_size=9)
    evaluate(model, sets[1], tmp_path / "out" / "hearing" / "two-manifest", before)
    with pytest.raises(StageChanged, match=r"(?s)hearing/two-manifest .*shard_size: was 9, now 4"):
        evaluate_both([model, other_model], sets, tmp_path / "out")
    assert not list((tmp_path / "out").glob("**/one-manifest/shard-*"))


def test_a_language_that_a_model_does_not_know_is_refused_before_the_first_set(
    tmp_path: Path, model: Path
) -> None:
    english, german = corpus(tmp_path / "en", 1), corpus(tmp_path / "de", 0)
    write_manifest(german, [utterance(tmp_path / "de", 1, language="de")])
    with pytest.raises(ValueError, match="'u001'"):
        evaluate_all([str(model)], [english, german], [None], tmp_path / "out", SETTINGS)
    assert not list((tmp_path / "out").glob("**/shard-*"))
