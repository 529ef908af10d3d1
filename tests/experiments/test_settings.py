from dataclasses import fields
from pathlib import Path

import pytest
from experiments.catalogue import EXPERIMENTS
from experiments.designs import LayersSettings
from experiments.long_form import ChunkSettings
from experiments.settings import SCALES, Scale, Settings, TimingSettings, read_settings

from distilwhisper.run.settings import SettingsError, read_recipe, read_toml, settings_to_toml

KNOWN = [experiment.settings for experiment in EXPERIMENTS]


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_every_scale_is_valid_for_all_and_is_read_back(scale: Scale, tmp_path: Path) -> None:
    for cls in KNOWN:
        settings = read_settings(cls, scale, known=KNOWN)
        path = tmp_path / "recipe.toml"
        path.write_text(settings_to_toml(settings))
        assert read_recipe(path, cls) == settings


def test_scales_are_those_that_lie_there() -> None:
    assert {path.stem for path in SCALES.iterdir()} == {"small", "paper"}


def test_a_name_means_the_same_wherever_it_stands() -> None:
    """One file serves all experiments."""
    kinds: dict[str, object] = {}
    for cls in KNOWN:
        for field in fields(cls):
            assert kinds.setdefault(field.name, field.type) == field.type


def test_a_file_bends_the_scale_and_overrides_bend_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('student = "mine"\nrounds = 5\n[decoding]\nbatch_size = 2\nbeam_size = 3\n')
    settings = read_settings(
        TimingSettings, "small", path, ["rounds=7", "decoding.batch_size=9"], known=KNOWN
    )
    assert (settings.student, settings.rounds) == ("mine", 7)
    assert (settings.decoding.batch_size, settings.decoding.beam_size) == (9, 3)
    assert settings.teacher == "openai/whisper-base"


def test_part_of_a_table_keeps_the_scales_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nsteps = 70\n")
    settings = read_settings(LayersSettings, "small", path, known=KNOWN)
    assert (settings.training.steps, settings.training.batch_size) == (70, 16)
    # and what one run sets is not there in the next
    again = read_settings(LayersSettings, "small", None, ["training.steps=80"], known=KNOWN)
    assert again.training.steps == 80
    assert read_settings(LayersSettings, "small", known=KNOWN).training.steps == 600


def test_what_is_of_other_experiments_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("chunks_s = [5.0]\nmax_wers = [0.5]\n")
    settings = read_settings(ChunkSettings, "small", path, known=KNOWN)
    assert settings.chunks_s == (5.0,)
    with pytest.raises(
        SettingsError, match=r"chunks: there is no such key; the nearest is chunks_s"
    ):
        read_settings(ChunkSettings, "small", path, ["chunks=[5.0]"], known=KNOWN)


def test_faults_are_named_together() -> None:
    by_name = {experiment.name: experiment.settings for experiment in EXPERIMENTS}

    def faults(name: str, *overrides: str) -> str:
        with pytest.raises(SettingsError) as raised:
            read_settings(by_name[name], "small", None, overrides, known=KNOWN)
        return str(raised.value)

    message = faults("table5", "shorts=[]", "rounds=true")
    assert "nearest is short" in message
    assert "rounds: must be a whole number" in message
    message = faults("table24", "rounds=0", "dtypes=[]")
    assert "rounds must be at least 1, found 0" in message
    assert "dtypes must name at least one" in message
    assert "nonspeech_minutes must be above 0" in faults("hallucination", "nonspeech_minutes=0")
    assert "max_wers must name" in faults("table10", "max_wers=[]")
    assert "at most 1, found (0.5, 2.0)" in faults("table11", "data_shares=[0.5, 2.0]")
    assert "found decoding.beam_size 3" in faults("table20", "decoding.beam_size=3")
    assert "mse_weight must be above 0" in faults("table21", "mse_weight=0.0")
    assert "corrupted_share must lie above 0" in faults("label-quality", "corrupted_share=1.5")


def test_a_setting_of_one_experiment_is_its_own() -> None:
    shared = {field.name for field in fields(Settings)}
    assert "chunks_s" not in shared
    assert len(shared) < 15
    assert set(read_toml(SCALES / "small.toml")) <= {f.name for cls in KNOWN for f in fields(cls)}
