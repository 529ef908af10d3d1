import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import distilwhisper
from corpora import TEXTS, corpus, hearing_model, noise, snapshot, utterance
from distilwhisper.cli import OK, SOME_FAILED, USAGE, call
from distilwhisper.corpus.records import (
    Utterance,
    read_labels,
    read_manifest,
    read_verdicts,
    write_manifest,
)
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.layout import read_json_object
from distilwhisper.pipeline import run_recipe
from distilwhisper.recipe import DataSettings, LongFormSettings, Recipe
from distilwhisper.run.processes import EngineSettings
from distilwhisper.run.settings import SettingsError, build_settings, read_recipe
from distilwhisper.run.stages import StageChanged
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.augment import AugmentSettings
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import LabelSettings
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.settings import TrainingSettings
from tiny_model import write_tiny_model

SPEECH = Path(__file__).parent / "assets" / "speech"
RECIPE = """
name = "tiny"
teacher = "{teacher}"

[data]
{data}

[hardware]
device = "cpu"
dtype = "float32"

[label]
shard_size = 8

[label.decoding]
max_new_tokens = 17

[filter]
max_wer = 1000.0
max_compression_ratio = 1000.0

[student]
decoder_layers = 2

[training]
steps = 4
batch_size = 4
micro_batch_size = 2
warmup_steps = 1
checkpoint_every = 2
log_every = 1
{training}

[evaluate.decoding]
max_new_tokens = 4

[long_form]
utterances = 3
"""


@dataclass(frozen=True)
class Workplace:
    """A recipe, and the folder of its finished run."""

    recipe: Path
    out: Path

    def run(self, *options: str) -> int:
        return call(["run", str(self.recipe), "--out", str(self.out), *options])


