"""Chooses the implementation of every operation of a run, once, and says why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.errors import ConfigError
from nmt.kernels.attention import additive_scores
from nmt.kernels.attention import native as native_attention
from nmt.kernels.compiler import load_library
from nmt.kernels.cross_entropy import native as native_cross_entropy
from nmt.kernels.cross_entropy import reference as reference_cross_entropy
from nmt.kernels.cross_entropy.chunked import CHUNK, GPU_SHARE, chunk_losses, losses_by
from nmt.kernels.dropout.native import native_dropout
from nmt.kernels.gru.native import gru_layer
from nmt.kernels.linear import onednn
from nmt.kernels.linear.quantization import (
    Bf16Weight,
    Fp32Weight,
    Int8Weight,
    NativeInt8Weight,
    OnednnInt8Weight,
    OnednnNativeInt8Weight,
    PrepackedWeight,
    prepack,
)
from nmt.kernels.packed import Packing, RecurrentStack, State, run_packed
from nmt.kernels.steps import CellEquation, CellStep, StepKernels, native_step, reference_step
from nmt.runtime import cpu_flags

KernelName = Literal["auto", "reference", "fused", "graphed"]
"""Values of `runtime.kernel`."""
WeightFormat = Literal["fp32", "bf16", "int8"]

LEAST_CAPABILITY = (8, 0)
"""Least compute capability of a GPU."""
FORCED: tuple[KernelName, ...] = ("fused", "graphed")
"""Values of `runtime.kernel` that are an error where they are unavailable."""


@dataclass(frozen=True)
class Kernels:
    """The implementations of a run's operations. A network receives them when it is built."""

    cross_entropy: Callable[[Tensor, Tensor, Tensor, Tensor, float], reference_cross_entropy.Losses]
    """Readout [N, R], weight [V, R], bias [V], targets [N] and label smoothing to losses."""
    regularized_cross_entropy: Callable[
        [Tensor, Tensor, Tensor, Tensor, float, float], reference_cross_entropy.RegularizedLosses
    ]
    """The same for readouts [2, N, R] of two passes, and the weight alpha of their divergence."""
    target_log_probabilities: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Readout [N, R], weight [V, R], bias [V] and targets [N] to log-probabilities [N], with gradients."""
    dropout: Callable[[Tensor, float, bool], Tensor]
    """Inputs, probability and whether the network is in training."""
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """`torch.nn.functional.linear` for inputs of many rows."""
    additive_scores: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """v' tanh(q + k), as `attention.additive.additive_scores`."""
    log_softmax: Callable[[Tensor], Tensor]
    """Over the last dimension, in at least single precision."""
    cell_step: Callable[[CellEquation], CellStep]
    """From the equation of a recurrent cell to one step of it."""
    layers: Callable[[RecurrentStack, Tensor, Packing], tuple[Tensor, State]]
    """A stack of recurrent layers over packed rows, as `packed.run_packed`."""
    steps: StepKernels | None
    """Replays a recorded recurrence with attention; None: autograd runs one operation after another."""
    weights: type[PrepackedWeight] | None
    """The class that a translator's constant weights are prepacked in; None: they are not prepacked."""
    reason: str
    """The choice in one sentence, for the log."""
    skips_positions: bool = False
    """Whether -1 is a target of `cross_entropy`: of a position that does not count."""
    warning: str = ""
    """Why training is slower than it could be; else empty."""

    def prepack(self, network: nn.Module, scales: Mapping[str, Tensor] | None = None) -> None:
        """Prepacks the weights of a loaded network, if a format is set.

        `scales` are those of weights that were rounded to 8 bits before, by name, for int8.
        """
        if self.weights is not None:
            prepack(network, self.weights, scales)


class UnsupportedReasons(NamedTuple):
    """Why parts of a network have only the reference, with the path in the YAML; empty where kernels support them."""

    layers: str = ""
    """For the recurrent layers over packed rows."""
    recurrence: str | None = ""
    """For the decoder's recurrence with attention; None where the network has no decoder."""
    loss: str = ""
    """For the loss behind the vocabulary projection."""


def reference_kernels(reason: str = "") -> Kernels:
    """Returns the reference of every operation, in PyTorch alone."""
    return Kernels(
        cross_entropy=reference_cross_entropy.cross_entropy,
        regularized_cross_entropy=reference_cross_entropy.regularized_cross_entropy,
        target_log_probabilities=reference_cross_entropy.target_log_probabilities,
        dropout=F.dropout,
        linear=F.linear,
        additive_scores=additive_scores,
        log_softmax=reference_cross_entropy.log_softmax,
        cell_step=reference_step,
        layers=run_packed,
        steps=None,
        weights=None,
        reason=reason,
    )


