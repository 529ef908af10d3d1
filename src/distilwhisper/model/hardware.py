"""Where a network runs, and in which numbers."""

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:  # the command line parses its options without it
    import torch

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
Backend = Literal["torch", "openvino"]


@dataclass(frozen=True)
class Hardware:
    """Where the network runs, and in which numbers."""

    device: str = "auto"
    """cpu, cuda, cuda:1 ..., or mps (Apple's); auto takes a CUDA GPU where there is one."""
    dtype: DTypeName = "auto"
    """auto: bfloat16 where the processor multiplies it natively, GPU or CPU; else float16 on a
    GPU and float32 on a CPU. Training takes float32 instead of float16."""
    backend: Backend = "torch"
    """What decodes: torch, or OpenVINO (extra openvino) on a CPU, with decoder weights in int8 and
    products in float32, or in bfloat16 with dtype=bfloat16. Training is torch's."""

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
            raise ValueError(
                f"device must be auto, cpu, cuda, cuda:N or mps, found {self.device!r}"
            )
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise ValueError(
                "device mps must be there, found no GPU of Apple's that torch can use: take cpu"
            )
        if device.type == "cuda" and (device.index or 0) >= n_gpus:
            raise ValueError(
                f"device {self.device} must be there, found {n_gpus} GPUs that torch can use: "
                "take another device, or auto"
            )
        return device

    def pick_dtype(self) -> "torch.dtype":
        """Return the type asked for."""
        import torch

        if self.dtype != "auto":
            dtype: torch.dtype = getattr(torch, self.dtype)
            return dtype
        device = self.pick_device()
        if device.type == "mps":
            return torch.float16
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if native else torch.float16
        return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32

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

    def pick_precision(self) -> "torch.dtype":
        """Return the type of OpenVINO's products.

        Raises:
            ValueError: float16 was asked for.
        """
        if self.dtype == "float16":
            raise ValueError("backend openvino multiplies float32 or bfloat16, found dtype float16")
        import torch

        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    def picked(self) -> "Hardware":
        """Return the same with what auto stands for on this machine, for results that are kept."""
        is_torch = self.backend == "torch"
        dtype = dtype_name(self.pick_dtype() if is_torch else self.pick_precision())
        return replace(self, device=str(self.pick_device()), dtype=cast(DTypeName, dtype))

    def describe(self) -> str:
        """Return what was picked, for the log."""
        if self.backend == "openvino":
            return f"{self.pick_device()}, openvino, {dtype_name(self.pick_precision())}"
        return f"{self.pick_device()}, {dtype_name(self.pick_dtype())}"


def dtype_name(dtype: "torch.dtype") -> str:
    """Return what settings call a number format."""
    return str(dtype).removeprefix("torch.")


def _cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 products; emulated ones are slower than float32."""
    return any(map(cpu_has, ("avx512_bf16", "amx_bf16", "bf16")))


@cache
def cpu_has(feature: str) -> bool:
    """Return whether the CPU has a feature, by torch's name for it; older torch knows of none."""
    import torch

    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(features.get(feature))
