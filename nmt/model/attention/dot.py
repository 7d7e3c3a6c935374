"""Dot attention (Luong 2015, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from nmt.config import schema
from nmt.config.registry import PartOptions
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, Form, Score, ScoreOptions, View


class SameSizeOptions(ScoreOptions):
    """Of a score that multiplies queries with the memory as they are."""

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """Several heads map both sides to one size; a single one takes them as they are."""
        query_size, memory_size = model.decoder.hidden_size, model.encoder.output_size
        if model.attention.heads == 1 and query_size != memory_size:
            yield (
                "model.attention.score",
                f"{self.kind} multiplies decoder states of {query_size} with annotations of {memory_size}; set "
                f"model.decoder.hidden_size to {memory_size}, or choose general",
            )


class DotOptions(SameSizeOptions):
    """query' memory; both must be of one size."""

    kind: Literal["dot"] = "dot"
    """query' memory of Luong 2015; both must be of one size."""


@SCORES.register("dot", DotOptions)
class DotScore(Score):
    """q' m (Luong 2015, section 3.1); decoder states and annotations must be of one size."""

    def __init__(self, options: PartOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        assert query_size == memory_size, "a product of vectors of one size"

    def forward(self, query: Tensor, view: View) -> Tensor:
        return view.dot(query)

    def form(self) -> Form | None:
        return Form()
