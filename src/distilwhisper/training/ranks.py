"""One process among those that train together, each on its device: plain torch.distributed.

Started by ``torchrun``, which sets every process's place in its environment; a process that was
started alone is all there is, and then nothing here costs anything.
"""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from distilwhisper.model.hardware import Hardware

# A rank waits so long for the others: one of them may write a checkpoint or encode a corpus.
PATIENCE = timedelta(hours=2)
# And so long for the first, which labels the corpus before there is anything to train on.
PATIENCE_WITH_FIRST = timedelta(weeks=4)


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together."""

    rank: int = 0
    n_ranks: int = 1
    patient: dist.ProcessGroup | None = field(default=None, compare=False)  # waits for weeks

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all are here."""
        if self.n_ranks > 1:
            dist.barrier()

    def as_first_has_it(self, fact: bool) -> bool:
        """Return the fact of the first process, which may take days to reach this point."""
        if self.n_ranks == 1:
            return fact
        shared = torch.tensor([fact])
        dist.broadcast(shared, src=0, group=self.patient)
        return bool(shared)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over all ranks, the same bits on each of them.

        They are as many and as large on every rank.
        """
        if self.n_ranks == 1:
            return
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()

    def total(self, *numbers: float) -> list[float]:
        """Return the sums of numbers over all ranks."""
        if self.n_ranks == 1:
            return list(numbers)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        sums = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        return sums.tolist()


@contextmanager
def ranks_of_environment(hardware: Hardware) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, if it did; leave them at the end.

    Takes nccl where they train on GPUs, of which each process takes its own, and gloo elsewhere.
    After an error nobody is left: the others may wait, so :func:`ends_with_its_error` must follow.

    Raises:
        ValueError: there is no such device, or the hardware names one GPU for all.
    """
    n_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if n_ranks == 1:
        yield Ranks()
        return
    device = hardware.pick_device()
    if device.index is not None:
        raise ValueError(
            f"device must be cuda, cpu or auto where {n_ranks} processes train together, found "
            f"{hardware.device}: each takes a GPU of its own"
        )
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    patient = dist.new_group(backend="gloo", timeout=PATIENCE_WITH_FIRST)
    yield Ranks(dist.get_rank(), dist.get_world_size(), patient)
    dist.destroy_process_group()


@contextmanager
def ends_with_its_error() -> Iterator[None]:
    """End this process at once, with status 1, after an error for which others would wait in vain.

    Leaving in good order would wait for them, and for threads; ``torchrun`` ends the others as soon
    as one process has ended so. A process that trains alone is left to Python.
    """
    try:
        yield
    except BaseException as error:
        if not (dist.is_available() and dist.is_initialized()):
            raise
        if not isinstance(error, SystemExit):  # of which there has been a message
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
