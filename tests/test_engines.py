import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from corpora import bad_utterances, corpus, hearing_model, snapshot
from distilwhisper.corpus.store import shard_path, shard_paths
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.engines import NoWorkers, ShardFailed, run_shards
from distilwhisper.files import write_atomic
from distilwhisper.model.hardware import Hardware
from distilwhisper.progress import Advance
from distilwhisper.run.processes import EngineSettings
from distilwhisper.stages.evaluate import EvaluationTask, evaluate_tasks
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.settings import EvaluateSettings, LabelSettings, Workers

CPU = Hardware(device="cpu", dtype="float32")
DECODING = DecodingSettings(max_new_tokens=8, batch_size=3, temperature=(0.0,))
RAY = EngineSettings(engine="ray", n_workers=2, cpus_per_worker=0.5)


@dataclass(frozen=True)
class Job:
    """Writes the shard's number, and fails as it is told; it counts its attempts in files."""

    out: Path
    poisoned: int | None = None
    fault: str = "raise"
    unfit: bool = False

    def start(self) -> Callable[[int, Advance], int]:
        if self.unfit:
            raise ValueError("the draft does not fit")
        return self.write

    def write(self, shard: int, on_progress: Advance) -> int:
        (self.out / f"attempt-{shard}-{time.time_ns()}").touch()
        if shard == self.poisoned:
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("poison in the shard")
        on_progress(1, 2.5)
        on_progress(2, 0.5)
        write_atomic(self.out / str(shard), str(shard))
        return 10 * shard


def contents(folder: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in snapshot(folder).items()}


class Told(list[tuple[float, float]]):
    """What was reported: utterances, and seconds of their sound."""

    def __call__(self, n: float, audio_s: float = 0.0) -> None:
        self.append((n, audio_s))


def attempts(out: Path, shard: int) -> int:
    return len(list(out.glob(f"attempt-{shard}-*")))


def test_the_local_engine_writes_in_order_and_reports_as_it_goes(tmp_path: Path) -> None:
    progress = Told()
    done = run_shards(Job(tmp_path).start, [3, 1], EngineSettings(), on_progress=progress)
    assert next(done) == 30
    assert progress == [(1, 2.5), (2, 0.5)]
    assert list(done) == [10]
    assert (tmp_path / "3").read_text() == "3"


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path, unfit=True)
    assert list(run_shards(job.start, [], RAY, on_progress=Told())) == []


def test_the_local_engine_raises_what_the_job_raises(tmp_path: Path) -> None:
    job = Job(tmp_path, poisoned=1)
    with pytest.raises(ValueError, match="poison"):
        list(run_shards(job.start, [0, 1], EngineSettings(), on_progress=Told()))
    assert (tmp_path / "0").exists()


def test_all_faults_of_the_settings_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"n_workers .* -1; cpus_per_worker .* 0; max_attempts"):
        EngineSettings(n_workers=-1, cpus_per_worker=0, max_attempts=0)
    with pytest.raises(ValueError, match=r"gpus_per_worker .*; start_timeout_s"):
        EngineSettings(gpus_per_worker=-1, start_timeout_s=0)


