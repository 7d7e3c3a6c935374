"""Equal weights: the baseline of attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from torch import Tensor

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, Score, ScoreOptions, View


class MeanOptions(ScoreOptions):
    kind: Literal["mean"] = "mean"
    needs_query: ClassVar[bool] = False

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """Heads would be equal: there is no query."""
        if model.attention.heads > 1:
            yield "model.attention.heads", f"is {model.attention.heads}, but score mean asks nothing; leave it out"


@SCORES.register("mean", MeanOptions)
class MeanScore(Score):
    """0 at every position: a = 1 / length, and the context is the mean of the memory."""

    reads_memory: ClassVar[bool] = False

    def __init__(self, options: MeanOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()

    def keys(self, memory: Tensor) -> None:
        return None

    def forward(self, query: Tensor, view: View) -> Tensor:
        return query.new_zeros(*query.shape[:-1], view.width)
