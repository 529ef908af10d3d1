import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distilwhisper.files import StoreError
from distilwhisper.training.loop import make_optimizer
from distilwhisper.training.settings import TrainingSettings
from distilwhisper.training.state import (
    N_KEPT,
    CheckpointMismatch,
    Progress,
    checkpoints,
    load_state,
    save_progress,
    save_state,
)

Trained = dict[str, Tensor]


def network(seed: int, *, width: int = 3) -> tuple[Trained, torch.optim.AdamW]:
    random = torch.Generator().manual_seed(seed)
    trained = {
        "decoder.a": torch.nn.Parameter(torch.randn(4, width, generator=random)),
        "decoder.b": torch.nn.Parameter(torch.randn(width, generator=random)),
    }
    return trained, torch.optim.AdamW(list(trained.values()), lr=0.1)


def step(trained: Trained, optimizer: torch.optim.AdamW, n: int = 1) -> None:
    for _ in range(n):
        optimizer.zero_grad()
        sum(weight.pow(3).sum() for weight in trained.values()).backward()
        optimizer.step()


def moments(trained: Trained, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, weight in trained.items()
        for key, value in optimizer.state[weight].items()
    }


def saved(folder: Path, *steps: int) -> tuple[Trained, torch.optim.AdamW]:
    trained, optimizer = network(0)
    for at in steps:
        step(trained, optimizer)
        save_state(folder, Progress(at), trained, optimizer)
    return trained, optimizer


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    trained, optimizer = network(0)
    step(trained, optimizer, 3)
    progress = Progress(step=3, best_wer=1 / 3, best_step=2)
    path = save_state(tmp_path, progress, trained, optimizer)
    other, other_optimizer = network(1)
    assert load_state(path, other, other_optimizer) == progress
    for name, weight in trained.items():
        assert torch.equal(other[name], weight)
    expected, found = moments(trained, optimizer), moments(other, other_optimizer)
    assert set(expected) == set(found)
    assert len(expected) == 6  # two moments and a step count for each of two weights
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
    assert found["decoder.a/step"] == 3


def test_the_steps_after_loading_are_those_without_a_break(tmp_path: Path) -> None:
    trained, optimizer = network(0)
    step(trained, optimizer, 3)
    path = save_state(tmp_path, Progress(3), trained, optimizer)
    step(trained, optimizer, 3)
    other, other_optimizer = network(1)
    load_state(path, other, other_optimizer)
    step(other, other_optimizer, 3)
    for name, weight in trained.items():
        assert torch.equal(other[name], weight)


def test_the_optimizer_of_a_run_goes_on_from_what_it_saved(tmp_path: Path) -> None:
    """It is the fused one, which keeps its count of steps where the weights are."""
    trained, _ = network(0)
    optimizer = make_optimizer(trained.values(), TrainingSettings(weight_decay=0.1))
    assert optimizer.defaults["fused"]
    step(trained, optimizer, 2)
    path = save_state(tmp_path, Progress(2), trained, optimizer)
    step(trained, optimizer, 2)
    other, _ = network(1)
    other_optimizer = make_optimizer(other.values(), TrainingSettings(weight_decay=0.1))
    load_state(path, other, other_optimizer)
    assert {s["step"].device for s in other_optimizer.state.values()} == {torch.device("cpu")}
    step(other, other_optimizer, 2)
    assert all(torch.equal(other[name], weight) for name, weight in trained.items())


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 15, 20)
    assert N_KEPT == 2
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000015", "step_000020"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000015", "step_000020"]


def test_the_newest_comes_last_beyond_a_million_steps(tmp_path: Path) -> None:
    saved(tmp_path, 999_999, 1_000_000)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_999999", "step_1000000"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "nothing") == []


def test_what_a_killed_run_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    torn = tmp_path / ".step_000010.abc"
    shutil.copytree(tmp_path / "step_000005", torn)
    (torn / "weights.safetensors").write_bytes(b"half")
    (torn / "stray").write_bytes(b"")
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000005"]
    trained, _ = saved(tmp_path, 10)
    assert not torn.exists()
    newest = checkpoints(tmp_path)[-1]
    assert not (newest / "stray").exists()
    other, other_optimizer = network(1)
    load_state(newest, other, other_optimizer)
    assert torch.equal(other["decoder.a"], trained["decoder.a"])


