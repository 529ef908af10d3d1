import json
from dataclasses import replace
from pathlib import Path

import pytest

from corpora import corpus
from distilwhisper import plan
from distilwhisper.cli import OK, call
from distilwhisper.corpus.records import Utterance, write_manifest
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.model.checkpoint import count_parameters, load_checkpoint
from distilwhisper.model.roofline import cache_values, cross_flops, encoder_flops, step_weights
from distilwhisper.plan import Plan, StagePlan, model_sizes, plan_recipe
from distilwhisper.recipe import DataSettings, Recipe
from distilwhisper.run.files import BadRunFolder
from distilwhisper.run.settings import SettingsError, settings_to_toml
from distilwhisper.stages.settings import LabelSettings, PlanSettings
from distilwhisper.training.settings import TrainingSettings

PAPER = Recipe(
    name="paper",
    teacher="openai/whisper-large-v2",
    data=DataSettings(train="absent.jsonl", validation="absent.jsonl", test="absent.jsonl"),
    label=LabelSettings(decoding=DecodingSettings(batch_size=64)),
)
PAPER_HOURS = PlanSettings(hours=21_170, utterance_s=30)


def stages(planned: Plan) -> dict[str, StagePlan]:
    return {stage.stage: stage for stage in planned.stages}


@pytest.mark.parametrize(
    ("name", "encoder_gflop", "cross_mb", "weights_mb"),
    [  # computed by others, for bfloat16
        ("tiny.en", 37, 9.2, 56),
        ("base", 87, 18.4, 97),
        ("small", 344, 55, 278),
        ("medium.en", 1138, 147, 811),
        ("large-v2", 2273, 246, 1601),
    ],
)
def test_the_sizes_of_known_models_give_the_known_amounts_of_work(
    name: str, encoder_gflop: float, cross_mb: float, weights_mb: float
) -> None:
    sizes = model_sizes(f"openai/whisper-{name}")
    assert encoder_flops(sizes) / 1e9 == pytest.approx(encoder_gflop, rel=0.015)
    assert 2 * cache_values(sizes, 1500) / 1e6 == pytest.approx(cross_mb, rel=0.01)
    assert 2 * step_weights(sizes) / 1e6 == pytest.approx(weights_mb, rel=0.025)
    assert cross_flops(sizes) == 2 * sizes.width * cache_values(sizes, 1500)


def test_a_known_name_has_the_sizes_of_its_files(tiny_en: Path) -> None:
    sizes = model_sizes("openai/whisper-tiny.en")
    assert sizes == load_checkpoint(tiny_en).model.config == model_sizes(str(tiny_en))
    assert count_parameters(sizes) == load_checkpoint(tiny_en).model.n_parameters()


def test_the_windows_of_the_papers_own_run_are_counted() -> None:
    base = stages(plan_recipe(PAPER, PAPER_HOURS))
    assert base["label"].n_windows == 21_170 * 120
    assert base["train"].n_windows == 80_000 * 256
    twice = stages(plan_recipe(PAPER, replace(PAPER_HOURS, hours=2 * 21_170)))
    assert twice["label"].n_windows == 2 * base["label"].n_windows
    assert twice["train"].n_windows == base["train"].n_windows
    # Short utterances take whole windows.
    short = stages(plan_recipe(PAPER, replace(PAPER_HOURS, utterance_s=7.5)))
    assert short["label"].n_windows == 4 * base["label"].n_windows


def test_hours_and_prices_come_from_measured_rates_alone(tmp_path: Path) -> None:
    priced = replace(PAPER_HOURS, price_per_hour=3)
    planned = plan_recipe(PAPER, priced)
    assert stages(planned)["label"].device_hours is None
    assert planned.price is None
    assert "hours and price: unknown without a measured rate" in str(planned)
    assert [line.split()[2] for line in str(planned).splitlines()[-6:]] == (
        ["?", "0.00", "0.00", "?", "0.00", "?"]
    )
    path = tmp_path / "rates.json"
    path.write_text('{"teacher_windows_per_s": 100, "train_windows_per_s": 200}')
    planned = plan_recipe(PAPER, replace(priced, rates=path))
    label, train = 21_170 * 120 / 100 / 3600, 80_000 * 256 / 200 / 3600
    assert stages(planned)["label"].device_hours == pytest.approx(label)
    assert stages(planned)["train"].device_hours == pytest.approx(train)
    assert planned.price == pytest.approx(3 * (label + train))
    assert str(planned).splitlines()[-1] == f"price: {planned.price:,.2f}"


