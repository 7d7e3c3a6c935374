"""Scaled dot-product attention (Vaswani 2017, section 3.2.1)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from nmt.model.attention.base import SCORES, View
from nmt.model.attention.dot import DotScore, SameSizeOptions


class ScaledDotOptions(SameSizeOptions):
    """query' memory / sqrt(size); both must be of one size."""

    kind: Literal["scaled_dot"] = "scaled_dot"
    """query' memory / sqrt(size) of Vaswani 2017; both must be of one size."""


@SCORES.register("scaled_dot", ScaledDotOptions)
class ScaledDotScore(DotScore):
    """q' m / sqrt(size) (Vaswani 2017, eq. 1); with several heads, the multi-head attention of its section 3.2.2."""

    def forward(self, query: Tensor, view: View) -> Tensor:
        return view.dot(query * query.shape[-1] ** -0.5)

    def form(self) -> None:
        return None
