"""Where a network runs, and in which numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from threading import RLock
from typing import TYPE_CHECKING, Literal, cast

from distilwhisper.checks import Checked

if TYPE_CHECKING:  # the command line parses its options without it
    import torch

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
Backend = Literal["auto", "torch", "openvino"]


@dataclass(frozen=True)
class Hardware(Checked):
    """Where the network runs, and in which numbers."""

    device: str = "auto"
    """cpu, cuda, cuda:1 ..., or mps (Apple's); auto takes a CUDA GPU where there is one."""
    dtype: DTypeName = "auto"
    """auto: bfloat16 where the processor multiplies it natively, GPU or CPU; else float16 on a
    GPU and float32 on a CPU. Training takes float32 instead of float16."""
    backend: Backend = "auto"
    """What decodes: torch, or on a CPU OpenVINO (extra openvino), its decoder's weights in int8.
    auto: OpenVINO where it is installed and the CPU has AVX2 or multiplies bfloat16; torch where a
    dtype is asked for, where a model drafts in bfloat16, and elsewhere. Training is torch's."""

    def pick_device(self) -> "torch.device":
        """Return the device asked for.

        Raises:
            ValueError: there is no such device, or nothing here is made for it.
        """
        import torch

        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            return torch.device("cuda" if n_gpus else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda", "mps"):
            fault = f"must be auto, cpu, cuda, cuda:N or mps, found {self.device!r}"
        elif device.type == "mps" and not torch.backends.mps.is_available():
            fault = "mps must be there, found no GPU of Apple's that torch can use: take cpu"
        elif device.type == "cuda" and (device.index or 0) >= n_gpus:
            found = f"found {n_gpus} GPUs that torch can use"
            fault = f"{self.device} must be there, {found}: take another device, or auto"
        else:
            return device
        raise ValueError(f"device {fault}")

    def pick_dtype(self) -> "torch.dtype":
        """Return the type asked for."""
        import torch

        if self.dtype != "auto":
            dtype: torch.dtype = getattr(torch, self.dtype)
            return dtype
        kind = self.pick_device().type
        if kind == "cpu":  # where bfloat16 is emulated, it is slower than float32
            multiplies = any(map(cpu_has, ("avx512_bf16", "amx_bf16", "bf16")))
            return torch.bfloat16 if multiplies else torch.float32
        native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16

    def pick_training_dtype(self) -> "torch.dtype":
        """Return the type of products in training: never float16, for which auto takes float32.

        Raises:
            ValueError: float16 was asked for.
        """
        if self.dtype == "float16":
            raise ValueError(
                "training multiplies bfloat16 or float32, found dtype float16, in which small "
                "gradients become 0 for want of loss scaling: take one of the two"
            )
        import torch

        picked = self.pick_dtype()
        return torch.float32 if picked == torch.float16 else picked

    def pick_backend(self, *, has_draft: bool = False) -> Literal["torch", "openvino"]:
        """Return what decodes; where a model drafts, no OpenVINO that rounds to bfloat16.

        Its sums depend on how many tokens are decoded at once: the text would not always be the
        model's.

        Raises:
            ValueError: OpenVINO was asked for, and it cannot do what else was.
        """
        device, rounds = self.pick_device(), dtype_name(self.pick_dtype()) == "bfloat16"
        if self.backend == "auto":
            fits = not has_draft if rounds else cpu_has("avx2")
            fits = fits and device.type == "cpu" and self.dtype == "auto"
            return "openvino" if fits and find_spec("openvino") is not None else "torch"
        if self.backend == "openvino" and (device.type != "cpu" or self.dtype == "float16"):
            raise ValueError(
                "backend openvino computes on a CPU, in float32 or bfloat16, found device "
                f"{device} and dtype {self.dtype}: take device=cpu, or backend=torch"
            )
        if self.backend == "openvino" and has_draft and rounds:
            raise ValueError(
                "a draft with backend openvino needs dtype float32, found bfloat16, in which the "
                "text would not always be the model's own: take dtype=float32, or backend=torch"
            )
        return self.backend

    def picked(self) -> "Hardware":
        """Return the same with what auto stands for on this machine, for results that are kept."""
        dtype = cast(DTypeName, dtype_name(self.pick_dtype()))
        return Hardware(str(self.pick_device()), dtype, self.pick_backend())

    def describe(self, *, has_draft: bool = False) -> str:
        """Return what was picked, for the log."""
        backend = self.pick_backend(has_draft=has_draft)
        return f"{self.pick_device()}, {backend}, {dtype_name(self.pick_dtype())}"


_ONE_THREAD = RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: beside an engine with threads of its own, for small work.

    Threads that wait for each other at every operation stand still where others want the cores.
    One caller at a time: a new Python thread keeps for good the number of threads that is set when
    it first uses torch.
    """
    import torch

    with _ONE_THREAD:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)


def dtype_name(dtype: "torch.dtype") -> str:
    """Return what settings call a number format."""
    return str(dtype).removeprefix("torch.")


@cache
def cpu_has(feature: str) -> bool:
    """Return whether the CPU has a feature, by torch's name for it; older torch knows of none."""
    import torch

    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(features.get(feature))