def write_recipe(folder: Path, *, teacher: Path, data: str, training: str = "") -> Path:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(teacher=teacher, data=data, training=training))
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # One that ends by itself: the filter drops labels that were cut off.
    folder = tmp_path_factory.mktemp("models") / "teacher"
    return hearing_model(folder, multilingual=True, end=1.6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Workplace:
    folder = tmp_path_factory.mktemp("pipeline")
    speech = folder / "speech"
    speech.mkdir()
    for i in range(24):
        write_wav(speech / f"u{i:02}.wav", noise(0.3 + 0.05 * i, seed=i))
        (speech / f"u{i:02}.txt").write_text(f"{TEXTS[i % len(TEXTS)]} {i}")
    data = f'source = "{speech}"\nlanguage = "en"\nvalidation_fraction = 0.2\ntest_fraction = 0.2'
    work = Workplace(write_recipe(folder, teacher=teacher, data=data), folder / "finished")
    assert work.run() == OK
    return work


@pytest.fixture
def work(finished: Workplace, request: pytest.FixtureRequest) -> Iterator[Workplace]:
    """The finished run, copied beside it, where its paths hold."""
    out = finished.out.with_name(request.node.name)
    shutil.copytree(finished.out, out)
    yield replace(finished, out=out)
    shutil.rmtree(out)


def stages(out: Path) -> dict[str, Any]:
    """Return the files that a stage made, without the log of starts and the report's time."""
    return {
        name: content
        for name, content in snapshot(out).items()
        if name not in ("run.json", "recipe.toml", "report.html")
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    names = {name for name in {**before, **after} if before.get(name) != after.get(name)}
    return {name.split("/")[0] for name in names}


def test_a_recipe_runs_to_its_report(finished: Workplace) -> None:
    out = finished.out
    parts = [read_manifest(out / "data" / f"{part}.jsonl") for part in ("train", "test")]
    train, test = ({u.id for u in part.utterances} for part in parts)
    assert len(train) + len(test) < 24
    assert len(train) > 4
    assert test
    assert not train & test
    assert set(read_labels(out / "labels")) == train
    verdicts = read_verdicts(out / "verdicts")
    assert set(verdicts) == train
    assert any(verdict.keep for verdict in verdicts.values())
    assert (out / "student" / "model.safetensors").exists()
    for name in ("teacher-test", "student-test", "teacher-long", "student-long"):
        assert (out / "eval" / name / "summary.json").exists()
    assert len(list((out / "transcripts").glob("*.srt"))) == 2
    report = (out / "report.html").read_text()
    assert "tiny" in report
    assert "</html>" in report
    assert read_recipe(out / "recipe.toml", Recipe) == read_recipe(finished.recipe, Recipe)


def test_a_finished_run_does_nothing_again(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stages(work.out)
    assert work.run() == OK
    out, log = capsys.readouterr()
    assert out == f"{work.out / 'report.html'}\n"
    after = stages(work.out)
    # Manifests, scores and summaries are written again, byte for byte.
    assert {k: v[1] for k, v in after.items()} == {k: v[1] for k, v in before.items()}
    again = {name for name in after if after[name][0] != before[name][0]}
    cheap = ("data/", "eval/", "verdicts/", "student/README.md")
    assert all(name.startswith(cheap) for name in again), again
    assert not any("shard-" in name and name.startswith("eval/") for name in again)
    assert "to label" not in log
    assert "train: 4 steps" not in log
    assert "utterances for" not in log
    assert log.count("filter: warning: max_wer 1000 ") == 1


@pytest.mark.slow
def test_a_stage_and_all_behind_it_can_be_done_again(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stages(work.out)
    assert work.run("--from-stage", "evaluate") == OK
    # Each model is loaded once, for both sets.
    assert capsys.readouterr().err.count("utterances to evaluate") == 2
    after = stages(work.out)
    assert set(after) == set(before)
    untouched = ("labels/", "student-init/", "student/", "train/", "stages/")
    for name in after:
        if name == "student/README.md":  # says what was measured
            continue
        if name.startswith(untouched):
            assert after[name] == before[name], name
        elif name.startswith(("transcripts/", "eval/", "long/")):
            assert after[name][0] != before[name][0], name
        if name.endswith("scores.jsonl") or "shard-" in name or name.startswith("long/"):
            assert after[name][1] == before[name][1], name


def test_a_changed_setting_is_refused_with_the_difference_until_forced(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stages(work.out)
    assert work.run("--set", "filter.max_wer=900.0") == SOME_FAILED
    message = capsys.readouterr().err
    assert "max_wer: was 1000.0, now 900.0" in message
    assert read_recipe(work.out / "recipe.toml", Recipe).filter.max_wer == 1000.0
    assert str(work.out / "verdicts") in message
    assert "--force" in message
    after = stages(work.out)
    assert {k: v[1] for k, v in after.items()} == {k: v[1] for k, v in before.items()}

    assert work.run("--set", "filter.max_wer=900.0", "--force") == OK
    assert read_recipe(work.out / "recipe.toml", Recipe).filter.max_wer == 900.0
    assert "labels" not in changed(before, stages(work.out))

    again = ("--from-stage", "transcribe", "--set", "filter.max_wer=800.0")
    assert work.run(*again) == SOME_FAILED
    assert read_recipe(work.out / "recipe.toml", Recipe).filter.max_wer == 900.0
    assert not (work.out / "report.html").exists()


@pytest.mark.parametrize("options", [(), ("--force",)])
@pytest.mark.parametrize("folder", ["student", "student-init"])
def test_a_damaged_student_is_named(
    work: Workplace, folder: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """By what evaluates it, and by what trains it."""
    weights = work.out / folder / "model.safetensors"
    os.truncate(weights, 1000)
    before = {name: content for name, (_, content) in stages(work.out).items()}
    assert work.run(*options) == SOME_FAILED
    assert f"error: {weights}: not a whole safetensors file" in capsys.readouterr().err
    assert {name: content for name, (_, content) in stages(work.out).items()} == before


def test_a_run_ends_with_the_stage_that_it_is_told(
    finished: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = replace(finished, out=tmp_path / "part")
    assert work.run("--to-stage", "data") == OK
    assert capsys.readouterr().out == f"{work.out}\n"
    assert {name.split("/")[0] for name in stages(work.out)} == {"data"}
    assert work.run("--from-stage", "train", "--to-stage", "filter") == USAGE
    assert "found train behind filter" in capsys.readouterr().err


@pytest.mark.slow
def test_training_again_makes_the_same_student(work: Workplace) -> None:
    before = (work.out / "student" / "model.safetensors").read_bytes()
    assert work.run("--from-stage", "train") == OK
    assert (work.out / "student" / "model.safetensors").read_bytes() == before


def torchrun(work: Workplace, *options: str) -> subprocess.CompletedProcess[str]:
    """Train as two processes do that torchrun starts."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = ["-m", "distilwhisper", "train", str(work.recipe), "--out", str(work.out), *options]
    command = [sys.executable, *launch, *train]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_two_processes_train_the_student_that_one_does(work: Workplace) -> None:
    """Three micro-batches over two ranks, with checkpoints, validation and a cache on the way."""
    cached = ("--set", "training.cache_encoder=true", "--set", "training.batch_size=5")
    train = ["train", str(work.recipe), "--out", str(work.out)]
    assert call([*train, *cached, "--force"]) == OK
    alone = load_file(work.out / "student" / "model.safetensors")
    rows = [row for row in read_jsonl(work.out / "train" / "metrics.jsonl") if "loss" in row]

    shutil.rmtree(work.out / "train")
    done = torchrun(work, *cached)
    assert done.returncode == OK, done.stderr
    together = (work.out / "student" / "model.safetensors").read_bytes()
    for name, weight in load_file(work.out / "student" / "model.safetensors").items():
        torch.testing.assert_close(weight, alone[name], rtol=1e-4, atol=1e-5)  # sums in two orders
    again = [row for row in read_jsonl(work.out / "train" / "metrics.jsonl") if "loss" in row]
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in rows], rel=1e-5)
    assert [row["n_tokens"] for row in again] == [row["n_tokens"] for row in rows]
    # Of gradients that were averaged, AdamW would make the same student.
    norms = [row["grad_norm"] for row in rows]
    assert [row["grad_norm"] for row in again] == pytest.approx(norms, rel=1e-3)

    # From the checkpoint in the middle, the same two end with the same bytes.
    (work.out / "train" / "done").unlink()
    shutil.rmtree(work.out / "train" / "step_000004")
    done = torchrun(work, *cached)
    assert done.returncode == OK, done.stderr
    assert (work.out / "student" / "model.safetensors").read_bytes() == together
    assert torchrun(work, *cached).returncode == OK  # nothing left to do, and nobody waits


def test_stages_that_cannot_go_together_are_refused_before_any_work(
    tmp_path: Path,
) -> None:
    manifest = corpus(tmp_path, 2)
    recipe = recipe_of([manifest], manifest)
    with pytest.raises(ValueError, match="found dtype float16"):
        run_recipe(replace(recipe, hardware=Hardware(dtype="float16")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    deep = write_tiny_model(tmp_path / "deep", encoder_layers=2)
    shallow = replace(recipe, teacher=str(deep), student=StudentSettings(encoder_layers=1))
    with pytest.raises(ValueError, match=r"encoder_layers 1 of 2 and .*train_encoder false"):
        run_recipe(shallow, tmp_path / "run", stages=("student",))
    trained = replace(shallow, training=TrainingSettings(train_encoder=True))
    run_recipe(trained, tmp_path / "run", stages=("student",))


def test_a_teacher_of_the_slow_tokenizer_is_no_fault(tmp_path: Path) -> None:
    teacher, manifest = write_tiny_model(tmp_path / "slow"), corpus(tmp_path, 3)
    assert (teacher / "vocab.json").is_file()
    (teacher / "tokenizer.json").unlink()
    data = f'train = "{manifest}"\nvalidation = "{manifest}"\ntest = "{manifest}"'
    recipe = write_recipe(tmp_path, teacher=teacher, data=data)
    assert call(["plan", str(recipe)]) == OK
    assert call(["run", str(recipe), "--out", str(tmp_path / "run"), "--to-stage", "data"]) == OK


def test_every_fault_of_a_recipe_is_found_before_its_first_stage(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a run and by a plan, all at once, each with the setting that it is of."""
    manifest = corpus(tmp_path, 3)
    silent = tmp_path / "silent.jsonl"
    texts = [replace(u, text=None, language="ja") for u in read_manifest(manifest).utterances]
    write_manifest(silent, texts)
    other = write_tiny_model(tmp_path / "other", n_mels=128)
    data = f'train = "{manifest}"\nvalidation = "{tmp_path}/absent.jsonl"\ntest = "{silent}"'
    training = 'prompt_probability = 0.5\nskip_utterances = ["u000", "nobody"]'
    recipe = write_recipe(tmp_path, teacher=teacher, data=data, training=training)
    changes = (
        f"student.start={other}",
        "student.decoder_layers=40",
        "filter.max_disagreement=0.1",
        f"evaluate.noise=recorded:10@{tmp_path}/no-noise",
        "evaluate.decoding.language=ja",
    )
    options = [word for change in changes for word in ("--set", change)]
    found = []
    for command in (["run", str(recipe), "--out", str(tmp_path / "run")], ["plan", str(recipe)]):
        assert call([*command, *options]) == USAGE
        found.append(capsys.readouterr().err.splitlines()[1:])
    assert found[0] == found[1]
    assert [fault.split(": ")[0].strip() for fault in found[0]] == [
        "student.start",  # vocabulary
        "student.start",  # mel bins
        "student",
        "evaluate.decoding",
        "filter.max_disagreement",
        "data.validation",
        "data.test",
        "training.prompt_probability",
        "training.skip_utterances",
        "evaluate.noise",
    ]
    assert "absent.jsonl" in "".join(found[0])
    assert "n_mels 80, found 128" in "".join(found[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (["evaluate.noise=babble:5"], "evaluate.noise: babble must have a manifest of voices"),
        (["evaluate.noise=babble:5@{recipe}"], "evaluate.noise: {recipe}"),
        (["evaluate.noise=recorded:5@{empty}"], "evaluate.noise: a folder of sounds must hold"),
        (["evaluate.decoding.suppress_tokens=[60000]"], "evaluate.decoding: suppress_tokens"),
        (
            ["evaluate.decoding.multilingual=true", "teacher={english}"],
            "evaluate.decoding: multilingual needs",
        ),
        (['training.source_weights=[["nowhere", 1.0]]'], "training.source_weights: "),
        (
            ["training.mse_weight=1.0", "student.start={deep}", "student.decoder_layers=5"],
            "training.mse_weight: ",
        ),
    ],
)
def test_what_only_a_late_stage_needs_is_found_before_the_first(
    tmp_path: Path,
    teacher: Path,
    tiny_model: Path,
    changes: list[str],
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = corpus(tmp_path, 3)
    (tmp_path / "empty").mkdir()
    data = f'train = "{manifest}"\nvalidation = "{manifest}"\ntest = "{manifest}"'
    places = {
        "recipe": write_recipe(tmp_path, teacher=teacher, data=data),
        "empty": tmp_path / "empty",
        "english": tiny_model,
        "deep": write_tiny_model(tmp_path / "deep", multilingual=True, decoder_layers=5),
    }
    options = [word for one in changes for word in ("--set", one.format(**places))]
    out = tmp_path / "run"
    assert call(["run", str(places["recipe"]), "--out", str(out), *options]) == USAGE
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("the recipe cannot be run: 1 fault")
    assert lines[1].strip().startswith(fault.format(**places))
    assert not out.exists()


def test_a_part_of_a_split_without_texts_is_found_before_the_labels(
    tmp_path: Path, teacher: Path
) -> None:
    manifest = corpus(tmp_path, 9)
    utterances = [replace(u, text=None) for u in read_manifest(manifest).utterances]
    write_manifest(manifest, utterances)
    data = DataSettings(source=str(manifest))
    recipe = Recipe(name="unread", teacher=str(teacher), data=data, hardware=Hardware("cpu"))
    with pytest.raises(
        SettingsError, match=r"2 faults(?s:.)*data\.test: (?s:.)*data\.validation: "
    ):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "labels").exists()
    run_recipe(recipe, tmp_path / "run", stages=("data",))
    with pytest.raises(SettingsError, match=r'transcribe some, or .* data\.references = "teacher"'):
        run_recipe(recipe, tmp_path / "run")


def test_speech_without_transcripts_is_judged_by_the_teacher(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speech = tmp_path / "speech"
    speech.mkdir()
    for i in range(20):
        write_wav(speech / f"u{i:02}.wav", noise(0.3 + 0.05 * i, seed=i))
    data = f'source = "{speech}"\nlanguage = "en"\nreferences = "teacher"'
    work = Workplace(write_recipe(tmp_path, teacher=teacher, data=data), tmp_path / "run")
    limits = ("--set", "filter.min_avg_logprob=-100.0")
    assert work.run(*limits) == OK
    assert capsys.readouterr().err.count(" utterances to label") == 1  # the teacher is loaded once
    held_out = read_manifest(work.out / "references" / "test.jsonl").utterances
    labels = read_labels(work.out / "references" / "test")
    assert [u.text for u in held_out] == [labels[u.id].text for u in held_out]
    summary = json.loads((work.out / "eval" / "teacher-test" / "summary.json").read_text())
    assert summary["n_utterances"] == len(held_out) > 0
    for page in (work.out / "report.html", work.out / "student" / "README.md"):
        assert "teacher's labels" in page.read_text()
    assert "model-index" not in (work.out / "student" / "README.md").read_text()
    before = stages(work.out)
    assert work.run(*limits) == OK
    assert {k: v[1] for k, v in stages(work.out).items()} == {k: v[1] for k, v in before.items()}
    # The short command finds out by itself; labels of noise are none to learn from.
    out = tmp_path / "distilled"
    options = ("--teacher", str(teacher), "--device", "cpu", "--decoder-layers", "1")
    assert call(["distil", str(speech), "--out", str(out), *options]) != OK
    assert "has no transcripts: the student is judged by its teacher" in capsys.readouterr().err
    assert read_recipe(out / "recipe.toml", Recipe).data.references == "teacher"


@pytest.mark.parametrize(
    "fault",
    [
        ("--teacher", "nope"),
        ("--steps", "0"),
        ("--decoder-layers", "9"),
        ("--layers", "7"),
        ("--device", "cuda:99"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_read(
    tmp_path: Path, teacher: Path, fault: tuple[str, str]
) -> None:
    source, out = corpus(tmp_path / "speech", 9).parent, tmp_path / "run"
    options = {"--teacher": str(teacher), "--out": str(out), "--device": "cpu", fault[0]: fault[1]}
    assert call(["distil", str(source), *(word for one in options.items() for word in one)]) != OK
    assert not out.exists()


def test_long_recordings_without_transcripts_are_cut_in_their_pauses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each speaks for longer than a window holds, and a window's worth of it is one utterance."""
    prompts = [load_samples(path) for path in sorted(SPEECH.glob("*.g722"))]
    pause = np.zeros(8_000, dtype=np.float32)
    talk = np.concatenate([part for prompt in prompts for part in (prompt, pause)])
    source, out = tmp_path / "speech", tmp_path / "run"
    source.mkdir()
    for name in ("a", "b", "c"):
        write_wav(source / f"{name}.wav", np.concatenate([talk, talk])[: 40 * 16_000])
    recipe = Recipe("talks", "unused", DataSettings(source=str(source), references="teacher"))
    run_recipe(recipe, out, stages=("data",))
    assert "what is longer than 30 s is cut in its pauses" in capsys.readouterr().err
    pieces = read_manifest(out / "data" / "manifest.jsonl").utterances
    assert {u.recording for u in pieces} == {"a", "b", "c"}
    assert all(0 < (u.duration_s or 0) <= 30 for u in pieces)
    # One that is transcribed, or a limit that is set, leaves what is long as it is.
    (source / "a.txt").write_text("what was said")
    run_recipe(recipe, out, stages=("data",), force=True)
    manifest = read_manifest(out / "data" / "manifest.jsonl")
    assert [u.duration_s for u in manifest.utterances] == [40.0, 40.0, 40.0]


def test_a_limit_that_looks_like_per_cent_is_named_before_any_work(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warning = "filter: warning: max_wer 10 keeps labels with up to 10 errors for every word"
    (tmp_path / "speech").mkdir()
    recipe = write_recipe(tmp_path, teacher=teacher, data=f'source = "{tmp_path}/speech"')
    run = ("run", str(recipe), "--set", "filter.max_wer=10")
    distil = ("distil", f"{tmp_path}/speech", "--teacher", str(teacher), "--max-wer", "10")
    for command in (run, distil):  # both end where the data is read
        assert call([*command, "--out", str(tmp_path / command[0])]) != OK
        log = capsys.readouterr().err
        assert log.count(warning) == 1
        assert log.index(warning) < log.index("error: ")


def test_any_setting_of_the_short_command_may_be_set(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = corpus(tmp_path / "speech", 12), tmp_path / "run"
    command = ["distil", str(source), "--teacher", str(teacher), "--out", str(out)]
    changes = ("training.steps=40", "data.seed=3", "filter.max_wer=0.5", "student.decoder_layers=1")
    changes = (*changes, "training=5", "hardware.device=cpu", "evaluate.nose=white:10")
    options = [word for change in changes for word in ("--set", change)]
    assert call([*command, *options]) == USAGE
    assert '"training=5" must name a key of a section' in capsys.readouterr().err
    del options[8:10]
    assert call([*command, *options]) == USAGE
    assert "evaluate.nose: there is no such key" in capsys.readouterr().err
    assert not out.exists()
    # No label of noise has so few errors, and so nothing is trained on.
    assert call([*command, *options[:-2]]) != OK
    recipe = read_recipe(out / "recipe.toml", Recipe)
    assert (recipe.training.steps, recipe.training.warmup_steps) == (40, 2)
    assert (recipe.data.seed, recipe.filter.max_wer, recipe.student.decoder_layers) == (3, 0.5, 1)


def test_another_teacher_is_refused(work: Workplace, tiny_model: Path) -> None:
    assert work.run("--set", f'teacher="{tiny_model}"') == SOME_FAILED


def train(work: Workplace, *options: str) -> int:
    """Run the train stage alone, which sees no stage before it refuse a change."""
    return call(["train", str(work.recipe), "--out", str(work.out), *options])


def test_training_goes_on_with_no_other_teacher_manifest_or_number_format(
    work: Workplace, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(work) == OK
    assert train(work, "--set", f'teacher="{tiny_model}"') == SOME_FAILED
    assert "input teacher: was " in capsys.readouterr().err
    # The picked type counts, which "auto" names on one machine and not on another.
    auto = Hardware(device="cpu").pick_dtype()
    same = OK if auto == torch.float32 else SOME_FAILED
    assert train(work, "--set", "hardware.dtype=auto") == same
    assert train(work, "--set", "hardware.dtype=bfloat16") == SOME_FAILED
    assert 'dtype: was "float32", now "bfloat16"' in capsys.readouterr().err
    assert train(work, "--set", "evaluate.decoding.task=translate") == SOME_FAILED
    assert 'validation_task: was "transcribe", now "translate"' in capsys.readouterr().err
    manifest = read_manifest(work.out / "data" / "train.jsonl")
    spoken = [replace(u, text="another reference") for u in manifest.utterances]
    write_manifest(manifest.path, spoken)
    assert train(work) == SOME_FAILED
    assert "input manifest: was " in capsys.readouterr().err


def test_a_recording_that_was_replaced_is_not_trained_on(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = read_verdicts(work.out / "verdicts")
    manifest = read_manifest(work.out / "data" / "train.jsonl")
    first = next(u for u in manifest.utterances if verdicts[u.id].keep)
    path = Path(manifest.audio_source(first))
    sound = path.read_bytes()
    (work.out / "train" / "done").unlink()
    try:
        write_wav(path, noise(2.0, seed=99))
        assert work.run("--from-stage", "train", "--to-stage", "train") == SOME_FAILED
        assert "input sound in the source: was " in capsys.readouterr().err
        assert train(work) == SOME_FAILED
    finally:
        path.write_bytes(sound)
    assert f"1 with other contents, or none: utterance {first.id!r}: {path}" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_stopped_training_may_go_on_in_less_memory(work: Workplace) -> None:
    assert train(work, "--set", "training.steps=6", "--force") == OK
    (work.out / "train" / "done").unlink()
    shutil.rmtree(work.out / "train" / "step_000006")
    utterance = next(v.id for v in read_verdicts(work.out / "verdicts").values() if v.keep)
    changes = ("micro_batch_size=1", "checkpoint_activations=true", "log_every=2")
    options = [f"training.{change}" for change in ("steps=6", *changes)]
    options.append(f'training.skip_utterances=["{utterance}"]')
    assert train(work, *(word for option in options for word in ("--set", option))) == OK
    logged = [r["step"] for r in read_jsonl(work.out / "train" / "metrics.jsonl") if "loss" in r]
    assert logged == [1, 2, 3, 4, 6]


# Several corpora


def several(folder: Path, *, prefixes: str = "ab") -> list[Path]:
    """Write manifests of two utterances each, whose files are called alike."""
    paths = []
    for prefix in prefixes:
        paths.append(corpus(folder / prefix, 2))
        utterances = read_manifest(paths[-1]).utterances
        write_manifest(paths[-1], [replace(u, id=f"{prefix}-{u.id}") for u in utterances])
    return paths


def split_of(source: Path, **settings: Any) -> Recipe:
    data = DataSettings(source=str(source), **settings)
    return Recipe(name="split", teacher="none", data=data)


def test_a_source_that_has_changed_is_named_until_forced(tmp_path: Path) -> None:
    source = corpus(tmp_path / "speech", 9).parent
    for i in range(9):
        (source / f"u{i:03}.txt").write_text(f"line {i}")
    (source / "manifest.jsonl").unlink()
    recipe, out = split_of(source), tmp_path / "run"
    run_recipe(recipe, out, stages=("data",))
    (source / "u000.txt").write_text("corrected")
    with pytest.raises(StageChanged, match=r"input transcripts in the source: was .* now "):
        run_recipe(recipe, out, stages=("data",))
    run_recipe(recipe, out, stages=("data",), force=True)
    write_wav(source / "u001.wav", noise(0.4, seed=99))
    with pytest.raises(StageChanged, match="input sound in the source"):
        run_recipe(recipe, out, stages=("data",))


def test_a_folder_without_audio_leaves_nothing_that_another_must_replace(tmp_path: Path) -> None:
    source, out = corpus(tmp_path / "speech", 9).parent, tmp_path / "run"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must be a folder with audio below it"):
        run_recipe(split_of(tmp_path / "empty"), out, stages=("data",))
    run_recipe(split_of(source), out, stages=("data",))
    assert len(read_manifest(out / "data" / "manifest.jsonl").utterances) == 9


@pytest.mark.parametrize("as_manifest", [True, False])
def test_what_is_too_long_is_left_out_of_a_source(tmp_path: Path, *, as_manifest: bool) -> None:
    manifest = corpus(tmp_path / "speech", 9)
    write_wav(manifest.parent / "long.wav", noise(31.0, seed=1))
    long = Utterance("long", "long.wav", text="a long one")
    write_manifest(manifest, [*read_manifest(manifest).utterances, long])
    source = manifest if as_manifest else manifest.parent
    if not as_manifest:
        manifest.unlink()
    out = tmp_path / "run"
    run = run_recipe(split_of(source, max_seconds=30), out, stages=("data",))
    assert not run.problems
    found = read_manifest(out / "data" / "manifest.jsonl").utterances
    assert len(found) == 9
    assert all((u.duration_s or 0) < 30 for u in found)


def test_one_speaker_is_in_one_part_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    manifest = corpus(tmp_path, 24)
    utterances = read_manifest(manifest).utterances
    write_manifest(manifest, [replace(u, speaker=str(i // 4)) for i, u in enumerate(utterances)])
    shared = []
    for together in (True, False):
        out = tmp_path / str(together)
        recipe = split_of(manifest, keep_speakers_together=together)
        run_recipe(recipe, out, stages=("data",))
        speakers = [
            {u.speaker for u in read_manifest(out / "data" / f"{part}.jsonl").utterances}
            for part in ("train", "validation", "test")
        ]
        shared.append(sum(map(len, speakers)) - 6)
    assert shared[0] == 0
    assert shared[1] > 0


def recipe_of(manifests: list[Path], held_out: Path) -> Recipe:
    data = DataSettings(
        train=tuple(map(str, manifests)), validation=str(held_out), test=str(held_out)
    )
    return Recipe(name="several", teacher="none", data=data)


def test_several_manifests_are_trained_on_as_one(tmp_path: Path) -> None:
    a, b = several(tmp_path)
    calls = b.rename(b.with_name("calls.jsonl"))
    for named, sources in (
        ([a, calls], ["manifest", "calls"]),
        ([a, several(tmp_path / "more", prefixes="c")[0]], None),  # of one name: their paths tell
    ):
        recipe, out = recipe_of(named, a), tmp_path / f"run-{named[1].parent.name}"
        run = run_recipe(recipe, out, stages=("data",))
        merged = read_manifest(run.manifest("train"))
        assert run.manifest("train") == out / "data" / "train.jsonl"
        assert run.manifest("test") == a
        expected = sources or [str(path) for path in named]
        assert [u.source for u in merged.utterances] == [s for s in expected for _ in range(2)]
        assert all(Path(merged.audio_source(u)).exists() for u in merged.utterances)


@pytest.mark.parametrize("split", [False, True])
def test_a_language_of_the_data_is_that_of_every_stage(
    tmp_path: Path, teacher: Path, split: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the manifests name, and whether they are split or named one by one."""
    manifests = []
    for part in "abc":
        (tmp_path / part).mkdir()
        english = utterance(tmp_path / part, 12, language="en")
        manifests.append(corpus(tmp_path / part, 12, more=[english]))
    if split:
        data = DataSettings(source=str(manifests[0]), language="German")
    else:
        a, b, c = map(str, manifests)
        data = DataSettings(train=a, validation=(b, c), test=c, language="German")
    recipe = Recipe(name="german", teacher=str(teacher), data=data, hardware=Hardware("cpu"))
    run = run_recipe(recipe, tmp_path / "run", stages=("data", "label", "filter", "student"))
    assert {label.language for label in read_labels(run.path("labels")).values()} == {"de"}
    for path in (run.manifest("train"), run.manifest("test"), *run.validation.values()):
        manifest = read_manifest(path)
        assert {u.language for u in manifest.utterances} == {"de"}
        assert Path(manifest.audio_source(manifest.utterances[0])).exists()
    assert list(run.validation) == (["validation"] if split else [b, c])
    assert "13 utterances name another language (en) and are taken for de" in (
        capsys.readouterr().err
    )
    before = {name: content for name, (_, content) in snapshot(run.path("data")).items()}
    run_recipe(recipe, tmp_path / "run", stages=("data", "label"))
    after = {name: content for name, (_, content) in snapshot(run.path("data")).items()}
    assert after == before


def test_several_manifests_are_merged_once_and_again_when_one_has_changed(tmp_path: Path) -> None:
    a, b = several(tmp_path)
    recipe, out = recipe_of([a, b], a), tmp_path / "run"
    run_recipe(recipe, out, stages=("data",))
    before = snapshot(out / "data")
    run_recipe(recipe, out, stages=("data",))
    assert snapshot(out / "data") == before
    write_manifest(b, read_manifest(b).utterances[:1])
    with pytest.raises(StageChanged, match=r"manifest\.jsonl: was .* now "):
        run_recipe(recipe, out, stages=("data",))
    run = run_recipe(recipe, out, stages=("data",), force=True)
    assert len(read_manifest(run.manifest("train")).utterances) == 3


def test_silence_is_taught_on_request(tmp_path: Path, teacher: Path) -> None:
    write_wav(tmp_path / "silence.wav", np.zeros(16_000, dtype=np.float32))
    silence = Utterance("silence", "silence.wav", duration_s=1.0, text="", language="de")
    named = [corpus(tmp_path, 4, more=[silence]), *several(tmp_path / "held-out")]
    parts = zip(("train", "validation", "test"), named, strict=True)
    data = "\n".join(f'{name} = "{path}"' for name, path in parts)
    work = Workplace(write_recipe(tmp_path, teacher=teacher, data=data), tmp_path / "run")
    until_trained = ("--to-stage", "train", "--set", "data.language=en")
    assert work.run(*until_trained, "--set", "filter.keep_silence=true") == OK
    assert read_verdicts(work.out / "verdicts")["silence"].reason == "kept_silence"
    eot = Tokenizer.from_folder(teacher).eot
    for model, may_say_nothing in ((teacher, False), (work.out / "student", True)):
        first = read_json_object(model / "generation_config.json")["begin_suppress_tokens"]
        assert (eot in first, 220 in first) == (not may_say_nothing, True)
    rules = read_json_object(work.out / "student" / "generation_config.json")
    assert rules["trained_with_prompts"] is False


# Every setting is read


def settings_classes(cls: type) -> Iterator[type]:
    yield cls
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from settings_classes(field.type)  # type: ignore[arg-type]


def is_a_use(frame: FrameType | None) -> bool:
    """Return whether a field is read by the package's code, and not to check or to record it.

    Reads by run/settings.py turn settings into files, and __post_init__ checks them; asdict and the
    type checker are code of others.
    """
    package = str(Path(distilwhisper.__file__).parent)
    if frame is None or not frame.f_code.co_filename.startswith(package):
        return False
    while frame is not None and frame.f_code.co_filename.startswith(package):
        code = frame.f_code
        checks = code.co_name in ("__post_init__", "check_rules", "check_recipe", "check_sets")
        if checks or code.co_filename.endswith("/run/settings.py"):
            return False
        frame = frame.f_back
    return True


def recording_reads(cls: type, seen: set[tuple[str, str]]) -> Callable[[Any, str], Any]:
    names = {field.name for field in dataclasses.fields(cls)}

    def getattribute(self: Any, name: str) -> Any:
        if name in names and is_a_use(sys._getframe(1)):
            seen.add((cls.__name__, name))
        return object.__getattribute__(self, name)

    return getattribute


def spans_of_one_file(manifest: Path) -> list[Utterance]:
    """Write the sound of a manifest's utterances as one file; return them as spans of it."""
    folder, spans, start_s = manifest.parent, [], 0.0
    utterances = read_manifest(manifest).utterances
    for each in utterances:
        spans.append(replace(each, audio="all.wav", start_s=start_s))
        start_s += each.duration_s or 0.0
    write_wav(
        folder / "all.wav", np.concatenate([load_samples(folder / u.audio) for u in utterances])
    )
    return spans


@pytest.mark.slow
def test_every_setting_of_a_recipe_is_read_by_a_run(
    tmp_path: Path, teacher: Path, finished: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field that is only written down, checked or compared would be a setting of nothing.

    Every settings class records which of its fields are read, while one run takes its data from
    manifests and another splits a folder.
    """
    seen: set[tuple[str, str]] = set()
    classes = list(settings_classes(Recipe))
    for cls in classes:
        monkeypatch.setattr(cls, "__getattribute__", recording_reads(cls, seen))

    manifest = corpus(tmp_path, 12)
    utterances = spans_of_one_file(manifest)
    # One without a reference, whose label is judged by its probability.
    write_manifest(manifest, [*utterances[:-1], replace(utterances[-1], text=None)])
    # Joined to over a window, they are a recording whose language is detected.
    held_out = [replace(u, language=None) for u in utterances[:2]]
    write_manifest(tmp_path / "held-out.jsonl", held_out)
    long_form = LongFormSettings(utterances=2, pause_s=30.0)
    data = "\n".join(
        f'{part} = "{tmp_path / name}"'
        for part, name in (
            ("train", "manifest.jsonl"),
            ("validation", "held-out.jsonl"),
            ("test", "held-out.jsonl"),
        )
    )
    training = "pack_s = 10.0\npack_across_recordings = true\ncache_encoder = true"
    recipe = write_recipe(tmp_path, teacher=teacher, data=data, training=training)
    run_recipe(replace(read_recipe(recipe, Recipe), long_form=long_form), tmp_path / "run")
    split = read_recipe(finished.recipe, Recipe)
    run_recipe(split, tmp_path / "split", stages=("data",))
    # What cannot be on together with the cache of encoder outputs.
    changing = replace(
        read_recipe(recipe, Recipe).training,
        cache_encoder=False,
        prompt_probability=0.5,
        augment=AugmentSettings(
            speed_probability=1.0,
            noise_probability=1.0,
            time_mask_share=0.1,
            frequency_mask_share=0.1,
            short_context_probability=1.0,
        ),
    )
    again = replace(read_recipe(recipe, Recipe), training=changing)
    run_recipe(again, tmp_path / "run", stages=("train",), from_stage="train")

    all_fields = {
        (cls.__name__, field.name) for cls in classes for field in dataclasses.fields(cls)
    }
    # A cluster's settings are read where there is one: each has its test in test_engines.py.
    of_ray = {("EngineSettings", field.name) for field in dataclasses.fields(EngineSettings)}
    of_file = {("Recipe", "name")}  # the report reads it from recipe.toml
    assert f"<h1>{split.name}" in (finished.out / "report.html").read_text()
    assert all_fields - seen - of_file == of_ray - {("EngineSettings", "engine")}


def test_labelling_reads_every_setting_of_decoding_or_refuses_it(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe has the same settings twice, and evaluation reads all of them."""
    manifest, seen = corpus(tmp_path, 2), set[tuple[str, str]]()
    with monkeypatch.context() as patch:
        patch.setattr(DecodingSettings, "__getattribute__", recording_reads(DecodingSettings, seen))
        label_manifests({manifest: tmp_path / "labels"}, str(teacher), LabelSettings())
    read = {name for _, name in seen}
    others = {
        "language_windows": 3,
        "multilingual": True,
        "word_timestamps": True,
        "long_form": "sequential",
        "chunk_s": 15.0,
        "overlap_s": 5.0,
        "vad_filter": True,
        "condition_on_previous_text": True,
    }
    assert {field.name for field in dataclasses.fields(DecodingSettings)} - read <= others.keys()
    for name, value in others.items():
        with pytest.raises(ValueError, match=name):
            LabelSettings(decoding=DecodingSettings(temperature=(0.0,), **{name: value}))


def test_the_defaults_of_a_recipe_are_those_of_its_stages() -> None:
    recipe = build_settings(
        Recipe, {"name": "x", "teacher": "t", "data": {"source": "s"}}, where="here"
    )
    for field in dataclasses.fields(Recipe):
        if field.default_factory is not dataclasses.MISSING:
            assert getattr(recipe, field.name) == field.default_factory()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "source .* or train"),
        ({"source": "a", "train": "b", "validation": "c", "test": "d"}, "source .* or train"),
        ({"train": "a"}, "validation and test"),
        ({"train": []}, "source .* or train"),
        ({"train": ["a", "a"], "validation": "c", "test": "d"}, "train must name every .* once"),
        ({"train": "a", "validation": ["c", "c"], "test": "d"}, "validation must name every"),
        ({"source": "a", "test_fraction": 0.5}, "test_fraction must lie between 0 and 0.5"),
        ({"source": "a", "validation": "b"}, "validation must be left out: a source is split"),
        ({"source": "a", "test": "b"}, "test must be left out: a source is split"),
        (
            {"train": "a", "validation": "b", "test": "c", "seed": 1, "test_fraction": 0.2},
            "test_fraction and seed must be left out: only a source is split",
        ),
    ],
)
def test_data_settings_that_cannot_be_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_settings(Recipe, {"name": "x", "teacher": "t", "data": table}, where="here")
