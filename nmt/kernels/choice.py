"""The one place that chooses an implementation, and says why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nmt.errors import ConfigError
from nmt.kernels import cross_entropy
from nmt.kernels.recurrence import FactoredSteps, Steps

Wanted = Literal["auto", "reference", "fused"]

LEAST_CAPABILITY = (8, 0)
"""Of a GPU that Triton compiles for."""


@dataclass(frozen=True)
class Kernels:
    """The implementations of a run."""

    cross_entropy: Callable[[Tensor, Tensor, Tensor, Tensor, float], cross_entropy.Losses]
    """Readout [N, R], weight [V, R], bias [V], targets [N] and label smoothing to losses."""
    steps: Steps | None
    """What a recurrence with attention in it runs its steps by; None: one operation after another, by autograd."""
    packed: bool
    """Whether the encoder's layers that can run by the hand-made kernel do."""
    blocked: bool
    """Whether products over all positions are oneDNN's where that is faster (`products.linear`)."""
    reason: str
    """One sentence for the log."""

    @property
    def is_reference(self) -> bool:
        """Whether nothing is fused."""
        return self.cross_entropy is cross_entropy.reference


def choose_kernels(wanted: Wanted, device: torch.device, obstacle: str = "", encoder_obstacle: str = "") -> Kernels:
    """The kernels that `runtime.kernel` asks for, on this device.

    The obstacles say what keeps the decoder's recurrence and the encoder from being fused; they are empty where nothing
    does. Raises `ConfigError` where `fused` is asked for and cannot be had.
    """
    if wanted == "reference":
        why = "kernel reference, as asked: the loss holds all logits of a batch; recurrent layers run by PyTorch"
        return Kernels(cross_entropy.reference, None, False, False, why)
    steps, why = _steps(wanted, device, obstacle)
    packed = choose_packed(wanted, device, encoder_obstacle)
    loss = f"the loss makes {cross_entropy.CHUNK} rows of logits at a time, once"
    return Kernels(cross_entropy.fused, steps, packed.fused, True, f"{packed.reason}; {loss}; {why}")


@dataclass(frozen=True)
class PackedKernel:
    """The implementation of recurrent layers over packed rows: those of documents, and of the encoder."""

    fused: bool
    """Layers that can run by the hand-made kernel do."""
    reason: str
    """One sentence for the log."""


def choose_packed(wanted: Wanted, device: torch.device, obstacle: str) -> PackedKernel:
    """The kernel that `runtime.kernel` asks for, on this device; `obstacle` says which layers cannot be fused.

    Raises `ConfigError` where `fused` is asked for and cannot be had.
    """
    if wanted == "reference":
        return PackedKernel(False, "kernel reference, as asked: recurrent layers run by PyTorch")
    if device.type != "cpu":
        return PackedKernel(False, f"kernel {wanted}: recurrent layers run by cuDNN")
    if wanted == "fused" and obstacle:
        raise ConfigError(f"runtime.kernel: fused cannot be had: {obstacle}; set it to auto or reference")
    but = f", but {obstacle}" if obstacle else ""
    return PackedKernel(True, f"kernel {wanted}: recurrent layers are differentiated by hand{but}")


def _steps(wanted: Wanted, device: torch.device, obstacle: str) -> tuple[Steps | None, str]:
    missing = obstacle or _missing(device)
    if wanted == "fused" and missing:
        raise ConfigError(f"runtime.kernel: fused cannot be had: {missing}; set it to auto or reference")
    if missing:
        return None, f"the recurrence is not fused: {missing}"
    if device.type == "cuda":
        from nmt.kernels.fused import FusedSteps

        return FusedSteps(), "attention in a recurrence runs by Triton kernels"
    return FactoredSteps(), "attention in a recurrence is differentiated by hand"


def _missing(device: torch.device) -> str:
    """What the device lacks for Triton kernels; a CPU needs none."""
    if device.type != "cuda":
        return ""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than what Triton compiles for"
    # Imported late: a machine without a GPU need not have Triton.
    from nmt.kernels import fused

    return fused.missing(device)
