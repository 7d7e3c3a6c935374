"""What a step of the search is made of, by compiled kernels (kernels.h); nothing has a gradient.

Shapes: ... leading dimensions, Q queries, S source positions, A attention units, H hidden, V pieces; M rows, I inputs,
O outputs of a product.
"""

from __future__ import annotations

import ctypes
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.kernels.native.calls import Entering, address, calls, can_be_called

PANEL = 16
"""Outputs that lie side by side in a weight of integers (integers.h)."""


def additive_scores(query: Tensor, keys: Tensor, energy_A: Tensor) -> Tensor:
    """v' tanh(q + k) of exponentials [..., Q, A] and [..., S, A]: [..., Q, S]."""
    query, keys, energy_A = query.contiguous(), keys.contiguous(), energy_A.contiguous()
    *leading, queries, units = query.shape
    positions = keys.shape[-2]
    scores = query.new_empty(*leading, queries, positions)
    calls(query.dtype).scores(
        *(math.prod(leading), queries, positions, units),
        *(query.data_ptr(), keys.data_ptr(), energy_A.data_ptr(), scores.data_ptr()),
    )
    return scores


def can_step(from_input: Tensor, from_state: Tensor, state: Tensor) -> bool:
    """Whether `gru_step` and `lstm_step` take these."""
    return (
        can_be_called(from_input, from_state, state)
        and from_input.dtype == from_state.dtype
        and from_input.shape == from_state.shape
        and from_input.shape[:-1] == state.shape[:-1]
        and state.dtype == torch.promote_types(from_input.dtype, torch.float32)
    )


def gru_step(from_input: Tensor, from_state: Tensor, state: Tensor) -> Tensor:
    """As `gates.gru_step`; both halves [..., 3 x H] in one format."""
    state, after = state.contiguous(), torch.empty_like(state, memory_format=torch.contiguous_format)
    entering = _entering(from_input, from_state, state)
    calls(from_input.dtype).gru(ctypes.byref(entering.of), state.data_ptr(), after.data_ptr(), None)
    return after


def lstm_step(from_input: Tensor, from_state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """As `gates.lstm_step`; both halves [..., 4 x H] in one format."""
    cell = cell.contiguous()
    after, after_cell = torch.empty_like(cell), torch.empty_like(cell)
    entering = _entering(from_input, from_state, cell)
    addresses = (cell.data_ptr(), after_cell.data_ptr(), after.data_ptr())
    calls(from_input.dtype).lstm(ctypes.byref(entering.of), *addresses, None)
    return after, after_cell


class _Kept(NamedTuple):
    of: Entering
    rows: tuple[Tensor, Tensor]
    """What it has the addresses of."""


def _entering(from_input: Tensor, from_state: Tensor, state: Tensor) -> _Kept:
    rows = from_input.contiguous(), from_state.contiguous()
    hidden, width = state.shape[-1], from_input.shape[-1]
    addresses = (rows[0].data_ptr(), None, rows[1].data_ptr())
    return _Kept(Entering(state.numel() // hidden, hidden, *addresses, width, 0, width), rows)


def log_softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, in at least single precision."""
    logits = logits.contiguous()
    out = torch.empty_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
    pieces = logits.shape[-1]
    calls(logits.dtype).log_softmax(logits.numel() // max(pieces, 1), pieces, logits.data_ptr(), out.data_ptr())
    return out


def quantized(rows_MI: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit integers of float32 rows, and what each row of them is to be multiplied by, [M]."""
    rows_MI = rows_MI.contiguous()
    integers_MI, scale_M = torch.empty_like(rows_MI, dtype=torch.int8), rows_MI.new_empty(len(rows_MI))
    calls(torch.float32).quantize(*rows_MI.shape, rows_MI.data_ptr(), integers_MI.data_ptr(), scale_M.data_ptr())
    return integers_MI, scale_M


def dequantized(sums_MO: Tensor, scale_M: Tensor, scale_O: Tensor, bias_O: Tensor | None) -> Tensor:
    """What sums of products of integers stand for, with a bias in float32."""
    sums_MO, bias_O = sums_MO.contiguous(), None if bias_O is None else bias_O.contiguous()
    outputs_MO = torch.empty_like(sums_MO, dtype=torch.float32)
    calls(torch.float32).dequantize(
        *(*sums_MO.shape, sums_MO.data_ptr(), scale_M.data_ptr(), scale_O.data_ptr()),
        *(address(bias_O), outputs_MO.data_ptr()),
    )
    return outputs_MO


def panels(integers_OI: Tensor) -> Tensor:
    """A weight of 8-bit integers as `integer_product` reads it (integers.h), with zeros where a panel is not full."""
    outputs, inputs = integers_OI.shape
    whole = F.pad(integers_OI, (0, inputs % 2, 0, -outputs % PANEL))
    return whole.view(-1, PANEL, (inputs + 1) // 2, 2).transpose(1, 2).contiguous()


def integer_product(rows_MI: Tensor, panels: Tensor, scale_O: Tensor, bias_O: Tensor | None) -> Tensor:
    """W x + b of float32 rows by integers, which each row becomes by a scale of its own."""
    rows_MI, bias_O = rows_MI.contiguous(), None if bias_O is None else bias_O.contiguous()
    outputs_MO = rows_MI.new_empty(len(rows_MI), len(scale_O))
    calls(torch.float32).integer_product(
        *(*rows_MI.shape, len(scale_O), rows_MI.data_ptr(), panels.data_ptr(), scale_O.data_ptr()),
        *(address(bias_O), outputs_MO.data_ptr()),
    )
    return outputs_MO
