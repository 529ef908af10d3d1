import os
import socket
import subprocess
import sys

import pytest
import torch

from distilwhisper.model.hardware import Hardware
from distilwhisper.training.ranks import Ranks, ranks_of_environment


def test_a_process_alone_waits_for_nobody_and_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks_of_environment(Hardware()) as ranks:
        assert ranks == Ranks(rank=0, n_ranks=1)
        assert ranks.is_first
        ranks.wait()
        gradient = torch.tensor([1.0, 2.0])
        ranks.add_up([gradient])
        assert gradient.tolist() == [1.0, 2.0]
        assert ranks.total(3, 0.5) == [3, 0.5]
        assert ranks.as_first_has_it(True)
        assert not ranks.as_first_has_it(False)


def test_one_device_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "device must be cuda, cpu or auto where 2 processes train together, found cpu:0: each"
    with pytest.raises(ValueError, match=message), ranks_of_environment(Hardware(device="cpu:0")):
        pass


RANK = """
import sys, threading, time
from datetime import timedelta
from distilwhisper.model.hardware import Hardware
from distilwhisper.training import ranks

with ranks.ends_with_its_error(), ranks.ranks_of_environment(Hardware(device="cpu")) as here:
    {body}
"""
FAILS = """
    if here.is_first:
        here.wait()
    threading.Thread(target=time.sleep, args=(1000,)).start()  # as one that reads audio
    raise OSError("the disk is gone")
"""
LETS_WAIT = """
    if here.is_first:
        time.sleep(8)
    print("told", here.as_first_has_it(here.is_first))
"""


def two_processes(body: str, *, patience_s: float | None = None) -> list[tuple[int, str]]:
    """Start both ranks, and return their statuses and what they say, in order of their ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = RANK.replace("{body}", body)
    if patience_s is not None:
        script = script.replace("\n\n", f"\nranks.PATIENCE = timedelta(seconds={patience_s})\n", 1)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in reversed(processes)]
    finally:
        for process in processes:
            process.kill()
    statuses = [process.wait() for process in processes]
    return list(zip(statuses, said[::-1], strict=True))


@pytest.mark.slow
def test_a_rank_that_fails_says_why_and_ends_at_once() -> None:
    """Neither its threads nor the rank that waits for it keep it; nor does that one wait on."""
    (waited, _), (failed, said) = two_processes(FAILS)
    assert failed == 1
    assert "OSError: the disk is gone" in said
    assert waited == 1


@pytest.mark.slow
def test_the_first_rank_may_take_longer_than_a_sum() -> None:
    """Labels may take days, of which no other collective would wait for any."""
    assert two_processes(LETS_WAIT, patience_s=5.0) == [(0, "told True\n")] * 2