# On a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start a small Ray cluster and return a mark that the environment of its processes bears."""
    ray = pytest.importorskip("ray")
    mark = f"DISTILWHISPER_TEST={time.time_ns()}"
    name, value = mark.split("=")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # The actors import this file, and what it imports.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(os.path.isdir, sys.path)))
        # Threads share out sums, so their number shows in the last digits.
        patch.setenv("OMP_NUM_THREADS", "1")
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            object_store_memory=80 * 1024**2,
            include_dashboard=False,
            logging_level=logging.WARNING,
        )
        yield mark
        ray.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def workers(mark: str) -> list[int]:
    """Return the processes of a cluster's actors that write a shard now."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            writes = b"_Worker.write" in (process / "cmdline").read_bytes()
            if writes and mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def kill_one_when(condition: Callable[[], bool], mark: str, killed: list[int]) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and not killed:
        if condition() and (found := workers(mark)):
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])
        time.sleep(0.005)


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_labels_to_the_same_bytes(
    tmp_path: Path, cluster: str, one_thread: None, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher = hearing_model(tmp_path / "hearing")
    manifest = corpus(tmp_path / "corpus", 40, more=bad_utterances(tmp_path / "corpus"))
    settings = LabelSettings(decoding=DECODING, shard_size=2)
    out, whole = tmp_path / "ray", tmp_path / "local"

    killed: list[int] = []
    arguments = (lambda: bool(out.exists() and shard_paths(out)), cluster, killed)
    killer = threading.Thread(target=kill_one_when, args=arguments)
    killer.start()
    (spread,) = label_manifests({manifest: out}, str(teacher), settings, Workers(CPU, RAY))
    killer.join()
    assert killed
    assert "worker died" in "".join(capfd.readouterr())  # Ray's own words

    (alone,) = label_manifests({manifest: whole}, str(teacher), settings, Workers(CPU))
    assert spread == alone
    assert len(spread.failed) == 3
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_a_cluster_evaluates_as_one_process_does(
    tmp_path: Path, cluster: str, one_thread: None
) -> None:
    model = str(hearing_model(tmp_path / "hearing"))
    manifest = corpus(tmp_path / "corpus", 9)
    settings = EvaluateSettings(decoding=DECODING, shard_size=2)
    sides = {"ray": RAY, "local": EngineSettings()}
    done = {
        name: summary
        for name, engine in sides.items()
        for summary in evaluate_tasks(
            model,
            [EvaluationTask(manifest, settings, tmp_path / name)],
            Workers(CPU, engine, model),
        )
    }
    assert replace(done["ray"], compute_s=0) == replace(done["local"], compute_s=0)
    assert done["ray"].compute_s > 0
    assert done["ray"].accepted > 0
    for name in (*(shard_path(Path(), i).name for i in range(5)), "scores.jsonl"):
        ours, theirs = ((tmp_path / side / name).read_bytes() for side in sides)
        assert ours == theirs
    assert len(list((tmp_path / "ray" / "timing").iterdir())) == 5


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "reason"), [("raise", "poison"), ("die", r"Actor\w+Error")])
def test_a_shard_that_keeps_failing_ends_the_run_by_name(
    tmp_path: Path, cluster: str, fault: str, reason: str
) -> None:
    job = Job(tmp_path, poisoned=2, fault=fault)
    engine = replace(RAY, max_attempts=2)
    with pytest.raises(ShardFailed, match=rf"(?s)shard 2 failed 2 times.*{reason}"):
        list(run_shards(job.start, range(40), engine, on_progress=Told()))
    assert attempts(tmp_path, 2) == 2
    # What others have finished is there, and is not made again.
    for path in tmp_path.glob("[0-9]*"):
        assert attempts(tmp_path, int(path.name)) == 1


@pytest.mark.slow
def test_a_job_that_cannot_start_says_why(tmp_path: Path, cluster: str) -> None:
    engine = replace(RAY, n_workers=1, max_attempts=1)
    with pytest.raises(ShardFailed, match=r"before its first shard .*the draft does not fit"):
        list(run_shards(Job(tmp_path, unfit=True).start, [0], engine, on_progress=Told()))


@pytest.mark.slow
def test_a_cluster_without_room_says_what_is_missing(tmp_path: Path, cluster: str) -> None:
    engine = replace(RAY, gpus_per_worker=1, start_timeout_s=2)
    with pytest.raises(NoWorkers, match=r"0\.5 CPU and 1 GPU; the cluster has 2 CPU and 0 GPU"):
        list(run_shards(Job(tmp_path).start, [0], engine, on_progress=Told()))


@pytest.mark.slow
def test_every_shard_is_written_once_and_counted_once(tmp_path: Path, cluster: str) -> None:
    progress = Told()
    engine = replace(RAY, n_workers=0)
    done = sorted(run_shards(Job(tmp_path).start, range(30), engine, on_progress=progress))
    assert done == [10 * i for i in range(30)]
    assert progress == [(3, 3.0)] * 30
    assert all(attempts(tmp_path, i) == 1 for i in range(30))