def test_a_step_that_is_saved_again_replaces_the_first(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    trained, optimizer = network(7)
    step(trained, optimizer)
    path = save_state(tmp_path, Progress(5, 0.5, 5), trained, optimizer)
    other, other_optimizer = network(1)
    assert load_state(path, other, other_optimizer).best_wer == 0.5
    assert torch.equal(other["decoder.a"], trained["decoder.a"])


def test_another_network_is_refused_and_left_alone(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    for trained, optimizer in (network(1, width=4), network(1)):
        if trained["decoder.a"].shape == (4, 3):
            trained = {**trained, "decoder.c": trained["decoder.a"]}
        before = {name: weight.clone() for name, weight in trained.items()}
        message = r"step_000005 is of another network.* 2 weights .* from the \d being trained"
        with pytest.raises(CheckpointMismatch, match=message):
            load_state(checkpoints(tmp_path)[-1], trained, optimizer)
        for name, weight in trained.items():
            assert torch.equal(weight, before[name])


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("fault", ["missing", "empty", "cut"])
def test_a_broken_checkpoint_is_named_with_the_way_out(
    tmp_path: Path, name: str, fault: str
) -> None:
    saved(tmp_path, 5)
    path = checkpoints(tmp_path)[-1]
    whole = (path / name).read_bytes()
    if fault == "missing":
        (path / name).unlink()
    else:
        (path / name).write_bytes(whole[: len(whole) // 2] if fault == "cut" else b"")
    trained, optimizer = network(1)
    before = trained["decoder.a"].clone()
    with pytest.raises(CheckpointMismatch, match=r"step_000005 must be a whole .* delete it"):
        load_state(path, trained, optimizer)
    assert torch.equal(trained["decoder.a"], before)


def test_moments_of_other_weights_are_refused(tmp_path: Path) -> None:
    """A checkpoint put together by hand from two runs."""
    saved(tmp_path / "one", 5)
    few = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = torch.optim.AdamW([few])
    step({"decoder.a": few}, optimizer)
    other = save_state(tmp_path / "two", Progress(5), {"decoder.a": few}, optimizer)
    path = checkpoints(tmp_path / "one")[-1]
    shutil.copy(other / "optimizer.safetensors", path / "optimizer.safetensors")
    trained, optimizer = network(1)
    before = trained["decoder.a"].clone()
    with pytest.raises(CheckpointMismatch, match=r"step_000005 must be a whole .* delete it"):
        load_state(path, trained, optimizer)
    assert torch.equal(trained["decoder.a"], before)


def test_the_state_can_be_read_by_a_human(tmp_path: Path) -> None:
    trained, optimizer = network(0)
    step(trained, optimizer)
    path = save_state(tmp_path, Progress(1, 0.25, 1), trained, optimizer)
    assert json.loads((path / "state.json").read_text()) == {
        "step": 1,
        "best_wer": 0.25,
        "best_step": 1,
        "is_validated": True,
    }


def test_a_checkpoint_is_judged_after_it_was_saved(tmp_path: Path) -> None:
    trained, optimizer = network(0)
    step(trained, optimizer)
    path = save_state(tmp_path, Progress(1, is_validated=False), trained, optimizer)
    assert not load_state(path, trained, optimizer).is_validated
    save_progress(tmp_path, Progress(1, 0.25, 1))
    assert load_state(path, trained, optimizer) == Progress(1, 0.25, 1)
    old = {"step": 1, "best_wer": 0.25, "best_step": 1}  # saved once it was judged
    (path / "state.json").write_text(json.dumps(old))
    assert load_state(path, trained, optimizer) == Progress(1, 0.25, 1)


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Writing beyond fails as it does on a full disk, but for the words."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room", [500_000, 100_000, 100])  # the weights, half of them, nothing
def test_a_full_disk_leaves_the_former_checkpoint_as_it_was(tmp_path: Path, room: int) -> None:
    trained, optimizer = network(0, width=25_000)
    step(trained, optimizer)
    save_state(tmp_path, Progress(1), trained, optimizer)
    before = {name: weight.clone() for name, weight in trained.items()}
    step(trained, optimizer)
    message = rf"{tmp_path}/\.step_000002.*could not be written: File too large.* free space"
    with files_of_at_most(room), pytest.raises(StoreError, match=message):
        save_state(tmp_path, Progress(2), trained, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]
    assert load_state(checkpoints(tmp_path)[-1], trained, optimizer).step == 1
    for name, weight in trained.items():
        assert torch.equal(weight, before[name])
    save_state(tmp_path, Progress(2), trained, optimizer)  # once there is space
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000001", "step_000002"]
