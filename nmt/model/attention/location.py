"""Location-based attention (Luong 2015, section 3.1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config.schema import Positions
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, Score, ScoreOptions, View


class LocationOptions(ScoreOptions):
    kind: Literal["location"] = "location"
    positions: Positions = 100
    """Source positions that have a score; positions beyond them have weight 0."""


@SCORES.register("location", LocationOptions)
class LocationScore(Score):
    """W q, one row of W a position (Luong 2015, section 3.1); a short sentence uses the first rows.

    The words of a long sentence that have no row are given weight 0.
    """

    reads_memory: ClassVar[bool] = False

    def __init__(self, options: LocationOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.positions = options.positions
        self.query = nn.Linear(query_size, options.positions, bias=False)
        nn.init.xavier_uniform_(self.query.weight)

    def keys(self, memory: Tensor) -> None:
        return None

    def forward(self, query: Tensor, view: View) -> Tensor:
        scores: Tensor = self.query(query)
        beyond = view.width - self.positions
        if view.positions is None:
            return F.pad(scores, (0, max(beyond, 0)), value=-torch.inf)[..., : view.width]
        positions = view.positions.expand(*query.shape[:-1], view.width)
        found = scores.gather(-1, positions.clamp(max=self.positions - 1))
        return found.masked_fill(positions >= self.positions, -torch.inf)
