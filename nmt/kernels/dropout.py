"""Dropout (Srivastava 2014) that draws 16 bits for an element on a CPU, where PyTorch draws 32 one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nmt.kernels.native.calls import are_there, calls

LEVELS = 2**16
"""Probabilities are multiples of one part in these."""


def dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
    """Each element zero with this probability, and otherwise larger by as much as keeps its expectation.

    On a CPU the probability is rounded to a multiple of 1 / 65,536, the expectation is exact, and what is kept for the
    backward pass is a byte for each element. The bits come from PyTorch's generator or, where kernels are compiled,
    from one of theirs, whose key is drawn from it.
    """
    if not training or not probability or inputs.device.type != "cpu" or round(probability * LEVELS) in (0, LEVELS):
        return F.dropout(inputs, probability, training)
    outputs: Tensor = _Dropout.apply(inputs, round(probability * LEVELS))  # type: ignore[no-untyped-call]
    return outputs


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, dropped: int) -> Tensor:
        ctx.scale = LEVELS / (LEVELS - dropped)
        if are_there(inputs.dtype):
            inputs, key = inputs.contiguous(), _draw(1)
            outputs, kept = torch.empty_like(inputs), torch.empty_like(inputs, dtype=torch.int8)
            places = (inputs.data_ptr(), outputs.data_ptr(), kept.data_ptr())
            calls(inputs.dtype).dropout(inputs.numel(), key.data_ptr(), dropped, ctx.scale, *places)
        else:
            bits = _draw(-(-inputs.numel() // 4)).view(torch.int16)[: inputs.numel()]
            kept = (bits >= dropped - LEVELS // 2).view(inputs.shape).view(torch.int8)
            outputs = _scaled(inputs, kept, ctx.scale)
        ctx.save_for_backward(kept)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor) -> tuple[Tensor | None, None]:
        (kept,) = ctx.saved_tensors
        if not are_there(d_outputs.dtype):
            return _scaled(d_outputs, kept, ctx.scale), None
        d_outputs = d_outputs.contiguous()
        d_inputs = torch.empty_like(d_outputs)
        places = (d_outputs.data_ptr(), kept.data_ptr(), d_inputs.data_ptr())
        calls(d_outputs.dtype).dropout_backward(d_outputs.numel(), ctx.scale, *places)
        return d_inputs, None


def _draw(count: int) -> Tensor:
    """Numbers of 64 random bits."""
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None)


def _scaled(rows: Tensor, kept: Tensor, scale: float) -> Tensor:
    # Bytes are converted several times as fast as truth values.
    return kept.to(rows.dtype).mul_(scale).mul_(rows)
