"""What a step of the search is made of, by compiled kernels (kernels.h); nothing has a gradient.

Shapes: ... leading dimensions, Q queries, S source positions, A attention units, H hidden, V pieces; M rows, I inputs,
O outputs of a product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.kernels.native.calls import address, calls

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
