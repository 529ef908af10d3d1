import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from corpora import bad_utterances, corpus, hearing_model, noise
from distilwhisper import __version__
from distilwhisper.cli import COMMANDS, INTERRUPTED, OK, SOME_FAILED, USAGE, call
from distilwhisper.corpus.records import Utterance, read_labels
from distilwhisper.speech.audio import write_wav
from pages import Page
from runs import make_run

FAST = ("--max-new-tokens", "8", "--device", "cpu", "--dtype", "float32")

OPTIONS = {
    "run": "--out --from-stage --to-stage --engine --set --force",
    "plan": "--gpu --hours --utterance-s --rates --price-per-hour --set --json",
    "data": "--out --format --language --config --split --column --cut --json",
    "import": "--tokenizer",
    "label": "--teacher --out --engine --n-workers --shards --force --shard-size --language "
    "--task --timestamps --batch-size --max-new-tokens --device --dtype",
    "filter": "--out --no-figures --force --json --max-wer --max-compression-ratio "
    "--min-avg-logprob --language",
    "student": "--decoder-layers --layers",
    "distil": "--teacher --out --language --max-wer --steps --decoder-layers --device --set "
    "--force",
    "delta": "--teacher",
    "heads": "--help",
    "train": "--out --set --force",
    "tensorboard": "--out --follow",
    "evaluate": "--out --against --noise --noise-seed --force --json --shard-size --language "
    "--task --timestamps --batch-size --chunk-s --overlap-s --max-new-tokens --long-form --draft "
    "--temperature --device --dtype",
    "transcribe": "--model --draft --audio-track --channel --strict --vad-filter "
    "--word-timestamps --hotwords --format --out --language --task --timestamps --batch-size "
    "--chunk-s --overlap-s --max-new-tokens --device --dtype --threads --max-line-width "
    "--max-line-count --max-words-per-line --highlight-words --clip-timestamps --suppress-tokens",
    "report": "--out",
    "export": "--to --dtype --third-layer --check --max-wer-increase --json",
    "serve": "--model --host --port --preload --api-key-file --batch-size --device --dtype",
    "live": "--model --language --margin-s --device --dtype",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(hearing_model(tmp_path_factory.mktemp("models") / "hearing"))


@pytest.fixture
def recording(tmp_path: Path) -> str:
    write_wav(tmp_path / "one.wav", noise(0.6, seed=1))
    return str(tmp_path / "one.wav")


def err(capsys: pytest.CaptureFixture[str]) -> str:
    """Return standard error with the frames and line breaks of a terminal taken out."""
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


# What can be asked


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == OK
    assert capsys.readouterr() == (f"{__version__}\n", "")


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--help"]) == OK
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_lists_its_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([command, "--help"]) == OK
    shown = capsys.readouterr().out.replace(",", " ").split()
    assert set(OPTIONS[command].split()) <= set(shown)


# Wrong commands


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lable"],
        ["label"],
        ["transcribe", "--model"],
        ["transcribe", "a.wav", "--format", "srt", "json"],
        ["transcribe", "a.wav", "--max-line-count", "2"],
        ["transcribe", "a.wav", "--threads", "0"],
        ["transcribe", "a.wav", "--clip-timestamps", "5", "3"],
        ["transcribe", "a.wav", "--model", "m", "--formt", "txt"],
        ["transcribe", "a.wav", "--model", "m", "--format", "doc"],
        ["transcribe", "a.wav", "--model", "m", "--batch-size", "many"],
        ["evaluate", "m", "x.jsonl", "--out", "o", "--chunk-s", "31"],
        ["evaluate", "m", "--out", "o"],
        ["report"],
        ["evaluate", "m", "x.jsonl", "--out", "o", "--noise", "pub:10"],
        ["filter", "x.jsonl", "labels", "--out", "o", "--max-wer", "-1"],
    ],
    ids=" ".join,
)
def test_wrong_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(arguments) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err


def test_an_unknown_option_names_one_that_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["transcribe", "a.wav", "--modle", "m"]) == USAGE
    assert "--model" in err(capsys)


