"""What TensorBoard itself reads back from the event files."""

import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from threading import Thread
from time import sleep

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distilwhisper.cli import OK, SOME_FAILED, USAGE, call
from distilwhisper.run.files import BadRunFolder, MetricsLog
from distilwhisper.training.tensorboard import EventWriter, write_events

Scalars = Mapping[str, list[tuple[int, float]]]


def shown(folder: Path) -> Scalars:
    """Return the scalars of a run as TensorBoard shows them: (step, value) by name."""
    read = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, round(event.value, 6)) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def log_of(run: Path, *losses: float) -> MetricsLog:
    log = MetricsLog(run / "train" / "metrics.jsonl")
    for step, loss in enumerate(losses, start=1):
        log.append({"step": step, "loss": loss})
    return log


def test_all_numbers_of_a_run_are_there_at_their_steps(tmp_path: Path) -> None:
    log = log_of(tmp_path / "run")
    log.append({"step": 5, "loss": 2.5, "kl": None, "lr": 1e-4, "n_tokens": 80})
    log.append({"step": 10, "loss": float("nan"), "kl": 0.5, "lr": 2e-4, "n_tokens": 70})
    log.append({"step": 10, "validation_wer": 0.25, "wer_by_set": {"dev": 0.2, "calls": 0.3}})
    write_events([tmp_path / "run"], tmp_path / "out")
    assert shown(tmp_path / "out" / "run") == {
        "train/loss": [(5, 2.5)],
        "train/kl": [(10, 0.5)],
        "train/lr": [(5, 1e-4), (10, 2e-4)],
        "train/n_tokens": [(5, 80), (10, 70)],
        "validation_wer": [(10, 0.25)],
        "validation_wer/dev": [(10, 0.2)],
        "validation_wer/calls": [(10, 0.3)],
    }


def test_a_run_that_is_converted_again_is_there_once(tmp_path: Path) -> None:
    log = log_of(tmp_path / "run", 3.0)
    out = tmp_path / "out" / "run"
    out.mkdir(parents=True)
    (out / "events.out.tfevents.1.somebody").touch()
    for _ in range(2):
        write_events([tmp_path / "run"], tmp_path / "out")
    log.append({"step": 2, "loss": 2.0})
    write_events([tmp_path / "run"], tmp_path / "out")
    assert shown(out) == {"train/loss": [(1, 3.0), (2, 2.0)]}
    assert len(list(out.iterdir())) == 2  # ours, and what was there


def test_what_a_resumed_run_has_dropped_is_dropped(tmp_path: Path) -> None:
    log = log_of(tmp_path / "run", 4.0, 3.0, 2.0, 1.0)
    with closing(EventWriter(log.path, tmp_path / "out")) as writer:
        writer.catch_up()
        log.truncate_after(2)
        writer.catch_up()
        assert shown(tmp_path / "out") == {"train/loss": [(1, 4.0), (2, 3.0)]}
        for step, loss in ((3, 2.5), (4, 1.5), (5, 0.5)):
            log.append({"step": step, "loss": loss})
        writer.catch_up()
        resumed = [(1, 4.0), (2, 3.0), (3, 2.5), (4, 1.5), (5, 0.5)]
        assert shown(tmp_path / "out") == {"train/loss": resumed}
        log.truncate_after(4)  # and so fast that the log is as long again when it is looked at
        log.append({"step": 5, "loss": 0.25})
        writer.catch_up()
        assert shown(tmp_path / "out") == {"train/loss": [*resumed[:4], (5, 0.25)]}
        log.path.unlink()  # begun anew
        writer.catch_up()
        assert not any(shown(tmp_path / "out").values())


def test_a_row_that_is_half_written_waits(tmp_path: Path) -> None:
    log = log_of(tmp_path / "run", 4.0)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"step": 2, "lo')
    with closing(EventWriter(log.path, tmp_path / "out")) as writer:
        writer.catch_up()
        assert log.path.read_bytes().endswith(b'"lo')  # it is the run's, not ours
        log.path.write_bytes(whole + b'{"step": 2, "loss": 3.0}\n')
        writer.catch_up()
    assert shown(tmp_path / "out") == {"train/loss": [(1, 4.0), (2, 3.0)]}
    log.path.write_bytes(b"no row\n" + whole)
    with pytest.raises(BadRunFolder, match=r"metrics\.jsonl:1 must be"):
        write_events([tmp_path / "run"], tmp_path / "out")


def test_runs_are_followed_until_all_have_been_trained(tmp_path: Path) -> None:
    runs, out = [tmp_path / "a", tmp_path / "b"], tmp_path / "out"
    follower = Thread(
        target=write_events, args=(runs, out), kwargs={"follow": True, "poll_s": 0.01}
    )
    follower.start()  # before there is anything
    for run in runs:
        log_of(run, 2.0, 1.0)
        sleep(0.05)
        assert follower.is_alive()
        (run / "train" / "done").touch()
    follower.join(timeout=30)
    assert not follower.is_alive()
    for run in runs:
        assert shown(out / run.name) == {"train/loss": [(1, 2.0), (2, 1.0)]}


def test_the_command_names_runs_by_what_tells_them_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first/run", "second/run"):
        log_of(tmp_path / name, 1.0)
    monkeypatch.chdir(tmp_path)
    assert call(["tensorboard", "first/run", "second/run", "--out", "out"]) == OK
    assert capsys.readouterr().out == "tensorboard --logdir out\n"
    for name in ("first/run", "second/run"):
        assert shown(tmp_path / "out" / name) == {"train/loss": [(1, 1.0)]}


def test_what_cannot_be_converted_is_told_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert call(["tensorboard", *out]) == USAGE
    assert "name at least one folder" in capsys.readouterr().err
    assert call(["tensorboard", str(tmp_path), *out]) == SOME_FAILED
    assert "train/metrics.jsonl must be there" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    log_of(tmp_path / "run", 1.0)
    assert call(["tensorboard", str(tmp_path / "run"), *out]) == SOME_FAILED
    assert 'pip install "distilwhisper[tensorboard]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
