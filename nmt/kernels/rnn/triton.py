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
def load(pointers, mask):
    """Loads in single precision; zero outside the mask."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def add_optional(total, pointer, offsets, mask):
    """Adds what a pointer holds at these offsets, where there is a pointer."""
    if pointer is not None:
        total += load(pointer + offsets, mask)
    return total


@triton.jit
def store_with_copy(pointer, copy, offsets, value, mask):
    """Stores a value and, where there is a pointer to a copy, the copy."""
    tl.store(pointer + offsets, value, mask=mask)
    if copy is not None:
        tl.store(copy + offsets, value, mask=mask)


@triton.jit
def input_half(inputs, more, b, input_b, more_b, at, inside):
    """Loads the input's half of the gates, at these features of a sentence."""
    return add_optional(load(inputs + b * input_b + at, inside), more, b * more_b + at, inside)


@triton.jit
def gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, at, inside):
    """Loads the sum of both halves."""
    half = input_half(inputs, more, b, input_b, more_b, at, inside)
    return half + load(recurrent + b * recurrent_b + at, inside)


def stride(rows_BF: Tensor | None) -> int:
    """Returns the stride of rows; 0 without a tensor."""
    return 0 if rows_BF is None else rows_BF.stride(0)


def gate_arguments(gates: GateInputs) -> tuple[tuple[Tensor, Tensor | None, Tensor], tuple[int, int, int]]:
    """Returns the terms of gate inputs and the strides of their rows."""
    input_BG, recurrent_BG, more_BG = gates
    return (input_BG, more_BG, recurrent_BG), (stride(input_BG), stride(more_BG), stride(recurrent_BG))


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
def _rnn(inputs, more, recurrent, after, copy, input_b, more_b, recurrent_b, features, BLOCK: constexpr):
    b = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = r < features
    value = tanh(gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, r, inside))
    store_with_copy(after, copy, b * features + r, value, inside)


@triton.jit
def _rnn_backward(after, d_after, pending, d_gates, d_copy, d_gates_b, d_copy_b, features, BLOCK: constexpr):
    b = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = r < features
    row = b * features + r
    value = load(after + row, inside)
    gradient = add_optional(load(d_after + row, inside), pending, row, inside) * (1.0 - value * value)
    tl.store(d_gates + b * d_gates_b + r, gradient, mask=inside)
    if d_copy is not None:
        tl.store(d_copy + b * d_copy_b + r, gradient, mask=inside)


def rnn_forward(gates: GateInputs, after_BR: Tensor, copy_BR: Tensor | None) -> None:
    terms, strides = gate_arguments(gates)
    _rnn[grid(after_BR)](*terms, after_BR, copy_BR, *strides, after_BR.shape[1], BLOCK=block(after_BR))


def rnn_backward(
    after_BR: Tensor, d_after_BR: Tensor, pending_BR: Tensor | None, d_gates_BR: Tensor, d_gates_copy_BR: Tensor | None
) -> None:
    gradients = (d_after_BR, pending_BR, d_gates_BR, d_gates_copy_BR)
    sizes = (stride(d_gates_BR), stride(d_gates_copy_BR), after_BR.shape[1])
    _rnn_backward[grid(after_BR)](after_BR, *gradients, *sizes, BLOCK=block(after_BR))