def test_shared_windows_are_counted_as_such() -> None:
    short = replace(PAPER_HOURS, hours=28, utterance_s=3)
    shared = replace(PAPER, label=LabelSettings(decoding=PAPER.label.decoding, pack=True))
    plain, packed = (stages(plan_recipe(recipe, short)) for recipe in (PAPER, shared))
    # Seven clips of 3 s and the pauses between them fill 27 s.
    assert plain["label"].n_windows == pytest.approx(7 * packed["label"].n_windows, rel=0.1)
    assert packed["evaluate"] == plain["evaluate"]


def test_training_holds_a_chunk_of_logits_at_most() -> None:
    def memory_gb(n: int) -> float:
        training = TrainingSettings(batch_size=n, micro_batch_size=n)
        planned = plan_recipe(replace(PAPER, training=training), PAPER_HOURS)
        return stages(planned)["train"].memory_gb

    # Beyond the chunk (1,294 tokens) a window adds its encoder and caches, and nothing else.
    a, b, c = memory_gb(32), memory_gb(64), memory_gb(128)
    assert c - b == pytest.approx(2 * (b - a))
    assert b - a < 32 * 0.5


def test_a_trained_encoder_has_an_optimiser_of_its_own() -> None:
    plain, trained = (
        stages(plan_recipe(replace(PAPER, training=training), PAPER_HOURS))["train"]
        for training in (TrainingSettings(), TrainingSettings(train_encoder=True))
    )
    assert trained.disk_gb > 1.5 * plain.disk_gb
    assert trained.memory_gb > plain.memory_gb


def test_a_cached_encoder_takes_disk() -> None:
    cached = replace(PAPER, training=TrainingSettings(cache_encoder=True, pack_s=30))
    plain, kept = (stages(plan_recipe(r, replace(PAPER_HOURS, hours=100))) for r in (PAPER, cached))
    n_windows = 100 * 3600 / (30 * 0.95)
    grown = kept["train"].disk_gb - plain["train"].disk_gb
    assert grown == pytest.approx(n_windows * 3.84e6 / 1e9, rel=0.01)


def test_a_model_that_does_not_fit_is_marked() -> None:
    big = replace(PAPER, label=LabelSettings(decoding=DecodingSettings(batch_size=64)))
    shown = str(plan_recipe(big, replace(PAPER_HOURS, gpu="t4")))
    marked = [line.split()[0] for line in shown.splitlines() if "DOES NOT FIT" in line]
    assert marked == ["label", "total"]
    assert "DOES NOT FIT" not in str(plan_recipe(big, PAPER_HOURS))


def recipe_of_files(folder: Path, teacher: Path) -> Recipe:
    train = corpus(folder / "train", 6)
    lengths = (20.0, None, 40.0)
    write_manifest(
        folder / "test.jsonl",
        [Utterance(f"u{i}", "a.wav", duration_s=s, text="a text") for i, s in enumerate(lengths)],
    )
    data = DataSettings(train=str(train), validation=str(train), test=str(folder / "test.jsonl"))
    return Recipe(name="files", teacher=str(teacher), data=data)


def test_manifests_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    recipe = recipe_of_files(tmp_path, tiny_model)
    amounts = plan._amounts(recipe, PlanSettings())
    assert amounts["train"].n_utterances == amounts["train"].n_windows == 6
    assert amounts["train"].audio_s == pytest.approx(6 * 0.3 + 0.1 * (0 + 7 + 2 + 9 + 4 + 11))
    twice = replace(recipe.data, train=(recipe.data.train, str(corpus(tmp_path / "more", 4))))
    assert plan._amounts(replace(recipe, data=twice), PlanSettings())["train"].n_utterances == 10
    # One without a length counts as the mean of the others; 40 s are two chunks.
    assert amounts["test"] == plan.Amount(3, 4, 90.0)
    whole = replace(recipe, data=DataSettings(source=recipe.data.train, test_fraction=0.34))
    split = plan._amounts(whole, PlanSettings())
    assert [part.n_utterances for part in split.values()] == [3, 1, 2]


