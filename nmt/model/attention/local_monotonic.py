"""Local attention that moves on by one position a step (Luong 2015, section 3.2, local-m)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nmt.model.attention.base import WINDOWS, Prepared
from nmt.model.attention.local import LocalOptions, LocalWindow, Place


class LocalMonotonicOptions(LocalOptions):
    """Around the position of the target."""

    kind: Literal["local_monotonic"] = "local_monotonic"
    """Around the position of the target: p_t = t, as if both languages had one order (Luong 2015)."""


@WINDOWS.register("local_monotonic", LocalMonotonicOptions)
class LocalMonotonicWindow(LocalWindow):
    """p_t = t, and the weights are normalised within the window (Luong 2015, section 3.2)."""

    def __init__(self, options: LocalMonotonicOptions, query_size: int) -> None:
        super().__init__()
        self.half_width = options.half_width

    def place(self, query: Tensor, prepared: Prepared, position: int | None) -> Place:
        last = prepared.memory.shape[-2] - self.width(prepared)
        like = prepared.bias
        if position is not None:
            first = min(max(position - self.half_width, 0), last)
            return Place(first, torch.full((1,), position, dtype=like.dtype, device=like.device))
        targets_Q = torch.arange(query.shape[-2], device=like.device)
        return Place((targets_Q - self.half_width).clamp(0, last), targets_Q.to(like.dtype))
