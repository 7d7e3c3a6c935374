"""Dropout (Srivastava 2014) that draws 16 bits for an element on a CPU, where PyTorch draws 32 one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEVELS = 2**16
"""Probabilities are multiples of one part in these."""


def dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
    """Each element zero with this probability, and otherwise larger by as much as keeps its expectation.

    On a CPU the probability is rounded to a multiple of 1 / 65,536, the expectation is exact, and what is kept for the
    backward pass is a byte for each element. Draws from PyTorch's generator.
    """
    if not training or not probability or inputs.device.type != "cpu" or round(probability * LEVELS) in (0, LEVELS):
        return F.dropout(inputs, probability, training)
    outputs: Tensor = _Dropout.apply(inputs, round(probability * LEVELS))  # type: ignore[no-untyped-call]
    return outputs


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, dropped: int) -> Tensor:
        bits = torch.empty(-(-inputs.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = (bits[: inputs.numel()] >= dropped - LEVELS // 2).view(inputs.shape)
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return _scaled(inputs, kept, ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor) -> tuple[Tensor | None, None]:
        (kept,) = ctx.saved_tensors
        return _scaled(d_outputs, kept, ctx.scale), None


def _scaled(rows: Tensor, kept: Tensor, scale: float) -> Tensor:
    # Bytes are converted several times as fast as truth values.
    return kept.view(torch.int8).to(rows.dtype).mul_(scale).mul_(rows)
