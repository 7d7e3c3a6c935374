"""The element-wise operations of `Steps` as one kernel each.

Shapes: B sentences, G = 3 x H gates, H hidden, R features.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.fused.layout import tanh

WIDEST = 1024
"""Features of a sentence that a program computes."""


@triton.jit
def _gates(inputs, more, recurrent, b, input_b, more_b, recurrent_b, hidden, h, inside, TWO: constexpr):
    """Reset, update and candidate, and the recurrent part of the candidate (`gates.gru_step`)."""
    inputs += b * input_b + h
    from_r = tl.load(inputs, mask=inside, other=0.0).to(tl.float32)
    from_z = tl.load(inputs + hidden, mask=inside, other=0.0).to(tl.float32)
    from_n = tl.load(inputs + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
    if TWO:
        more += b * more_b + h
        from_r += tl.load(more, mask=inside, other=0.0).to(tl.float32)
        from_z += tl.load(more + hidden, mask=inside, other=0.0).to(tl.float32)
        from_n += tl.load(more + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
    recurrent += b * recurrent_b + h
    reset = tl.sigmoid(from_r + tl.load(recurrent, mask=inside, other=0.0).to(tl.float32))
    update = tl.sigmoid(from_z + tl.load(recurrent + hidden, mask=inside, other=0.0).to(tl.float32))
    recurrent_n = tl.load(recurrent + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
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
    sent,
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
    SENT: constexpr,
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
    if SENT:
        gradient += tl.load(sent + b * hidden + h, mask=inside, other=0.0).to(tl.float32)
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


@triton.jit
def _mix(one, other, mixed, one_b, other_b, features, BLOCK: constexpr):
    b = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = r < features
    total = tl.load(one + b * one_b + r, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(other + b * other_b + r, mask=inside, other=0.0).to(tl.float32)
    tl.store(mixed + b * features + r, tanh(total), mask=inside)


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
    tl.store(d_other + b * d_other_b + r, gradient, mask=inside)


def gru(
    input_BG: Tensor,
    more_BG: Tensor | None,
    recurrent_BG: Tensor,
    before_BH: Tensor,
    after_BH: Tensor,
    copy_BH: Tensor | None,
) -> None:
    """As `Steps.gru`."""
    more = input_BG if more_BG is None else more_BG
    copy = after_BH if copy_BH is None else copy_BH
    _gru[_grid(before_BH)](
        input_BG,
        more,
        recurrent_BG,
        before_BH,
        after_BH,
        copy,
        input_BG.stride(0),
        more.stride(0),
        recurrent_BG.stride(0),
        before_BH.shape[1],
        TWO=more_BG is not None,
        COPY=copy_BH is not None,
        BLOCK=_block(before_BH),
    )


def gru_backward(
    input_BG: Tensor,
    more_BG: Tensor | None,
    recurrent_BG: Tensor,
    before_BH: Tensor,
    d_after_BH: Tensor,
    sent_BH: Tensor | None,
    d_input_BG: Tensor,
    d_recurrent_BG: Tensor,
    d_before_BH: Tensor,
) -> None:
    """As `Steps.gru_backward`."""
    more = input_BG if more_BG is None else more_BG
    sent = d_after_BH if sent_BH is None else sent_BH
    _gru_backward[_grid(before_BH)](
        input_BG,
        more,
        recurrent_BG,
        before_BH,
        d_after_BH,
        sent,
        d_input_BG,
        d_recurrent_BG,
        d_before_BH,
        input_BG.stride(0),
        more.stride(0),
        recurrent_BG.stride(0),
        d_input_BG.stride(0),
        d_recurrent_BG.stride(0),
        before_BH.shape[1],
        TWO=more_BG is not None,
        SENT=sent_BH is not None,
        BLOCK=_block(before_BH),
    )


def mix(one_BR: Tensor, other_BR: Tensor, mixed_BR: Tensor) -> None:
    """As `Steps.mix`."""
    strides = one_BR.stride(0), other_BR.stride(0)
    _mix[_grid(mixed_BR)](one_BR, other_BR, mixed_BR, *strides, mixed_BR.shape[1], BLOCK=_block(mixed_BR))


def mix_backward(
    mixed_BR: Tensor, d_mixed_BR: Tensor, sent_BR: Tensor | None, d_one_BR: Tensor, d_other_BR: Tensor
) -> None:
    """As `Steps.mix_backward`."""
    sent = d_mixed_BR if sent_BR is None else sent_BR
    _mix_backward[_grid(mixed_BR)](
        mixed_BR,
        d_mixed_BR,
        sent,
        d_one_BR,
        d_other_BR,
        d_one_BR.stride(0),
        d_other_BR.stride(0),
        mixed_BR.shape[1],
        SENT=sent_BR is not None,
        BLOCK=_block(mixed_BR),
    )


def _block(like_BF: Tensor) -> int:
    return min(WIDEST, int(triton.next_power_of_2(like_BF.shape[1])))


def _grid(like_BF: Tensor) -> tuple[int, int]:
    batch, features = like_BF.shape
    return batch, triton.cdiv(features, _block(like_BF))
