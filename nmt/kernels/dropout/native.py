"""Dropout (Srivastava 2014) that draws 16 bits for an element on a CPU, where PyTorch draws 32 one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nmt.kernels.compiler import FORMATS, declare

_calls = declare({"dropout": "spseppp", "dropout_backward": "seppp", "draw": "usp"})

LEVELS = 2**16
"""Probabilities are multiples of 1 / LEVELS."""


def native_dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout` by a compiled kernel.

    Rounds the probability to a multiple of 1 / 65,536 and keeps the expectation. Saves one byte an element for the
    backward pass. The bits come from a Philox generator, whose key is drawn from PyTorch's. Falls back to PyTorch's
    dropout where the probability is rounded to 0 or 1, and for dtypes that the kernels do not support.
    """
    dropped = round(probability * LEVELS)
    if not training or dropped in (0, LEVELS) or inputs.dtype not in FORMATS:
        return F.dropout(inputs, probability, training)
    outputs: Tensor = _Dropout.apply(inputs, dropped)  # type: ignore[no-untyped-call]
    return outputs


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, dropped: int) -> Tensor:
        ctx.scale = LEVELS / (LEVELS - dropped)
        inputs, key = inputs.contiguous(), torch.empty(1, dtype=torch.int64).random_(-(2**63), None)
        outputs, kept = torch.empty_like(inputs), torch.empty_like(inputs, dtype=torch.int8)
        addresses = (inputs.data_ptr(), outputs.data_ptr(), kept.data_ptr())
        _calls(inputs.dtype).dropout(inputs.numel(), key.data_ptr(), dropped, ctx.scale, *addresses)
        ctx.save_for_backward(kept)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor) -> tuple[Tensor | None, None]:
        (kept,) = ctx.saved_tensors
        d_outputs = d_outputs.contiguous()
        d_inputs = torch.empty_like(d_outputs)
        addresses = (d_outputs.data_ptr(), kept.data_ptr(), d_inputs.data_ptr())
        _calls(d_outputs.dtype).dropout_backward(d_outputs.numel(), ctx.scale, *addresses)
        return d_inputs, None
