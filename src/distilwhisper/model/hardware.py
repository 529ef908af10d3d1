"""Where a network runs, and in which numbers."""

from dataclasses import dataclass
from typing import Literal

import torch

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Hardware:
    """Where the network runs, and in which numbers."""

    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""
    dtype: DTypeName = "auto"
    """auto: bfloat16 where the processor multiplies it natively, GPU or CPU; else float16 on a
    GPU and float32 on a CPU."""

    def pick_device(self) -> torch.device:
        """Return the device asked for.

        Raises:
            ValueError: there is no such device.
        """
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            return torch.device("cuda" if n_gpus else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(
                f"device must be auto, cpu, cuda or cuda:N, found {self.device!r}"
            ) from error
        if device.type == "cuda" and (device.index or 0) >= n_gpus:
            raise ValueError(
                f"device {self.device} must be there, found {n_gpus} GPUs that torch can use: "
                "take another device, or auto"
            )
        return device

    def pick_dtype(self) -> torch.dtype:
        """Return the type asked for."""
        if self.dtype != "auto":
            dtype: torch.dtype = getattr(torch, self.dtype)
            return dtype
        if self.pick_device().type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32

    def describe(self) -> str:
        """Return what was picked, for the log."""
        return f"{self.pick_device()}, {str(self.pick_dtype()).removeprefix('torch.')}"


def _cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 products; emulated ones are slower than float32."""
    # Older torch cannot tell.
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
