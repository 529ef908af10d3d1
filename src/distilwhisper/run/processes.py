"""Which processes share the work of a stage."""

from dataclasses import dataclass
from typing import Literal

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class EngineSettings:
    """Which processes label and evaluate; all but the engine's name is ray's."""

    engine: EngineName = "local"
    """local: this process. ray: the workers of the Ray cluster that RAY_ADDRESS names or that runs
    on this machine, or else of one that is started on this machine for as long as it is needed."""
    n_workers: int = 0
    """Most workers at a time, also while the cluster grows to bear them; 0: as many as its present
    size bears."""
    cpus_per_worker: float = 1.0
    """CPUs that a worker holds; it computes in as many threads, at least one."""
    gpus_per_worker: float | None = None
    """GPUs that a worker holds; left out: one where the cluster has any, else none."""
    max_attempts: int = 3
    """How often a shard is begun before its failing ends the run."""
    start_timeout_s: float = 600.0
    """How long to wait for the first worker, while a cluster starts machines."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be {wanted}, found {getattr(self, name)}"
            for name, wanted, fits in (
                ("n_workers", "at least 0", self.n_workers >= 0),
                ("cpus_per_worker", "above 0", self.cpus_per_worker > 0),
                ("gpus_per_worker", "at least 0", (self.gpus_per_worker or 0) >= 0),
                ("max_attempts", "at least 1", self.max_attempts >= 1),
                ("start_timeout_s", "above 0", self.start_timeout_s > 0),
            )
            if not fits
        ]
        if faults:
            raise ValueError("; ".join(faults))
