"""A step of a long short-term memory as one Triton kernel, forward and backward.

Shapes: B sentences, G gates x H, H hidden.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.rnn.triton import block, gate_arguments, gate_sum, grid, tanh
from nmt.kernels.steps import GateInputs


@triton.jit
def _lstm_gates(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO: constexpr):
    """Entry, forget, candidate and output (`reference.lstm_step`)."""
    entry = gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, h, inside, TWO)
    forget = gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden + h, inside, TWO)
    candidate = gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, 2 * hidden + h, inside, TWO)
    output = gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, 3 * hidden + h, inside, TWO)
    return tl.sigmoid(entry), tl.sigmoid(forget), tanh(candidate), tl.sigmoid(output)


@triton.jit
def _lstm(
    inputs,
    more,
    recurrent,
    cell,
    after_cell,
    after,
    copy,
    input_b,
    more_b,
    recurrent_b,
    hidden,
    TWO: constexpr,
    COPY: constexpr,
    BLOCK: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = h < hidden
    entry, forget, candidate, output = _lstm_gates(
        inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO
    )
    row = b * hidden + h
    new_cell = forget * tl.load(cell + row, mask=inside, other=0.0) + entry * candidate
    tl.store(after_cell + row, new_cell, mask=inside)
    state = output * tanh(new_cell)
    tl.store(after + row, state, mask=inside)
    if COPY:
        tl.store(copy + row, state, mask=inside)


@triton.jit
def _lstm_backward(
    inputs,
    more,
    recurrent,
    cell,
    after_cell,
    d_after,
    pending,
    d_after_cell,
    d_gates,
    d_copy,
    d_cell,
    input_b,
    more_b,
    recurrent_b,
    d_gates_b,
    d_copy_b,
    hidden,
    TWO: constexpr,
    PENDING: constexpr,
    DOUBLE: constexpr,
    BLOCK: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = h < hidden
    entry, forget, candidate, output = _lstm_gates(
        inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO
    )
    row = b * hidden + h
    bounded = tanh(tl.load(after_cell + row, mask=inside, other=0.0))
    gradient = tl.load(d_after + row, mask=inside, other=0.0)
    if PENDING:
        gradient += tl.load(pending + row, mask=inside, other=0.0).to(tl.float32)
    d_new_cell = tl.load(d_after_cell + row, mask=inside, other=0.0) + gradient * output * (1.0 - bounded * bounded)
    d_entry = d_new_cell * candidate * entry * (1.0 - entry)
    d_forget = d_new_cell * tl.load(cell + row, mask=inside, other=0.0) * forget * (1.0 - forget)
    d_candidate = d_new_cell * entry * (1.0 - candidate * candidate)
    d_output = gradient * bounded * output * (1.0 - output)
    d_gates += b * d_gates_b + h
    tl.store(d_gates, d_entry, mask=inside)
    tl.store(d_gates + hidden, d_forget, mask=inside)
    tl.store(d_gates + 2 * hidden, d_candidate, mask=inside)
    tl.store(d_gates + 3 * hidden, d_output, mask=inside)
    if DOUBLE:
        d_copy += b * d_copy_b + h
        tl.store(d_copy, d_entry, mask=inside)
        tl.store(d_copy + hidden, d_forget, mask=inside)
        tl.store(d_copy + 2 * hidden, d_candidate, mask=inside)
        tl.store(d_copy + 3 * hidden, d_output, mask=inside)
    tl.store(d_cell + row, tl.load(d_cell + row, mask=inside, other=0.0) + d_new_cell * forget, mask=inside)


def lstm_forward(
    gates: GateInputs, cell_BH: Tensor, after_cell_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None
) -> None:
    parts, strides = gate_arguments(gates)
    _lstm[grid(cell_BH)](
        *parts,
        cell_BH,
        after_cell_BH,
        after_BH,
        after_BH if copy_BH is None else copy_BH,
        *strides,
        cell_BH.shape[1],
        TWO=gates.more_BG is not None,
        COPY=copy_BH is not None,
        BLOCK=block(cell_BH),
    )


def lstm_backward(
    gates: GateInputs,
    cell_BH: Tensor,
    after_cell_BH: Tensor,
    d_after_BH: Tensor,
    pending_BH: Tensor | None,
    d_after_cell_BH: Tensor,
    d_gates_BG: Tensor,
    d_gates_copy_BG: Tensor | None,
    d_cell_BH: Tensor,
) -> None:
    parts, strides = gate_arguments(gates)
    d_copy_BG = d_gates_BG if d_gates_copy_BG is None else d_gates_copy_BG
    _lstm_backward[grid(cell_BH)](
        *parts,
        cell_BH,
        after_cell_BH,
        d_after_BH,
        d_after_BH if pending_BH is None else pending_BH,
        d_after_cell_BH,
        d_gates_BG,
        d_copy_BG,
        d_cell_BH,
        *strides,
        d_gates_BG.stride(0),
        d_copy_BG.stride(0),
        cell_BH.shape[1],
        TWO=gates.more_BG is not None,
        PENDING=pending_BH is not None,
        DOUBLE=d_gates_copy_BG is not None,
        BLOCK=block(cell_BH),
    )
