"""A step of a gated recurrent unit as one Triton kernel, forward and backward.

Shapes: B sentences, G = 3 x H gates, H hidden.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.rnn.triton import block, gate_arguments, gate_sum, grid, input_half, tanh
from nmt.kernels.steps import GateInputs


@triton.jit
def _gates(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO: constexpr):
    """Reset, update and candidate, and the recurrent part of the candidate (`reference.gru_step`)."""
    reset = tl.sigmoid(gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, h, inside, TWO))
    update = tl.sigmoid(gate_sum(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden + h, inside, TWO))
    from_n = input_half(inputs, more, b, input_b, more_b, 2 * hidden + h, inside, TWO)
    recurrent_n = tl.load(recurrent + b * recurrent_b + 2 * hidden + h, mask=inside, other=0.0).to(tl.float32)
    return reset, update, tanh(from_n + reset * recurrent_n), recurrent_n


@triton.jit
def _gru(
    inputs,
    more,
    recurrent,
    before,
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
    _, update, candidate, _ = _gates(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO)
    state = tl.load(before + b * hidden + h, mask=inside, other=0.0)
    state = candidate + update * (state - candidate)
    tl.store(after + b * hidden + h, state, mask=inside)
    if COPY:
        tl.store(copy + b * hidden + h, state, mask=inside)


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
    TWO: constexpr,
    PENDING: constexpr,
    BLOCK: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = h < hidden
    reset, update, candidate, recurrent_n = _gates(
        inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO
    )
    state = tl.load(before + b * hidden + h, mask=inside, other=0.0)
    gradient = tl.load(d_after + b * hidden + h, mask=inside, other=0.0)
    if PENDING:
        gradient += tl.load(pending + b * hidden + h, mask=inside, other=0.0).to(tl.float32)
    d_candidate = gradient * (1.0 - update) * (1.0 - candidate * candidate)
    d_update = gradient * (state - candidate) * update * (1.0 - update)
    d_reset = d_candidate * recurrent_n * reset * (1.0 - reset)
    d_inputs += b * d_input_b + h
    tl.store(d_inputs, d_reset, mask=inside)
    tl.store(d_inputs + hidden, d_update, mask=inside)
    tl.store(d_inputs + 2 * hidden, d_candidate, mask=inside)
    d_recurrent += b * d_recurrent_b + h
    tl.store(d_recurrent, d_reset, mask=inside)
    tl.store(d_recurrent + hidden, d_update, mask=inside)
    tl.store(d_recurrent + 2 * hidden, d_candidate * reset, mask=inside)
    d_before += b * hidden + h
    tl.store(d_before, tl.load(d_before, mask=inside, other=0.0) + gradient * update, mask=inside)


def gru_forward(gates: GateInputs, before_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None) -> None:
    parts, strides = gate_arguments(gates)
    _gru[grid(before_BH)](
        *parts,
        before_BH,
        after_BH,
        after_BH if copy_BH is None else copy_BH,
        *strides,
        before_BH.shape[1],
        TWO=gates.more_BG is not None,
        COPY=copy_BH is not None,
        BLOCK=block(before_BH),
    )


def gru_backward(
    gates: GateInputs,
    before_BH: Tensor,
    d_after_BH: Tensor,
    pending_BH: Tensor | None,
    d_input_BG: Tensor,
    d_recurrent_BG: Tensor,
    d_before_BH: Tensor,
) -> None:
    parts, strides = gate_arguments(gates)
    _gru_backward[grid(before_BH)](
        *parts,
        before_BH,
        d_after_BH,
        d_after_BH if pending_BH is None else pending_BH,
        d_input_BG,
        d_recurrent_BG,
        d_before_BH,
        *strides,
        d_input_BG.stride(0),
        d_recurrent_BG.stride(0),
        before_BH.shape[1],
        TWO=gates.more_BG is not None,
        PENDING=pending_BH is not None,
        BLOCK=block(before_BH),
    )
