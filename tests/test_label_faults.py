"""What may happen to a labelling run on the way, and what must be left of it."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from corpora import bad_utterances, corpus, snapshot
from distilwhisper.cli import call
from distilwhisper.corpus.records import Utterance, read_labels
from distilwhisper.corpus.store import ChangedShard, read_jsonl, shard_path, shard_paths
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.files import StoreError
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.layout import BadCheckpoint
from distilwhisper.run.locks import FolderInUse
from distilwhisper.stages.filter import filter_labels
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.settings import LabelSettings, Workers

CPU = Workers(Hardware(device="cpu", dtype="float32"))
SETTINGS = LabelSettings(
    decoding=DecodingSettings(max_new_tokens=4, batch_size=2, temperature=(0.0,)), shard_size=2
)


def label(manifest: Path, teacher: Path, out: Path, **options: bool):
    (summary,) = label_manifests({manifest: out}, str(teacher), SETTINGS, CPU, **options)
    return summary


def arguments(manifest: Path, teacher: Path, out: Path) -> list[str]:
    return [
        *("label", str(manifest), "--teacher", str(teacher), "--out", str(out)),
        *("--shard-size", "2", "--max-new-tokens", "4", "--batch-size", "2"),
        *("--device", "cpu", "--dtype", "float32"),
    ]


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shard_paths(folder)}


# Damaged


def test_a_damaged_teacher_is_named_and_costs_no_label(tmp_path: Path, tiny_model: Path) -> None:
    teacher = shutil.copytree(tiny_model, tmp_path / "teacher")
    manifest, out = corpus(tmp_path, 2), tmp_path / "labels"
    label(manifest, teacher, out)
    before = snapshot(out)
    (teacher / "model.safetensors").write_bytes(b"not weights")
    for force in (False, True):
        with pytest.raises(BadCheckpoint, match=r"teacher/model\.safetensors: not a whole"):
            label(manifest, teacher, out, force=force)
    assert snapshot(out) == before


# Killed


@pytest.mark.slow
def test_twenty_kills_in_a_row_leave_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    manifest, out, whole = corpus(tmp_path, 80), tmp_path / "killed", tmp_path / "whole"
    label(manifest, tiny_model, whole)
    # One parent imports everything and forks a labeller after the other: each is a process of
    # its own that is really killed, and none pays for the imports again.
    script = (
        "import os, sys, random, signal, time\n"
        "from distilwhisper.cli import call\n"
        "def written():  # shards, their temporaries and digests\n"
        f"    walk = os.walk({str(out)!r})\n"
        "    return sum('shard-' in name for _, _, names in walk for name in names)\n"
        "random.seed(7)\n"
        "for _ in range(20):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        f"        os._exit(call({arguments(manifest, tiny_model, out)!r}))\n"
        "    wanted = written() + 1\n"
        "    give_up = time.monotonic() + 60\n"
        "    while time.monotonic() < give_up and os.waitpid(child, os.WNOHANG) == (0, 0):\n"
        "        if written() >= wanted:\n"
        "            time.sleep(random.uniform(0, 0.03))\n"
        "            os.kill(child, signal.SIGKILL)\n"
        "            print(os.waitpid(child, 0)[1])\n"
        "            break\n"
        "        time.sleep(0.001)\n"
    )
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 20, done.stderr

    left = shard_bytes(out)
    assert 0 < len(left) <= 40
    assert left.items() <= shard_bytes(whole).items()
    assert label(manifest, tiny_model, out).n_labels == 80
    assert shard_bytes(out) == shard_bytes(whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


# Changed by hand


def test_a_shard_changed_by_hand_is_found_by_whoever_reads_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    manifest, out = corpus(tmp_path, 5), tmp_path / "labels"
    label(manifest, tiny_model, out)
    shard = shard_path(out, 1)
    written = shard.read_text()
    lines = written.splitlines(keepends=True)
    edits = {
        "another language": lines[0].replace('"language": "en"', '"language": "de"') + lines[1],
        "torn": written[:-9],
        "a line less": lines[1],
        "another shard": shard_path(out, 0).read_text(),
    }
    for edit, changed in edits.items():
        assert changed != written, edit
        shard.write_text(changed)
        before = snapshot(out)
        with pytest.raises(ChangedShard, match=rf"{shard} must hold what its stage wrote"):
            label(manifest, tiny_model, out)
        with pytest.raises(ChangedShard, match=str(shard)):
            filter_labels(
                manifest, out, tmp_path / edit, FilterSettings(), measures=tmp_path / "measures"
            )
        with pytest.raises(ChangedShard, match=str(shard)):
            read_labels(out)
        assert snapshot(out) == before, edit
    # The message's way out.
    shard.unlink()
    label(manifest, tiny_model, out)
    assert shard.read_text() == written
    assert len(read_labels(out)) == 5


def test_a_changed_shard_is_an_error_of_the_command(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out = corpus(tmp_path, 2), tmp_path / "labels"
    command = arguments(manifest, tiny_model, out)
    assert call(command) == 0
    shard = shard_path(out, 0)
    shard.write_text(shard.read_text().replace('"error": null', '"error":  null', 1))
    assert call(command) == 1
    assert f"error: {shard} must hold what its stage wrote" in capsys.readouterr().err


# Audio that goes, and comes back


def test_audio_that_went_is_named_and_retried_when_it_is_back(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out, whole = corpus(tmp_path, 5), tmp_path / "labels", tmp_path / "whole"
    label(manifest, tiny_model, whole)
    gone = tmp_path / "u003.wav"
    gone.rename(tmp_path / "elsewhere.wav")
    command = arguments(manifest, tiny_model, out)

    assert call(command) == 1
    assert re.search(f"failed: u003: .*{gone}", capsys.readouterr().err)
    before = shard_bytes(out)
    labels = read_labels(out)
    assert [label_.id for label_ in labels.values() if label_.error] == ["u003"]
    assert [row["path"] for row in read_jsonl(out / "problems.jsonl")] == [str(gone)]

    (tmp_path / "elsewhere.wav").rename(gone)
    assert call(command) == 1  # a failure is kept until it is asked for again
    assert shard_bytes(out) == before
    assert call([*command, "--retry-failed"]) == 0
    assert "1 of 5 utterances to label" in capsys.readouterr().err
    assert shard_bytes(out) == shard_bytes(whole)
    assert not (out / "problems.jsonl").exists()
    assert call([*command, "--retry-failed"]) == 0


def test_a_retry_keeps_the_labels_that_are_there(tmp_path: Path, tiny_model: Path) -> None:
    manifest, out = corpus(tmp_path, 3, more=bad_utterances(tmp_path)), tmp_path / "labels"
    first = label(manifest, tiny_model, out)
    before = snapshot(out)
    assert label(manifest, tiny_model, out, retry_failed=True) == first
    after = snapshot(out)
    assert {name: data for name, (_, data) in after.items()} == {
        name: data for name, (_, data) in before.items()
    }


def test_a_bad_file_is_listed_once_with_its_utterances(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF, and nothing that a decoder could use")
    spans = [
        Utterance(id=f"part{n}", audio="corrupt.wav", start_s=float(n), duration_s=1.0)
        for n in range(3)
    ]
    manifest, out = corpus(tmp_path, 1, more=spans), tmp_path / "labels"
    summary = label(manifest, tiny_model, out)
    assert set(summary.failed) == {"part0", "part1", "part2"}
    [row] = read_jsonl(out / "problems.jsonl")
    assert row == {
        "path": str(tmp_path / "corrupt.wav"),
        "problem": summary.failed["part0"],
        "ids": ["part0", "part1", "part2"],
    }


# A full disk


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_afterwards(
    tmp_path: Path, tiny_model: Path
) -> None:
    manifest, out, whole = corpus(tmp_path, 6), tmp_path / "labels", tmp_path / "whole"
    label(manifest, tiny_model, whole)
    largest = max(len(data) for data in shard_bytes(whole).values())
    label(manifest, tiny_model, out)  # for its stage.json, which is larger than a shard
    for shard in shard_paths(out):
        shard.unlink()
    code = "from distilwhisper.cli import main; main()"
    full = subprocess.run(
        [sys.executable, "-c", code, *arguments(manifest, tiny_model, out)],
        # No file may grow larger than this: the kernel refuses the write, as of a full disk.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1,) * 2),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert full.returncode == 1, full.stderr
    assert "could not be written" in full.stderr
    assert "run the same command again" in full.stderr
    assert "Traceback" not in full.stderr
    assert shard_bytes(out).items() < shard_bytes(whole).items()
    assert not list(out.glob(".*.tmp"))

    assert label(manifest, tiny_model, out).n_labels == 6
    assert shard_bytes(out) == shard_bytes(whole)


def test_no_space_for_a_shards_name_leaves_what_was_there(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, out = corpus(tmp_path, 4), tmp_path / "labels"
    label(manifest, tiny_model, out)
    before = shard_bytes(out)
    shard_path(out, 1).unlink()
    rename = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == "shard-00001.jsonl":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StoreError, match=r"shard-00001.jsonl could not be written: No space"):
            label(manifest, tiny_model, out)
    assert shard_bytes(out) == {"shard-00000.jsonl": before["shard-00000.jsonl"]}
    label(manifest, tiny_model, out)
    assert shard_bytes(out) == before


# Two at a time


def test_a_second_process_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    manifest, out = corpus(tmp_path, 2), tmp_path / "labels"
    script = (
        "import time\n"
        "from pathlib import Path\n"
        "from distilwhisper.run.locks import lock_folder\n"
        f"with lock_folder(Path({str(out)!r})):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(FolderInUse, match=f"process {other.pid}"):
            label(manifest, tiny_model, out)
        other.kill()
    assert label(manifest, tiny_model, out).n_labels == 2
