"""Steps of a simple recurrence as Triton kernels, and the parts that the kernels of all cells share.

Importing this needs the package `triton`.

Shapes: B sentences, G gates x H, R features.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.steps import GateInputs

WIDEST = 1024
"""Upper bound of the features that a program of a cell computes."""


@triton.jit
def tanh(x):
    """tanh to 1e-7, without overflow."""
    # Triton's interpreter has no tanh.
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def input_half(inputs, more, b, input_b, more_b, at, inside, TWO: constexpr):
    """Loads the input's half of the gates, at these features of a sentence."""
    half = tl.load(inputs + b * input_b + at, mask=inside, other=0.0).to(tl.float32)
    if TWO:
        half += tl.load(more + b * more_b + at, mask=inside, other=0.0).to(tl.float32)
    return half


@triton.jit
def gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, at, inside, TWO: constexpr):
    """Loads the sum of both halves."""
    half = input_half(inputs, more, b, input_b, more_b, at, inside, TWO)
    return half + tl.load(recurrent + b * recurrent_b + at, mask=inside, other=0.0).to(tl.float32)


def gate_arguments(gates: GateInputs) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
    """Returns the terms of gate inputs and the strides of their rows."""
    input_BG, recurrent_BG, more_BG = gates
    more_BG = input_BG if more_BG is None else more_BG
    return (input_BG, more_BG, recurrent_BG), (input_BG.stride(0), more_BG.stride(0), recurrent_BG.stride(0))


def block(like_BF: Tensor) -> int:
    """Returns the features that a program of a cell computes."""
    return min(WIDEST, int(triton.next_power_of_2(like_BF.shape[1])))


def grid(like_BF: Tensor) -> tuple[int, int]:
    """Returns the grid of a cell: one program for each row and block of its features."""
    batch, features = like_BF.shape
    return batch, triton.cdiv(features, block(like_BF))


def unsupported_reason(device: torch.device) -> str:
    """Returns why no kernel can be launched on this device, or an empty string. Takes a second the first time."""
    one = torch.ones(1, 1, device=device)
    try:
        rnn_forward(GateInputs(one, one), torch.empty_like(one), None)
    except Exception as error:
        # Triton needs a C compiler and Python's headers, and raises errors of many classes.
        why = str(error).partition("\n")[0]
        return f"Triton launches no kernel here ({type(error).__name__}: {why})"
    return ""


@triton.jit
def _rnn(
    inputs,
    more,
    recurrent,
    after,
    copy,
    input_b,
    more_b,
    recurrent_b,
    features,
    TWO: constexpr,
    COPY: constexpr,
    BLOCK: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = r < features
    value = tanh(gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, r, inside, TWO))
    tl.store(after + b * features + r, value, mask=inside)
    if COPY:
        tl.store(copy + b * features + r, value, mask=inside)


@triton.jit
def _rnn_backward(
    after,
    d_after,
    pending,
    d_gates,
    d_copy,
    d_gates_b,
    d_copy_b,
    features,
    PENDING: constexpr,
    DOUBLE: constexpr,
    BLOCK: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = r < features
    gradient = tl.load(d_after + b * features + r, mask=inside, other=0.0)
    if PENDING:
        gradient += tl.load(pending + b * features + r, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(after + b * features + r, mask=inside, other=0.0).to(tl.float32)
    gradient *= 1.0 - value * value
    tl.store(d_gates + b * d_gates_b + r, gradient, mask=inside)
    if DOUBLE:
        tl.store(d_copy + b * d_copy_b + r, gradient, mask=inside)


def rnn_forward(gates: GateInputs, after_BR: Tensor, copy_BR: Tensor | None) -> None:
    parts, strides = gate_arguments(gates)
    _rnn[grid(after_BR)](
        *parts,
        after_BR,
        after_BR if copy_BR is None else copy_BR,
        *strides,
        after_BR.shape[1],
        TWO=gates.more_BG is not None,
        COPY=copy_BR is not None,
        BLOCK=block(after_BR),
    )


def rnn_backward(
    after_BR: Tensor, d_after_BR: Tensor, pending_BR: Tensor | None, d_gates_BR: Tensor, d_gates_copy_BR: Tensor | None
) -> None:
    d_copy_BR = d_gates_BR if d_gates_copy_BR is None else d_gates_copy_BR
    _rnn_backward[grid(after_BR)](
        after_BR,
        d_after_BR,
        d_after_BR if pending_BR is None else pending_BR,
        d_gates_BR,
        d_copy_BR,
        d_gates_BR.stride(0),
        d_copy_BR.stride(0),
        after_BR.shape[1],
        PENDING=pending_BR is not None,
        DOUBLE=d_gates_copy_BR is not None,
        BLOCK=block(after_BR),
    )
