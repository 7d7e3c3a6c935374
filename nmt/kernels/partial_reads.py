"""Reads parts of a sequence whose gradients are added in one tensor.

Autograd alone computes for every part a gradient as large as the sequence: T steps over S positions then cost T x S in
the backward pass, however small the parts are.

Shapes: `...` are any leading dimensions, Q queries, S positions, W positions of a window, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
        return self._read(
            lambda features: features.narrow(-2, first, width),
            lambda total, gradient: total.narrow(-2, first, width).add_(gradient),
        )

    def take(self, positions: Tensor) -> Tensor:
        """Returns the features at these positions [..., Q, W]: [..., Q, W, F]."""
        shape = self._features.shape
        starts = torch.arange(math.prod(shape[:-2]), device=positions.device).view(*shape[:-2], 1, 1) * shape[-2]
        rows = (positions + starts).flatten()
        taken = self._read(
            lambda features: features.reshape(-1, shape[-1]).index_select(0, rows),
            lambda total, gradient: total.view(-1, shape[-1]).index_add_(0, rows, gradient.to(total.dtype)),
        )
        return taken.view(*positions.shape, shape[-1])

    def _read(self, read: Callable[[Tensor], Tensor], add: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Reads a part of the features, whose gradient is added to a sum of the features' shape."""
        if self._parts is None:
            return read(self._features)
        part: Tensor = _Read.apply(self._features, self._parts, read, add)  # type: ignore[no-untyped-call]
        return part


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
        ctx.parts = parts
        ctx.set_materialize_grads(False)
        return features.view_as(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        assert gradient is None, "every part is read through the source"
        # Autograd casts it to the dtype of the features.
        return ctx.parts.collect(), None


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, parts: _Parts, read: Any, add: Any) -> Tensor:
        ctx.parts, ctx.add = parts, add
        part: Tensor = read(features).contiguous()
        return part

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        ctx.add(ctx.parts.sum(gradient), gradient)
        return None, None, None, None
