from pathlib import Path

import pytest

from distilwhisper.run.settings import SettingsError, read_recipe, settings_to_toml
from experiments.settings import SCALES, ReproduceSettings, reproduce_settings


def test_every_scale_is_valid_and_is_read_back(tmp_path: Path) -> None:
    for scale in SCALES:
        settings = reproduce_settings(scale, made_up={"teacher": "any"} if scale == "unit" else {})
        path = tmp_path / f"{scale}.toml"
        path.write_text(settings_to_toml(settings))
        assert read_recipe(path, ReproduceSettings) == settings


def test_a_file_bends_the_scale_and_overrides_bend_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('student = "mine"\nrounds = 5\n[decoding]\nbatch_size = 2\nbeam_size = 3\n')
    settings = reproduce_settings("small", path, ["rounds=7", "decoding.batch_size=9"])
    assert (settings.student, settings.rounds) == ("mine", 7)
    assert (settings.decoding.batch_size, settings.decoding.beam_size) == (9, 3)
    assert settings.teacher == "openai/whisper-base"


def test_part_of_a_table_keeps_the_scales_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[decoding]\nbatch_size = 2\n")
    settings = reproduce_settings("unit", path, made_up={"teacher": "any"})
    assert settings.decoding.batch_size == 2
    assert settings.decoding.max_new_tokens == 8
    # and what one run sets is not there in the next
    again = reproduce_settings("unit", None, ["decoding.batch_size=7"], made_up={"teacher": "any"})
    assert again.decoding.batch_size == 7
    assert reproduce_settings("unit", made_up={"teacher": "any"}).decoding.batch_size == 4


def test_faults_are_named_together() -> None:
    with pytest.raises(SettingsError) as raised:
        reproduce_settings("small", None, ["shorts=[]", "rounds=true"])
    assert "nearest is short" in str(raised.value)
    assert "rounds: must be a whole number" in str(raised.value)
    with pytest.raises(SettingsError, match=r"rounds must be at least 1.*; snrs_db must name"):
        reproduce_settings("small", None, ["rounds=0", "snrs_db=[]"])
    with pytest.raises(SettingsError, match="nonspeech_minutes must be above 0"):
        reproduce_settings("small", None, ["nonspeech_minutes=0"])
    with pytest.raises(SettingsError, match=r"max_wers must name .* data_shares must lie above 0"):
        reproduce_settings("small", None, ["max_wers=[]", "data_shares=[0.5, 2.0]"])
    with pytest.raises(SettingsError, match="mse_weight must be above 0"):
        reproduce_settings("small", None, ["mse_weight=0.0"])
