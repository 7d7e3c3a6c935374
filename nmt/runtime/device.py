"""Device and precision: chosen once, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from nmt.config import schema
from nmt.errors import ConfigError
from nmt.runtime import processes
from nmt.runtime.memory import settle_memory


@dataclass(frozen=True)
class Hardware:
    """What the chosen device can multiply natively."""

    name: str
    """As in a message: `this CPU`, `NVIDIA A100`."""
    is_gpu: bool
    bf16: str
    """What makes bf16 native, such as `avx512_bf16`; empty where nothing does."""
    fast_fp16: bool
    """Half-precision products are faster than single ones."""


@dataclass(frozen=True)
class Runtime:
    """Where this process computes, and its place among the others."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """Number format of the matrix products; None is float32 throughout."""
    reason: str
    """One sentence for the log: which device and precision, and why."""
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    weights: Literal["fp32", "bf16", "int8"] | None = None
    """Format that constant weights are packed in, for translating on a CPU; None leaves them as they are."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints, metrics and log."""
        return self.rank == 0

    @property
    def needs_scaler(self) -> bool:
        """Gradients underflow without a loss scale: fp16 has 5 exponent bits (Micikevicius 2018, section 3.2)."""
        return self.autocast_dtype is torch.float16

    def autocast(self) -> torch.autocast:
        """Context of the forward pass in the chosen precision; does nothing in float32."""
        return torch.autocast(
            self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None, cache_enabled=True
        )


def set_up(options: schema.RuntimeConfig) -> Runtime:
    """Choose device and precision, set PyTorch's global switches, join the process group of `torchrun`.

    With float32 asked for, every product on a GPU is a true float32 one. Otherwise the few that autocast leaves in
    float32 may use TF32 (10 mantissa bits, still more than bf16 has), which is several times faster.

    Raises `ConfigError` where a forced device or precision cannot be had.
    """
    rank, world, local_rank = processes.place()
    device, why_device = _choose_device(options.device, local_rank)
    dtype, why_precision = choose_precision(options.precision, _inspect(device))
    if options.threads:
        torch.set_num_threads(options.threads)
    if device.type == "cpu":
        settle_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        tf32 = dtype is not None
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
    if world > 1:
        processes.join(rank, world, gpu=device.type == "cuda")
    weights: Literal["fp32", "bf16", "int8"] | None = None
    if device.type == "cpu":
        weights = "int8" if options.precision == "int8" else "fp32" if dtype is None else "bf16"
    return Runtime(device, dtype, f"{why_device}; {why_precision}", rank, world, local_rank, weights)


def choose_precision(wanted: str, hardware: Hardware) -> tuple[torch.dtype | None, str]:
    """The autocast type (None is float32) and the reason; `ConfigError` where a forced one cannot be had."""
    if wanted == "fp32":
        return None, "precision fp32, as asked"
    if wanted == "bf16":
        if not hardware.bf16:
            raise ConfigError(
                f"runtime.precision: {hardware.name} has no bf16 (a CPU needs avx512_bf16 or amx_bf16, a GPU compute "
                "capability 8.0); set it to auto or fp32"
            )
        return torch.bfloat16, "precision bf16, as asked"
    if wanted == "int8":
        if hardware.is_gpu:
            raise ConfigError("runtime.precision: int8 is for CPUs; set it to auto, fp16 or fp32")
        return None, "precision int8, as asked: constant weights are integers"
    if wanted == "fp16":
        if not hardware.is_gpu:
            raise ConfigError("runtime.precision: fp16 needs a GPU; set it to auto, bf16 or fp32")
        return torch.float16, "precision fp16 with loss scaling, as asked"
    assert wanted == "auto", wanted
    if hardware.bf16:
        return torch.bfloat16, f"precision bf16: {hardware.name} multiplies it natively ({hardware.bf16})"
    if hardware.is_gpu and hardware.fast_fp16:
        return torch.float16, f"precision fp16 with loss scaling: {hardware.name} has no bf16"
    return None, f"precision fp32: {hardware.name} multiplies no shorter format faster"


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The number format in which matrix products of this tensor are computed here and now."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine: PyTorch's CPU allocator has no error class of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _choose_device(wanted: str, local_rank: int) -> tuple[torch.device, str]:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu":
        return torch.device("cpu"), "device cpu, as asked"
    if wanted == "cuda" and not gpus:
        raise ConfigError("runtime.device: PyTorch finds no GPU here; set it to auto or cpu")
    if not gpus:
        return torch.device("cpu"), "device cpu: PyTorch finds no GPU"
    if local_rank >= gpus:
        raise ConfigError(
            f"runtime.device: process {local_rank} of this machine finds no GPU of its own, there are {gpus}; "
            f"use torchrun --nproc-per-node {gpus} or set it to cpu"
        )
    device = torch.device("cuda", local_rank)
    return device, f"device {device}: {torch.cuda.get_device_name(device)}"


def _inspect(device: torch.device) -> Hardware:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        # Emulated bf16 (before 8.0) is slower than float32; before 7.0 there are no tensor cores for fp16 either.
        bf16 = f"compute capability {major}.{minor}" if major >= 8 else ""
        return Hardware(torch.cuda.get_device_name(device), True, bf16, major >= 7)
    # PyTorch's own query also counts CPUs on which oneDNN emulates bf16, which is slower than float32.
    flags = cpu_flags()
    native = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    return Hardware("this CPU", False, ", ".join(native), False)


@cache
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets of an x86 processor on Linux; empty elsewhere."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))