def choose_kernels(
    kernel: KernelName,
    device: torch.device,
    unsupported: UnsupportedReasons = UnsupportedReasons(),  # noqa: B008 - immutable
    weights: WeightFormat | None = None,
) -> Kernels:
    """Chooses the kernels for `runtime.kernel` on this device.

    With `weights` they are for translation with constant weights, prepacked in this format; all products then go
    through `torch.nn.functional.linear`. Raises `ConfigError` where `fused` or `graphed` is unavailable.
    """
    reference = reference_kernels("kernel reference, as asked: PyTorch runs every equation as it stands")
    if kernel == "reference":
        return reference
    if device.type == "mps":
        _refuse(kernel, "there are no kernels for mps")
        return replace(reference, reason="kernel reference: there are no other kernels for mps")
    steps, recurrence = _choose_steps(kernel, device, unsupported.recurrence)
    without_triton = "" if device.type == "cpu" else _unsupported_device(device)
    rows = f"{CHUNK} rows" if device.type == "cpu" else f"a {GPU_SHARE}th of the memory"
    loss = f"the loss makes {rows} of logits at a time, once"
    if unsupported.loss:
        loss += f", by PyTorch: {unsupported.loss}"
    has_triton = device.type != "cpu" and not without_triton and not unsupported.loss
    losses = losses_by(chunk_losses)
    if has_triton:
        # A local import, because a machine without a GPU need not have Triton.
        from nmt.kernels.cross_entropy.triton import triton_chunk_losses

        losses = losses_by(triton_chunk_losses)
        loss += ", by a Triton kernel"
    if device.type != "cpu":
        reason = f"kernel {kernel}: recurrent layers run by cuDNN; {loss}{recurrence}"
        return replace(reference, **losses, skips_positions=has_triton, steps=steps, reason=reason)
    library, missing = load_library()
    _refuse(kernel, unsupported.layers or missing)
    chosen = replace(reference, **losses, linear=onednn.linear, steps=steps)
    if library:
        but = f", but {unsupported.layers}" if unsupported.layers else ""
        chosen = replace(
            chosen,
            **losses_by(native_cross_entropy.native_chunk_losses),
            dropout=native_dropout,
            additive_scores=native_attention.additive_scores,
            log_softmax=native_cross_entropy.log_softmax,
            cell_step=native_step,
            layers=partial(
                run_packed, gru=gru_layer, dropout=native_dropout, linear=onednn.linear, cell_step=native_step
            ),
            reason=f"kernel {kernel}: recurrent layers are differentiated by hand{but}; {loss}{recurrence}; what "
            "stands between the products is compiled",
        )
    else:
        reason = f"kernel {kernel}: recurrent layers run by PyTorch; {loss}{recurrence}; nothing is compiled: {missing}"
        chosen = replace(chosen, reason=reason, warning=f"no compiled kernels, so training is slower: {missing}")
    if weights is not None:
        layers = partial(run_packed, cell_step=chosen.cell_step)
        chosen = replace(chosen, linear=F.linear, layers=layers, steps=None, weights=_choose_weights(weights))
    return chosen


def refusal(kernel: KernelName, reason: str | None) -> str:
    """Returns why a forced kernel is unavailable and the remedy; else an empty string."""
    if not reason or kernel not in FORCED:
        return ""
    return f"{kernel} cannot be had: {reason}; set it to auto or reference"


def _refuse(kernel: KernelName, reason: str) -> None:
    """Raises `ConfigError` where a forced kernel is unavailable."""
    if message := refusal(kernel, reason):
        raise ConfigError(f"runtime.kernel: {message}")


def _choose_steps(kernel: KernelName, device: torch.device, unsupported: str | None) -> tuple[StepKernels | None, str]:
    if unsupported is None:
        return None, ""
    reason = unsupported or _unsupported_device(device)
    if kernel == "graphed" and device.type != "cuda":
        reason = reason or "CUDA graphs are replayed on a GPU alone"
    _refuse(kernel, reason)
    if reason:
        return None, f"; the recurrence runs by autograd: {reason}"
    if device.type == "cpu":
        return StepKernels("native"), "; attention in a recurrence is differentiated by hand"
    return StepKernels("triton"), "; attention in a recurrence runs by Triton kernels"


def _choose_weights(weights: WeightFormat) -> type[PrepackedWeight]:
    """Returns the class with the fastest products in this format on this processor."""
    if weights != "int8":
        return Fp32Weight if weights == "fp32" else Bf16Weight
    compiled = load_library()[0] is not None
    if "avx512_vnni" in cpu_flags() and torch._C._get_mkldnn_enabled():
        return OnednnNativeInt8Weight if compiled else OnednnInt8Weight
    return NativeInt8Weight if compiled else Int8Weight


def _unsupported_device(device: torch.device) -> str:
    """Returns why the device has no fast kernels (no C compiler, no Triton); empty where it has them."""
    if device.type == "cpu":
        return load_library()[1]
    if device.type != "cuda":
        return f"there are no kernels for {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than what Triton compiles for"
    try:
        # A local import, because a machine without a GPU need not have Triton.
        from nmt.kernels.rnn.triton import unsupported_reason
    except Exception as error:
        # An old version lacks parts of the language, and may fail in any way.
        return f"this version of Triton does not read the kernels ({type(error).__name__}: {error})"

    return unsupported_reason(device)
