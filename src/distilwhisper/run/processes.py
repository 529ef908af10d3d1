"""Which processes share the work of a stage."""

from dataclasses import dataclass
from typing import Literal

from distilwhisper.checks import ABOVE_0, AT_LEAST_0, AT_LEAST_1, Checked, ruled

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class EngineSettings(Checked):
    """Which processes label and evaluate; all but the engine's name is ray's."""

    engine: EngineName = "local"
    """local: this process. ray: the workers of the Ray cluster that RAY_ADDRESS names or that runs
    on this machine, or else of one that is started on this machine for as long as it is needed."""
    n_workers: int = ruled(0, AT_LEAST_0)
    """Most workers at a time, also while the cluster grows to bear them; 0: as many as its present
    size bears."""
    cpus_per_worker: float = ruled(1.0, ABOVE_0)
    """CPUs that a worker holds; it computes in as many threads, at least one."""
    gpus_per_worker: float | None = ruled(None, AT_LEAST_0)
    """GPUs that a worker holds; left out: one where the cluster has any, else none."""
    max_attempts: int = ruled(3, AT_LEAST_1)
    """How often a shard is begun before its failing ends the run."""
    start_timeout_s: float = ruled(600.0, ABOVE_0)
    """How long to wait for the first worker, while a cluster starts machines."""