def test_settings_that_cannot_be_name_both_numbers(
    recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transcribe", recording, "--model", model, "--chunk-s", "10"]
    assert call([*arguments, "--overlap-s", "12"]) == USAGE
    message = err(capsys)
    assert "chunk_s (10)" in message
    assert "found 12" in message


def test_a_device_that_is_not_there(
    recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["transcribe", recording, "--model", model, "--device", "cudda"]) == USAGE
    assert "found 'cudda'" in err(capsys)


def test_no_file_to_transcribe(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["transcribe", "--model", model]) == USAGE
    assert "at least one file" in err(capsys)


def test_a_model_folder_that_is_not_there(
    tmp_path: Path, recording: str, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent-model"
    assert call(["transcribe", recording, "--model", str(absent)]) == USAGE
    assert "absent-model" in err(capsys)


def test_a_folder_that_is_no_model(
    tmp_path: Path, recording: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    arguments = ["transcribe", recording, "--model", str(tmp_path / "folder")]
    assert call(arguments) == SOME_FAILED
    assert str(tmp_path / "folder") in err(capsys)


def test_a_wrong_layer(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["student", model, str(tmp_path / "s"), "--layers", "0", "4"]) == USAGE
    message = err(capsys)
    assert "layers must lie in [-4, 3]" in message
    assert "found 4" in message
    assert not (tmp_path / "s").exists()


def test_an_unknown_language(
    recording: str, tiny_multilingual_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transcribe", recording, "--model", str(tiny_multilingual_model)]
    assert call([*arguments, "--language", "germn"]) == USAGE
    assert '"germn", nearest is "german"' in err(capsys)


def test_two_files_of_one_name_are_refused_before_any_work(
    tmp_path: Path, recording: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["transcribe", recording, "elsewhere/one.mp3", "--out", str(out)]
    # There is no such model: it would be named first if it were looked for.
    assert call([*arguments, "--model", "no-such-model"]) == USAGE
    assert "more than one file is called 'one'" in err(capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ('name = "x"\nteacher = ', "must be a recipe in TOML"),
        ('name = "x"\nteacher = "t"\n[data]\nsorce = "s"\n', "source"),
        ('name = "x"\nteacher = "t"\n[data]\nsource = "s"\n[filter]\nmax_werr = 1.0\n', "max_wer"),
        ('name = "x"\nteacher = "t"\n[data]\nsource = "s"\n[training]\nsteps = "4"\n', "steps"),
        ('name = "x"\nteacher = "t"\n[data]\nlanguage = "en"\n', "name either source"),
        ('name = "x"\n[data]\nsource = "s"\n', "teacher"),
    ],
)
def test_a_recipe_with_a_fault(
    tmp_path: Path, recipe: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe)
    out = tmp_path / "out"
    assert call(["run", str(path), "--out", str(out)]) == USAGE
    said = err(capsys)
    assert message in said
    assert "recipe.toml" in said
    assert not out.exists()


def test_an_override_with_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\nteacher = "t"\n[data]\nsource = "s"\n')
    assert call(["run", str(path), "--set", "filter.max_werr=1.0"]) == USAGE
    assert "max_wer" in err(capsys)
    assert call(["run", str(path), "--set", "filter.max_wer"]) == USAGE
    assert "section.key=value" in err(capsys)


def test_a_recipe_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", str(tmp_path / "absent.toml")]) == USAGE
    assert "absent.toml" in err(capsys)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "a", "audio": "a.wav"}', '{"id": "b", "aud'], ":2: must be one JSON object"),
        (['{"id": "a", "audio": "a.wav"}'] * 2, ':2: id "a" must be new'),
        ([], "must hold at least one utterance"),
    ],
    ids=["torn", "duplicate", "empty"],
)
def test_a_manifest_with_a_fault(
    tmp_path: Path, model: str, lines: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(lines))
    arguments = ["label", str(manifest), "--teacher", model, "--out", str(tmp_path / "labels")]
    assert call(arguments) == USAGE
    said = err(capsys)
    assert message in said
    assert "manifest.jsonl" in said
    assert not (tmp_path / "labels").exists()


# Work that is done, and work that fails in part


def test_label_filter_and_evaluate(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, labels = str(corpus(tmp_path, 2)), tmp_path / "labels"
    assert call(["label", manifest, "--teacher", model, "--out", str(labels), *FAST]) == OK
    out, log = capsys.readouterr()
    assert out == f"2 labels in {labels}\n"
    assert "2 of 2 utterances" in log
    assert len(read_labels(labels)) == 2

    verdicts = ["--out", str(tmp_path / "verdicts"), "--max-wer", "1000"]
    assert call(["filter", manifest, str(labels), *verdicts, "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["total"]["count"] == 2

    evaluated = ["--out", str(tmp_path / "eval"), *FAST]
    assert call(["evaluate", model, manifest, *evaluated, "--json"]) == OK
    out, log = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert "evaluate:" in log
    assert call(["evaluate", model, manifest, *evaluated]) == OK
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("command", ["label", "evaluate"])
def test_inputs_that_fail_are_each_named(
    tmp_path: Path, model: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = str(corpus(tmp_path, 2, more=bad_utterances(tmp_path)))
    what = [manifest, "--teacher", model] if command == "label" else [model, manifest]
    assert call([command, *what, "--out", str(tmp_path / "out"), *FAST]) == SOME_FAILED
    out, log = capsys.readouterr()
    assert out
    for id_ in ("missing", "corrupt", "beyond"):
        assert f"distilwhisper: failed: {id_}: " in log


def test_several_models_and_sets_are_compared(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(hearing_model(tmp_path / "other", end=3.0))
    good = str(corpus(tmp_path / "good", 2))
    bad = str(corpus(tmp_path / "bad", 1, more=bad_utterances(tmp_path / "bad")))
    out = tmp_path / "eval"
    arguments = ["evaluate", model, good, bad, "--against", other, "--out", str(out), *FAST]
    assert call(arguments) == SOME_FAILED
    table, log = capsys.readouterr()
    assert "against other" in table
    assert table.count("hearing") == 3  # a set, a set, and their mean
    assert "evaluate: hearing, good-manifest: WER" in log
    for name in ("hearing", "other"):
        assert f"distilwhisper: failed: {name}, bad-manifest, missing: " in log
    assert call([*arguments, "--json"]) == SOME_FAILED
    written = json.loads((out / "comparison.json").read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert [(d["model"], d["against"]) for d in written["differences"]] == [
        ("hearing", "other")
    ] * 3
    page = (out / "report.html").read_text()
    assert "bad-manifest, missing" in Page(page).text
    assert call(["report", str(out)]) == OK
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    assert (out / "report.html").read_text() == page


def test_a_report_goes_into_the_folder_it_is_of_or_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (str(make_run(tmp_path / name, name=name)) for name in ("one", "other"))
    monkeypatch.chdir(tmp_path)
    for arguments, page in (
        ([one], f"{one}/report.html"),
        ([one, other], "report.html"),
        ([one, "--out", "new/page.html"], "new/page.html"),
    ):
        assert call(["report", *arguments]) == OK
        assert capsys.readouterr().out == f"{page}\n"
        assert "one" in Page(Path(page).read_text()).text
    assert call(["report", one, str(tmp_path / "no")]) == USAGE
    assert "must be the folder of a finished run" in err(capsys)


@pytest.mark.slow
def test_one_noise_makes_an_evaluation_and_several_a_comparison(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", model, str(corpus(tmp_path, 1)), *FAST, "--out"]
    assert call([*arguments, str(tmp_path / "one"), "--noise", "white:10"]) == OK
    assert json.loads((tmp_path / "one/stage.json").read_text())["settings"]["noise"] == "white:10"
    out = tmp_path / "both"
    assert call([*arguments, str(out), "--noise", "none", "white:-10"]) == OK
    assert "manifest, white:-10: 1 utterances" in capsys.readouterr().out
    for folder, heard in (("manifest", None), ("manifest+white--10", "white:-10")):
        stage = json.loads((out / "hearing" / folder / "stage.json").read_text())
        assert stage["settings"]["noise"] == heard


def test_other_settings_are_refused_until_forced(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = str(corpus(tmp_path, 1))
    arguments = ["label", manifest, "--teacher", model, "--out", str(tmp_path / "labels"), *FAST]
    assert call(arguments) == OK
    assert call([*arguments, "--shard-size", "7"]) == SOME_FAILED
    assert "shard_size: was 256, now 7" in err(capsys)
    assert call([*arguments, "--shard-size", "7", "--force"]) == OK


def test_a_torn_shard_is_named_by_its_line(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, labels = str(corpus(tmp_path, 2)), tmp_path / "labels"
    assert call(["label", manifest, "--teacher", model, "--out", str(labels), *FAST]) == OK
    shard = labels / "shard-00000.jsonl"
    shard.write_bytes(shard.read_bytes()[:-20])
    capsys.readouterr()
    verdicts = str(tmp_path / "verdicts")
    assert call(["filter", manifest, str(labels), "--out", verdicts]) == SOME_FAILED
    assert f"{shard} must hold what its stage wrote" in err(capsys)
    shutil.rmtree(labels / ".digests")  # as before there were any
    assert call(["filter", manifest, str(labels), "--out", verdicts]) == SOME_FAILED
    message = err(capsys)
    assert f"{shard}:2 must be a JSON object" in message
    assert "delete the file and run its stage again" in message


def test_a_disk_that_is_full_is_named(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rename = Path.replace
    full = OSError(errno.ENOSPC, "No space left on device")

    def replace(path: Path, target: Path) -> Path:
        if Path(target).name == "shard-00000.jsonl":
            raise full
        return rename(path, target)

    manifest, labels = str(corpus(tmp_path, 1)), tmp_path / "labels"
    arguments = ["label", manifest, "--teacher", model, "--out", str(labels), *FAST]
    monkeypatch.setattr(Path, "replace", replace)
    assert call(arguments) == SOME_FAILED
    message = err(capsys)
    assert "shard-00000.jsonl" in message
    assert "No space left on device" in message
    left = [path.name for path in labels.iterdir() if not path.name.startswith(".")]
    assert left == ["stage.json"]
    monkeypatch.undo()
    assert call(arguments) == OK


def test_student(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "student"
    assert call(["student", model, str(dest), "--layers", "0", "-1"]) == OK
    assert "2 of 4 decoder layers" in capsys.readouterr().out
    assert json.loads((dest / "config.json").read_text())["decoder_layers"] == 2
    assert call(["student", model, str(dest)]) == SOME_FAILED
    assert str(dest) in err(capsys)


def test_data_names_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "speech"
    source.mkdir()
    write_wav(source / "a.wav", noise(0.5, seed=1))
    (source / "a.txt").write_text("one")
    (source / "b.wav").write_bytes(b"nothing")
    assert call(["data", str(source), "--out", str(tmp_path / "m.jsonl")]) == SOME_FAILED
    out, log = capsys.readouterr()
    assert out
    assert "distilwhisper: failed: " in log
    assert "b.wav" in log


def test_transcripts_go_to_standard_output_and_the_log_does_not(
    recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transcribe", recording, "--model", model, "--format", "json", *FAST]
    assert call(arguments) == OK
    out, log = capsys.readouterr()
    assert json.loads(out)["language"] == "en"
    assert "transcribe: " in log


def test_transcripts_in_json_are_a_line_each(
    model: str, recording: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call(["transcribe", recording, recording, "--model", model, "--format", "json", *FAST])
        == OK
    )
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["text"] == second["text"]


def test_a_file_that_is_not_there_is_named_once_and_without_a_number(
    model: str, recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none.wav")
    files = [missing, recording, str(tmp_path)]
    assert call(["transcribe", *files, "--model", model, *FAST]) == SOME_FAILED
    log = err(capsys)
    assert f"failed: {missing}: no such file or directory distil" in log
    assert f"failed: {tmp_path}: must be a file, found a folder: name the files in it" in log
    assert call(["serve", "--model", model, "--api-key-file", missing]) == SOME_FAILED
    assert f"error: {missing}: no such file or directory" in err(capsys)


@pytest.mark.parametrize("order", ["file first", "file last"])
def test_several_formats_at_once(
    order: str, tmp_path: Path, recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", model, "--out", str(tmp_path / "out"), *FAST]
    formats = ["--format", "srt", "json"]
    arguments = [recording, *options, *formats] if order == "file first" else [*options, *formats]
    tail = [] if order == "file first" else [recording]
    assert call(["transcribe", *arguments, *tail]) == OK
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.json", "one.srt"]
    assert call(["transcribe", recording, *options, "--format", "all"]) == OK
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_numbers_may_be_separated_by_commas_as_other_tools_want_them(
    recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def transcript(*options: str) -> Any:
        spoken = ["transcribe", recording, "--model", model, "--format", "json", *FAST]
        assert call([*spoken, *options]) == OK
        return json.loads(capsys.readouterr().out)

    whole = transcript()
    clipped = transcript("--clip_timestamps", "0.1,0.3", "--suppress-tokens=-1")
    assert clipped["segments"] != whole["segments"]
    assert clipped == transcript("--clip-timestamps", "0.1", "0.3", "--suppress-tokens", "-1")
    first = whole["segments"][0]["tokens"][0]
    without = transcript("--suppress_tokens", f"-1,{first}")
    assert first not in without["segments"][0]["tokens"]


def test_cues_cut_by_words_time_them(
    recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transcribe", recording, "--model", model, "--format", "srt", *FAST]
    assert call([*arguments, "--max-words-per-line", "1"]) == OK
    assert capsys.readouterr().out.startswith("1\n00:00:00,")


def test_one_broken_file_of_several_is_named_and_the_rest_is_written(
    tmp_path: Path, recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, other = tmp_path / "broken.wav", tmp_path / "other.wav"
    broken.write_bytes(b"RIFF and no more")
    write_wav(other, noise(0.4, seed=2))
    out = tmp_path / "new" / "out"
    files = [recording, str(broken), str(other)]
    arguments = ["transcribe", *files, "--model", model, "--format", "srt", "--out", str(out)]
    assert call([*arguments, *FAST]) == SOME_FAILED
    stdout, log = capsys.readouterr()
    assert stdout == f"{out / 'one.srt'}\n{out / 'other.srt'}\n"
    assert sorted(path.name for path in out.iterdir()) == ["one.srt", "other.srt"]
    assert f"distilwhisper: failed: {broken}: " in log
    assert log.count("failed:") == 1


def test_a_failure_is_named_by_every_run(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = Utterance(id="long", audio="long.wav")
    write_wav(tmp_path / "long.wav", noise(30.2, seed=1))
    manifest = str(corpus(tmp_path, 0, more=[long]))
    arguments = ["label", manifest, "--teacher", model, "--out", str(tmp_path / "labels"), *FAST]
    assert call(arguments) == SOME_FAILED
    out, log = capsys.readouterr()
    assert out == f"0 of 1 labels in {tmp_path / 'labels'}\n"
    assert "distilwhisper data MANIFEST --max-seconds 30 --out NEW" in log
    # Nor does a second run, which has nothing to do, hide it.
    assert call(arguments) == SOME_FAILED


def test_columns_are_named_one_by_one(tmp_path: Path) -> None:
    write_wav(tmp_path / "one.wav", noise(0.6, seed=1))
    (tmp_path / "metadata.csv").write_text("clip,utt,said\none.wav,u1,hello\n", "utf-8")
    columns = ["--column", "audio=clip", "--column", "text=said", "--column", "id=utt"]
    manifest = tmp_path / "m.jsonl"
    assert call(["data", str(tmp_path / "metadata.csv"), "--out", str(manifest), *columns]) == OK
    [row] = manifest.read_text("utf-8").splitlines()
    assert {"id": "u1", "text": "hello"}.items() <= json.loads(row).items()


# Odd files, odd places


def test_a_damaged_file_is_transcribed_with_a_warning_and_a_status(
    tmp_path: Path, recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(Path(recording).read_bytes()[:-8_000])
    out = tmp_path / "out"
    arguments = ["transcribe", str(damaged), "--model", model, "--out", str(out), *FAST]
    assert call(arguments) == SOME_FAILED
    assert "warning: " in (log := err(capsys))
    assert f"{damaged}: the sound ends at 0.35 s, the file states 0.60 s" in log
    assert "failed" not in log
    assert [path.name for path in out.iterdir()] == ["damaged.txt"]
    (out / "damaged.txt").unlink()
    assert call([*arguments, "--strict"]) == SOME_FAILED
    assert f"failed: {damaged}: the sound ends at 0.35 s" in err(capsys)
    assert list(out.iterdir()) == []


def test_a_name_may_be_as_long_as_the_disk_allows(
    tmp_path: Path, recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / f"{'n' * 251}.wav"
    long.write_bytes(Path(recording).read_bytes())
    out = tmp_path / "out"
    arguments = ["transcribe", str(long), recording, "--model", model, "--out", str(out), *FAST]
    assert call(arguments) == OK
    assert len(list(out.iterdir())) == 2
    # A letter more is too much: known before the work, and the other one is done.
    assert call([*arguments, "--format", "json"]) == SOME_FAILED
    log = err(capsys)
    assert f"failed: {long}: its transcript cannot be written (File name too long)" in log
    assert len(list(out.iterdir())) == 3


def test_a_transcript_that_cannot_be_written_stops_no_other(
    tmp_path: Path,
    recording: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rename = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if Path(target).name == "one.txt":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_wav(tmp_path / "two.wav", noise(0.6, seed=2))
    out, files = tmp_path / "out", [recording, str(tmp_path / "two.wav")]
    arguments = ["transcribe", *files, "--model", model, "--out", str(out), *FAST]
    assert call(arguments) == SOME_FAILED
    assert f"failed: {recording}: {out / 'one.txt'} could not be written: No space" in err(capsys)
    assert [path.name for path in out.iterdir()] == ["two.txt"]


@pytest.mark.parametrize("below", ["", "further/down"])
def test_out_must_be_a_folder(
    below: str, tmp_path: Path, recording: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / below)
    # There is no such model: it is not asked for.
    assert call(["transcribe", recording, "--model", "none/such", "--out", out]) == USAGE
    assert "--out must be a folder, found a file" in err(capsys)


def test_a_console_that_is_not_utf_8_stops_nothing(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / name) for name in ("Übung.wav", "two.wav")]
    for file in files:
        write_wav(file, noise(0.6, seed=1))
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    out = tmp_path / "out"
    assert call(["transcribe", *files, "--model", model, "--out", str(out), *FAST]) == OK
    assert call(["transcribe", *files, "--model", model, *FAST]) == OK
    console.flush()
    shown = console.buffer.getvalue()  # type: ignore[attr-defined]
    assert shown.startswith(f"{out}/\\xdcbung.txt\n{out}/two.txt\n".encode("ascii"))
    assert sorted(path.name for path in out.iterdir()) == ["two.txt", "Übung.txt"]


def test_an_empty_file_is_named_and_nothing_else(
    tmp_path: Path, model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.mp3").touch()
    assert call(["transcribe", str(tmp_path / "empty.mp3"), "--model", model, *FAST]) == SOME_FAILED
    _, log = capfd.readouterr()
    first, *rest = log.splitlines()
    assert first.startswith("transcribe: ")
    assert rest == [
        f"distilwhisper: failed: {tmp_path}/empty.mp3: holds no sound: found 0 bytes, the file is "
        "empty; leave it out"
    ]


@pytest.mark.parametrize("option", ["initial-prompt", "hotwords"])
def test_bytes_that_are_no_text_are_named(
    option: str, recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transcribe", recording, "--model", model, f"--{option}", "caf\udce9"]
    assert call(arguments) == USAGE
    assert f"{option.replace('-', '_')} must be UTF-8 text, found b'\\xe9'" in err(capsys)


def test_the_language_auto_is_detected(
    recording: str, tiny_multilingual_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transcribe", recording, "--model", str(tiny_multilingual_model), *FAST]
    assert call(arguments) == OK
    detected = capsys.readouterr().out
    for auto in ("auto", "Auto"):
        assert call([*arguments, "--language", auto]) == OK
        assert capsys.readouterr().out == detected


def test_an_adapter_is_no_model(
    tmp_path: Path, recording: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    assert call(["transcribe", recording, "--model", str(tmp_path / "lora")]) == SOME_FAILED
    message = err(capsys)
    assert f"{tmp_path}/lora: a PEFT adapter" in message
    assert "merge it into its base model with peft first" in message


def test_a_prompt_that_is_cut_is_named(
    recording: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transcribe", recording, "--model", model, *FAST]
    assert call([*arguments, "--initial-prompt", "there " * 20]) == OK
    assert "tokens" not in err(capsys)
    assert call([*arguments, "--initial-prompt", "there " * 500]) == OK
    assert re.search(r"initial prompt: \d{3,} tokens, and the last 223 are used", err(capsys))
    assert call([*arguments, "--hotwords", "there " * 500, "--initial-prompt", "in"]) == OK
    log = err(capsys)
    assert re.search(r"hotwords: \d{3,} tokens, and the first 223 are used", log)
    assert re.search(r"initial prompt: \d+ tokens, and the last 0 are used", log)


def test_an_interrupt_while_modules_are_loaded_is_no_traceback(tmp_path: Path) -> None:
    # A module that the command line needs, interrupted as it is imported, and that hides it.
    (tmp_path / "tyro.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    input()\n"
        "except KeyboardInterrupt:\n    raise ImportError('broken')\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-m", "distilwhisper", "--version"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        # Whoever runs the tests in the background may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (ended.returncode, ended.stderr) == (INTERRUPTED, "distilwhisper: interrupted\n")


@pytest.mark.parametrize("is_buffered", [False, True])
def test_a_reader_that_wants_no_more_ends_it_without_a_word(*, is_buffered: bool) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    ended = subprocess.run(
        [sys.executable, "-m", "distilwhisper", "import", "--help"],
        env={**os.environ, "PYTHONUNBUFFERED": "" if is_buffered else "1"},
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (SOME_FAILED, "")
