"""Scores that do not read the memory: location (Luong 2015, section 3.1), and equal weights as the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.config.schema import Positions
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, Score, ScoreOptions, View
from nmt.model.modules import initialize


class LocationOptions(ScoreOptions):
    kind: Literal["location"] = "location"
    positions: Positions = 100
    """Source positions that have a score; positions beyond them have weight 0."""


@SCORES.register("location", LocationOptions)
class LocationScore(Score):
    """W q, one row of W a position (Luong 2015, section 3.1); a short sentence uses the first rows.

    The words of a long sentence that have no row are given weight 0.
    """

    reads_memory = False

    def __init__(self, options: LocationOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.positions = options.positions
        self.query = nn.Linear(query_size, options.positions, bias=False)
        initialize(self.query)

    def forward(self, query: Tensor, view: View) -> Tensor:
        scores: Tensor = self.query(query)
        beyond = view.width - self.positions
        if view.positions is None:
            return F.pad(scores, (0, max(beyond, 0)), value=-torch.inf)[..., : view.width]
        positions = view.positions.expand(*query.shape[:-1], view.width)
        scores = scores.gather(-1, positions.clamp(max=self.positions - 1))
        return scores.masked_fill(positions >= self.positions, -torch.inf)


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

    reads_memory = False

    def __init__(self, options: MeanOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()

    def forward(self, query: Tensor, view: View) -> Tensor:
        return query.new_zeros(*query.shape[:-1], view.width)
