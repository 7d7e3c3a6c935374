"""The one place that chooses an implementation, and says why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from nmt.errors import ConfigError
from nmt.kernels import cross_entropy
from nmt.kernels.gru.native import gru_layer
from nmt.kernels.native.build import load
from nmt.kernels.native.logits import chunk_losses
from nmt.kernels.packed import PackedGru
from nmt.kernels.steps import StepKernels
from nmt.kernels.tape.replay import GraphReplayer

Wanted = Literal["auto", "reference", "fused", "graphed"]

LEAST_CAPABILITY = (8, 0)
"""Of a GPU that Triton compiles for."""
FORCED: tuple[Wanted, ...] = ("fused", "graphed")
"""What is an error where it cannot be had."""


@dataclass(frozen=True)
class Kernels:
    """The implementations of a run."""

    cross_entropy: Callable[[Tensor, Tensor, Tensor, Tensor, float], cross_entropy.Losses]
    """Readout [N, R], weight [V, R], bias [V], targets [N] and label smoothing to losses."""
    steps: StepKernels | None
    """What a recurrence with attention in it runs its steps by; None: one operation after another, by autograd."""
    gru: PackedGru | None
    """What the encoder's layers that can are run by; None leaves them to the library."""
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
    does. Raises `ConfigError` where `fused` or `graphed` is asked for and cannot be had.
    """
    if wanted == "reference":
        why = "kernel reference, as asked: the loss holds all logits of a batch; recurrent layers run by PyTorch"
        return Kernels(cross_entropy.reference, None, None, False, why)
    steps, why = _steps(wanted, device, obstacle)
    packed = choose_packed(wanted, device, encoder_obstacle)
    loss, made = f"the loss makes {cross_entropy.CHUNK} rows of logits at a time, once", cross_entropy.fused
    if device.type == "cpu":
        missing = load()[1]
        why += f"; nothing is compiled: {missing}" if missing else "; what stands between the products is compiled"
        made = made if missing else partial(cross_entropy.fused, of_chunk=chunk_losses)
    return Kernels(made, steps, packed.gru, True, f"{packed.reason}; {loss}; {why}")


@dataclass(frozen=True)
class PackedKernel:
    """The implementation of recurrent layers over packed rows: those of documents, and of the encoder."""

    gru: PackedGru | None
    """What layers that can are run by; None leaves them to the library."""
    reason: str
    """One sentence for the log."""


def choose_packed(wanted: Wanted, device: torch.device, obstacle: str) -> PackedKernel:
    """The kernel that `runtime.kernel` asks for, on this device; `obstacle` says which layers cannot be fused.

    Raises `ConfigError` where `fused` is asked for and cannot be had.
    """
    if wanted == "reference":
        return PackedKernel(None, "kernel reference, as asked: recurrent layers run by PyTorch")
    if device.type != "cpu":
        return PackedKernel(None, f"kernel {wanted}: recurrent layers run by cuDNN")
    missing = load()[1]
    _insist(wanted, obstacle or missing)
    if missing:
        return PackedKernel(None, f"kernel {wanted}: recurrent layers run by PyTorch")
    but = f", but {obstacle}" if obstacle else ""
    return PackedKernel(gru_layer, f"kernel {wanted}: recurrent layers are differentiated by hand{but}")


def _steps(wanted: Wanted, device: torch.device, obstacle: str) -> tuple[StepKernels | None, str]:
    missing = obstacle or _missing(device)
    if wanted == "graphed" and device.type != "cuda":
        missing = missing or "CUDA graphs are replayed on a GPU alone"
    _insist(wanted, missing)
    if missing:
        return None, f"the recurrence is not fused: {missing}"
    if device.type == "cuda":
        said = "attention in a recurrence runs by Triton kernels"
        if wanted == "graphed":
            return StepKernels("triton", GraphReplayer()), f"{said}, replayed from CUDA graphs"
        return StepKernels("triton"), said
    return StepKernels("native"), "attention in a recurrence is differentiated by hand"


def refusal(wanted: Wanted, missing: str) -> str:
    """Why what is asked for cannot be had, where something of it is missing; empty where nothing is."""
    if not missing or wanted not in FORCED:
        return ""
    return f"{wanted} cannot be had: {missing}; set it to auto or reference"


def _insist(wanted: Wanted, missing: str) -> None:
    """Raises `ConfigError` where it is refused."""
    if refused := refusal(wanted, missing):
        raise ConfigError(f"runtime.kernel: {refused}")


def _missing(device: torch.device) -> str:
    """What the device lacks: a C compiler for a CPU, Triton for a GPU."""
    if device.type == "cpu":
        return load()[1]
    if device.type != "cuda":
        return f"there are no kernels for {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than what Triton compiles for"
    # Imported late: a machine without a GPU need not have Triton.
    from nmt.kernels.rnn.triton import unsupported_reason

    return unsupported_reason(device)
