"""Steps of a simple recurrence as Triton kernels, and the parts that the kernels of all cells share.

Importing this needs the package `triton`.

Shapes: B sentences, G gates x H, R features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
def indices(hidden, BLOCK: constexpr):
    """Returns the row and the features of a program, and the mask of the features that exist."""
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    return b, h, h < hidden


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


def launch(kernel: Any, gates: GateInputs | None, *tensors: Tensor | None, rows: Sequence[Tensor | None] = ()) -> None:
    """Launches a kernel of a cell: one program for each row and block of features of the first tensor [B, H].

    It gets the terms of the gate inputs and the tensors, then the strides of both the terms and `rows`, and H.
    """
    terms = () if gates is None else (gates.input_BG, gates.more_BG, gates.recurrent_BG)
    strides = (0 if each is None else each.stride(0) for each in (*terms, *rows))
    assert tensors[0] is not None
    batch, features = tensors[0].shape
    block = min(WIDEST, int(triton.next_power_of_2(features)))
    kernel[batch, triton.cdiv(features, block)](*terms, *tensors, *strides, features, BLOCK=block)


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
    b, r, inside = indices(features, BLOCK)
    value = tanh(gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, r, inside))
    store_with_copy(after, copy, b * features + r, value, inside)


@triton.jit
def _rnn_backward(after, d_after, pending, d_gates, d_copy, d_gates_b, d_copy_b, features, BLOCK: constexpr):
    b, r, inside = indices(features, BLOCK)
    row = b * features + r
    value = load(after + row, inside)
    gradient = add_optional(load(d_after + row, inside), pending, row, inside) * (1.0 - value * value)
    tl.store(d_gates + b * d_gates_b + r, gradient, mask=inside)
    if d_copy is not None:
        tl.store(d_copy + b * d_copy_b + r, gradient, mask=inside)


def rnn_forward(gates: GateInputs, after_BR: Tensor, copy_BR: Tensor | None) -> None:
    launch(_rnn, gates, after_BR, copy_BR)


def rnn_backward(
    after_BR: Tensor, d_after_BR: Tensor, pending_BR: Tensor | None, d_gates_BR: Tensor, d_gates_copy_BR: Tensor | None
) -> None:
    d_gates = (d_gates_BR, d_gates_copy_BR)
    launch(_rnn_backward, None, after_BR, d_after_BR, pending_BR, *d_gates, rows=d_gates)
