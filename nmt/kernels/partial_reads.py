"""Reads parts of a sequence whose gradients are added in one tensor.

Autograd alone computes for every part a gradient as large as the sequence: T steps over S positions then cost T x S in
the backward pass, however small the parts are.

Shapes: `...` are any leading dimensions, Q queries, S positions, W positions of a window, F features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Source:
    """A sequence [..., S, F] that is read in parts."""

    def __init__(self, features: Tensor) -> None:
        self._parts = _Parts(features) if features.requires_grad and torch.is_grad_enabled() else None
        whole = features if self._parts is None else _Collect.apply(features, self._parts)  # type: ignore[no-untyped-call]
        self._features: Tensor = whole

    def read(self, first: int, width: int) -> Tensor:
        """Returns the positions from `first` on, [..., W, F], the same for every query."""
        if self._parts is None:
            return self._features.narrow(-2, first, width)
        part: Tensor = _ReadSlice.apply(self._features, first, width, self._parts)  # type: ignore[no-untyped-call]
        return part

    def take(self, positions: Tensor) -> Tensor:
        """Returns the features at these positions [..., Q, W]: [..., Q, W, F]."""
        shape = self._features.shape
        starts = torch.arange(math.prod(shape[:-2]), device=positions.device).view(*shape[:-2], 1, 1) * shape[-2]
        rows = (positions + starts).flatten()
        if self._parts is None:
            taken = self._features.reshape(-1, shape[-1]).index_select(0, rows)
        else:
            taken = _ReadRows.apply(self._features, rows, self._parts)  # type: ignore[no-untyped-call]
        return taken.view(*positions.shape, shape[-1])


class _Parts:
    """Gradients of the parts, summed in at least single precision."""

    def __init__(self, features: Tensor) -> None:
        self._shape, self._dtype = features.shape, torch.promote_types(features.dtype, torch.float32)
        self._sum: Tensor | None = None

    def sum(self, like: Tensor) -> Tensor:
        if self._sum is None:
            self._sum = torch.zeros(self._shape, dtype=self._dtype, device=like.device)
        return self._sum

    def collect(self) -> Tensor | None:
        """Returns the sum and resets it."""
        total, self._sum = self._sum, None
        return total


class _Collect(torch.autograd.Function):
    """Identity; its gradient is the sum of the parts' gradients."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, parts: _Parts) -> Tensor:
        ctx.parts, ctx.dtype = parts, features.dtype
        ctx.set_materialize_grads(False)
        return features.view_as(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        assert gradient is None, "every part is read through the source"
        total = ctx.parts.collect()
        return None if total is None else total.to(ctx.dtype), None


class _ReadSlice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, first: int, width: int, parts: _Parts) -> Tensor:
        ctx.first, ctx.width, ctx.parts = first, width, parts
        return features.narrow(-2, first, width).clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        ctx.parts.sum(gradient).narrow(-2, ctx.first, ctx.width).add_(gradient)
        return None, None, None, None


class _ReadRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, parts: _Parts) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.parts = parts
        return features.reshape(-1, features.shape[-1]).index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        (rows,) = ctx.saved_tensors
        total = ctx.parts.sum(gradient)
        total.view(-1, total.shape[-1]).index_add_(0, rows, gradient.to(total.dtype))
        return None, None, None
