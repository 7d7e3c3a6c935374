"""A step of a gated recurrent unit as one Triton kernel, forward and backward.

Shapes: B sentences, G = 3 x H gates, H hidden.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.rnn.triton import add_optional, gate_sum, indices, input_half, launch, load, store_with_copy, tanh
from nmt.kernels.steps import GateInputs


@triton.jit
def _gates(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside):
    """Reset, update and candidate, and the recurrent part of the candidate (`reference.gru_step`)."""
    reset = tl.sigmoid(gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, h, inside))
    update = tl.sigmoid(gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden + h, inside))
    from_n = input_half(inputs, more, b, input_b, more_b, 2 * hidden + h, inside)
    recurrent_n = load(recurrent + b * recurrent_b + 2 * hidden + h, inside)
    return reset, update, tanh(from_n + reset * recurrent_n), recurrent_n


@triton.jit
def _gru(inputs, more, recurrent, before, after, copy, input_b, more_b, recurrent_b, hidden, BLOCK: constexpr):
    b, h, inside = indices(hidden, BLOCK)
    _, update, candidate, _ = _gates(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside)
    state = load(before + b * hidden + h, inside)
    store_with_copy(after, copy, b * hidden + h, candidate + update * (state - candidate), inside)


@triton.jit
def _store_gates(d_gates, hidden, d_reset, d_update, d_candidate, inside):
    tl.store(d_gates, d_reset, mask=inside)
    tl.store(d_gates + hidden, d_update, mask=inside)
    tl.store(d_gates + 2 * hidden, d_candidate, mask=inside)


@triton.jit
def _gru_backward(
    inputs,
    more,
    recurrent,
    before,
    d_after,
    pending,
    d_inputs,
    d_recurrent,
    d_before,
    input_b,
    more_b,
    recurrent_b,
    d_input_b,
    d_recurrent_b,
    hidden,
    BLOCK: constexpr,
):
    b, h, inside = indices(hidden, BLOCK)
    row = b * hidden + h
    reset, update, candidate, recurrent_n = _gates(
        inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside
    )
    state = load(before + row, inside)
    gradient = add_optional(load(d_after + row, inside), pending, row, inside)
    d_candidate = gradient * (1.0 - update) * (1.0 - candidate * candidate)
    d_update = gradient * (state - candidate) * update * (1.0 - update)
    d_reset = d_candidate * recurrent_n * reset * (1.0 - reset)
    _store_gates(d_inputs + b * d_input_b + h, hidden, d_reset, d_update, d_candidate, inside)
    _store_gates(d_recurrent + b * d_recurrent_b + h, hidden, d_reset, d_update, d_candidate * reset, inside)
    tl.store(d_before + row, load(d_before + row, inside) + gradient * update, mask=inside)


def gru_forward(gates: GateInputs, before_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None) -> None:
    launch(_gru, gates, before_BH, after_BH, copy_BH)


def gru_backward(
    gates: GateInputs,
    before_BH: Tensor,
    d_after_BH: Tensor,
    pending_BH: Tensor | None,
    d_input_BG: Tensor,
    d_recurrent_BG: Tensor,
    d_before_BH: Tensor,
) -> None:
    d_gates = (d_input_BG, d_recurrent_BG)
    launch(_gru_backward, gates, before_BH, d_after_BH, pending_BH, *d_gates, d_before_BH, rows=d_gates)
