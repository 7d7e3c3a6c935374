"""Steps of the cells that know but the sum of what enters them, as one kernel each.

Shapes: B sentences, G gates x H, H hidden, R features.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.fused.layout import block, entered, grid, of, tanh
from nmt.kernels.tape import Entering


@triton.jit
def _lstm_gates(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO: constexpr):
    """Entry, forget, candidate and output (`gates.lstm_step`)."""
    entry = entered(inputs, more, recurrent, b, input_b, more_b, recurrent_b, h, inside, TWO)
    forget = entered(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden + h, inside, TWO)
    candidate = entered(inputs, more, recurrent, b, input_b, more_b, recurrent_b, 2 * hidden + h, inside, TWO)
    output = entered(inputs, more, recurrent, b, input_b, more_b, recurrent_b, 3 * hidden + h, inside, TWO)
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
    here = b * hidden + h
    kept = forget * tl.load(cell + here, mask=inside, other=0.0) + entry * candidate
    tl.store(after_cell + here, kept, mask=inside)
    state = output * tanh(kept)
    tl.store(after + here, state, mask=inside)
    if COPY:
        tl.store(copy + here, state, mask=inside)


@triton.jit
def _lstm_backward(
    inputs,
    more,
    recurrent,
    cell,
    after_cell,
    d_after,
    sent,
    d_after_cell,
    d_one,
    d_other,
    d_cell,
    input_b,
    more_b,
    recurrent_b,
    d_one_b,
    d_other_b,
    hidden,
    TWO: constexpr,
    SENT: constexpr,
    OTHER: constexpr,
    BLOCK: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = h < hidden
    entry, forget, candidate, output = _lstm_gates(
        inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO
    )
    here = b * hidden + h
    seen = tanh(tl.load(after_cell + here, mask=inside, other=0.0))
    gradient = tl.load(d_after + here, mask=inside, other=0.0)
    if SENT:
        gradient += tl.load(sent + here, mask=inside, other=0.0).to(tl.float32)
    d_kept = tl.load(d_after_cell + here, mask=inside, other=0.0) + gradient * output * (1.0 - seen * seen)
    d_entry = d_kept * candidate * entry * (1.0 - entry)
    d_forget = d_kept * tl.load(cell + here, mask=inside, other=0.0) * forget * (1.0 - forget)
    d_candidate = d_kept * entry * (1.0 - candidate * candidate)
    d_output = gradient * seen * output * (1.0 - output)
    d_one += b * d_one_b + h
    tl.store(d_one, d_entry, mask=inside)
    tl.store(d_one + hidden, d_forget, mask=inside)
    tl.store(d_one + 2 * hidden, d_candidate, mask=inside)
    tl.store(d_one + 3 * hidden, d_output, mask=inside)
    if OTHER:
        d_other += b * d_other_b + h
        tl.store(d_other, d_entry, mask=inside)
        tl.store(d_other + hidden, d_forget, mask=inside)
        tl.store(d_other + 2 * hidden, d_candidate, mask=inside)
        tl.store(d_other + 3 * hidden, d_output, mask=inside)
    tl.store(d_cell + here, tl.load(d_cell + here, mask=inside, other=0.0) + d_kept * forget, mask=inside)


@triton.jit
def _mix(
    inputs,
    more,
    recurrent,
    mixed,
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
    value = tanh(entered(inputs, more, recurrent, b, input_b, more_b, recurrent_b, r, inside, TWO))
    tl.store(mixed + b * features + r, value, mask=inside)
    if COPY:
        tl.store(copy + b * features + r, value, mask=inside)


@triton.jit
def _mix_backward(
    mixed,
    d_mixed,
    sent,
    d_one,
    d_other,
    d_one_b,
    d_other_b,
    features,
    SENT: constexpr,
    OTHER: constexpr,
    BLOCK: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = r < features
    gradient = tl.load(d_mixed + b * features + r, mask=inside, other=0.0)
    if SENT:
        gradient += tl.load(sent + b * features + r, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(mixed + b * features + r, mask=inside, other=0.0).to(tl.float32)
    gradient *= 1.0 - value * value
    tl.store(d_one + b * d_one_b + r, gradient, mask=inside)
    if OTHER:
        tl.store(d_other + b * d_other_b + r, gradient, mask=inside)


def lstm(entering: Entering, cell_BH: Tensor, after_cell_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None) -> None:
    """As `CellSteps.lstm`."""
    parts, strides = of(entering)
    _lstm[grid(cell_BH)](
        *parts,
        cell_BH,
        after_cell_BH,
        after_BH,
        after_BH if copy_BH is None else copy_BH,
        *strides,
        cell_BH.shape[1],
        TWO=entering.more_BG is not None,
        COPY=copy_BH is not None,
        BLOCK=block(cell_BH),
    )


def lstm_backward(
    entering: Entering,
    cell_BH: Tensor,
    after_cell_BH: Tensor,
    d_after_BH: Tensor,
    sent_BH: Tensor | None,
    d_after_cell_BH: Tensor,
    d_one_BG: Tensor,
    d_other_BG: Tensor | None,
    d_cell_BH: Tensor,
) -> None:
    """As `CellSteps.lstm_backward`."""
    parts, strides = of(entering)
    other = d_one_BG if d_other_BG is None else d_other_BG
    _lstm_backward[grid(cell_BH)](
        *parts,
        cell_BH,
        after_cell_BH,
        d_after_BH,
        d_after_BH if sent_BH is None else sent_BH,
        d_after_cell_BH,
        d_one_BG,
        other,
        d_cell_BH,
        *strides,
        d_one_BG.stride(0),
        other.stride(0),
        cell_BH.shape[1],
        TWO=entering.more_BG is not None,
        SENT=sent_BH is not None,
        OTHER=d_other_BG is not None,
        BLOCK=block(cell_BH),
    )


def mix(entering: Entering, mixed_BR: Tensor, copy_BR: Tensor | None) -> None:
    """As `CellSteps.mix`."""
    parts, strides = of(entering)
    _mix[grid(mixed_BR)](
        *parts,
        mixed_BR,
        mixed_BR if copy_BR is None else copy_BR,
        *strides,
        mixed_BR.shape[1],
        TWO=entering.more_BG is not None,
        COPY=copy_BR is not None,
        BLOCK=block(mixed_BR),
    )


def mix_backward(
    mixed_BR: Tensor, d_mixed_BR: Tensor, sent_BR: Tensor | None, d_one_BR: Tensor, d_other_BR: Tensor | None
) -> None:
    """As `CellSteps.mix_backward`."""
    other = d_one_BR if d_other_BR is None else d_other_BR
    _mix_backward[grid(mixed_BR)](
        mixed_BR,
        d_mixed_BR,
        d_mixed_BR if sent_BR is None else sent_BR,
        d_one_BR,
        other,
        d_one_BR.stride(0),
        other.stride(0),
        mixed_BR.shape[1],
        SENT=sent_BR is not None,
        OTHER=d_other_BR is not None,
        BLOCK=block(mixed_BR),
    )