def test_what_cannot_be_counted_is_named(tmp_path: Path, tiny_model: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", "a.wav")])
    recipe = Recipe(name="r", teacher=str(tiny_model), data=DataSettings(source=str(tmp_path)))
    with pytest.raises(ValueError, match=r"found a folder of audio.*--hours"):
        plan_recipe(recipe, PlanSettings())
    recipe = replace(recipe, data=DataSettings(source=str(tmp_path / "m.jsonl")))
    with pytest.raises(ValueError, match=r"must state duration_s.*--hours"):
        plan_recipe(recipe, PlanSettings())
    with pytest.raises(ValueError, match=r"hours must be above 0.*; utterance_s must be above 0"):
        PlanSettings(hours=0, utterance_s=0)


def test_measured_rates_are_taken_and_named(tmp_path: Path, tiny_model: Path) -> None:
    recipe = recipe_of_files(tmp_path, tiny_model)
    path = tmp_path / "rates.json"
    path.write_text('{"teacher_windows_per_s": 0.01, "train_windows_per_s": 0.5}')
    rows = stages(plan_recipe(recipe, PlanSettings(rates=path)))
    assert rows["label"].device_hours == pytest.approx(6 / 0.01 / 3600)
    assert rows["train"].device_hours == pytest.approx(80_000 * 256 / 0.5 / 3600, rel=1e-3)
    assert rows["evaluate"].device_hours is None  # the student's rate was not measured
    assert f"the rates measured in {path}" in str(plan_recipe(recipe, PlanSettings(rates=path)))
    path.write_text('{"teacher_window_per_s": 1}')
    with pytest.raises(SettingsError, match="nearest is teacher_windows_per_s"):
        plan_recipe(recipe, PlanSettings(rates=path))
    path.write_text('{"teacher_windows_per_s": 0}')
    with pytest.raises(SettingsError, match="teacher_windows_per_s must be above 0, found 0"):
        plan_recipe(recipe, PlanSettings(rates=path))
    path.write_text("4.0 windows")
    with pytest.raises(BadRunFolder, match=r"rates\.json must be JSON.*; name a file of rates"):
        plan_recipe(recipe, PlanSettings(rates=path))


def test_a_finished_run_of_the_same_models_gives_rates(tmp_path: Path, tiny_model: Path) -> None:
    recipe = recipe_of_files(tmp_path, tiny_model)
    run = tmp_path / "run"
    for name, seconds in (("teacher", 20.0), ("student", 5.0)):
        (run / "eval" / f"{name}-test").mkdir(parents=True)
        summary = {"n_utterances": 10, "compute_s": seconds}
        (run / "eval" / f"{name}-test" / "summary.json").write_text(json.dumps(summary))
    (run / "train").mkdir()
    rows = [{"step": 1, "windows_per_s": 1.0}, {"step": 2, "windows_per_s": 4.0}, {"step": 2}]
    (run / "train/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "recipe.toml").write_text(settings_to_toml(recipe))
    assert plan.read_rates(run, recipe) == plan.Rates(0.5, 2.0, 4.0)
    untimed = {"n_utterances": 10, "compute_s": 0.0}
    (run / "eval" / "student-test" / "summary.json").write_text(json.dumps(untimed))
    assert plan.read_rates(run, recipe) == plan.Rates(0.5, None, 4.0)
    with pytest.raises(SettingsError, match="its rates are of other models"):
        plan.read_rates(run, replace(recipe, teacher="openai/whisper-base"))


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(settings_to_toml(recipe_of_files(tmp_path, tiny_model)))
    assert call(["plan", str(path), "--gpu", "cpu"]) == OK
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in ("cpu hours", "evaluate", "unknown without a measured rate")
    )
    assert call(["plan", str(path), "--hours", "5", "--json"]) == OK
    printed = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in printed["stages"]] == [
        "label",
        "filter",
        "student",
        "train",
        "evaluate",
    ]
    assert printed["price"] is None
