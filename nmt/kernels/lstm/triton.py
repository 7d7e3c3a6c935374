"""A step of a long short-term memory as one Triton kernel, forward and backward.

Shapes: B sentences, G gates x H, H hidden.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.rnn.triton import add_optional, gate_sum, indices, launch, load, store_with_copy, tanh
from nmt.kernels.steps import GateInputs


@triton.jit
def _lstm_gates(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside):
    """Entry, forget, candidate and output (`reference.lstm_step`)."""
    entry = gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, h, inside)
    forget = gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden + h, inside)
    candidate = gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, 2 * hidden + h, inside)
    output = gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, 3 * hidden + h, inside)
    return tl.sigmoid(entry), tl.sigmoid(forget), tanh(candidate), tl.sigmoid(output)


@triton.jit
def _lstm(
    inputs, more, recurrent, cell, after_cell, after, copy, input_b, more_b, recurrent_b, hidden, BLOCK: constexpr
):
    b, h, inside = indices(hidden, BLOCK)
    entry, forget, candidate, output = _lstm_gates(
        inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside
    )
    row = b * hidden + h
    new_cell = forget * load(cell + row, inside) + entry * candidate
    tl.store(after_cell + row, new_cell, mask=inside)
    store_with_copy(after, copy, row, output * tanh(new_cell), inside)


@triton.jit
def _store_gates(d_gates, hidden, d_entry, d_forget, d_candidate, d_output, inside):
    tl.store(d_gates, d_entry, mask=inside)
    tl.store(d_gates + hidden, d_forget, mask=inside)
    tl.store(d_gates + 2 * hidden, d_candidate, mask=inside)
    tl.store(d_gates + 3 * hidden, d_output, mask=inside)


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
    BLOCK: constexpr,
):
    b, h, inside = indices(hidden, BLOCK)
    entry, forget, candidate, output = _lstm_gates(
        inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside
    )
    row = b * hidden + h
    bounded = tanh(load(after_cell + row, inside))
    gradient = add_optional(load(d_after + row, inside), pending, row, inside)
    d_new_cell = load(d_after_cell + row, inside) + gradient * output * (1.0 - bounded * bounded)
    d_entry = d_new_cell * candidate * entry * (1.0 - entry)
    d_forget = d_new_cell * load(cell + row, inside) * forget * (1.0 - forget)
    d_candidate = d_new_cell * entry * (1.0 - candidate * candidate)
    d_output = gradient * bounded * output * (1.0 - output)
    _store_gates(d_gates + b * d_gates_b + h, hidden, d_entry, d_forget, d_candidate, d_output, inside)
    if d_copy is not None:
        _store_gates(d_copy + b * d_copy_b + h, hidden, d_entry, d_forget, d_candidate, d_output, inside)
    tl.store(d_cell + row, load(d_cell + row, inside) + d_new_cell * forget, mask=inside)


def lstm_forward(
    gates: GateInputs, cell_BH: Tensor, after_cell_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None
) -> None:
    launch(_lstm, gates, cell_BH, after_cell_BH, after_BH, copy_BH)


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
    d_gates, gradients = (d_gates_BG, d_gates_copy_BG), (d_after_BH, pending_BH, d_after_cell_BH)
    launch(_lstm_backward, gates, cell_BH, after_cell_BH, *gradients, *d_gates, d_cell_BH, rows=d_gates)
