"""General attention (Luong 2015, section 3.1)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, Form, Score, ScoreOptions, View
from nmt.model.modules import Linear


class GeneralOptions(ScoreOptions):
    """query' W memory."""

    kind: Literal["general"] = "general"
    """query' W memory of Luong 2015."""


@SCORES.register("general", GeneralOptions)
class GeneralScore(Score):
    """q' W m (Luong 2015, section 3.1); W m is computed once for a sentence."""

    def __init__(self, options: GeneralOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.memory = Linear(memory_size, query_size, kernels, bias=False)
        nn.init.xavier_uniform_(self.memory.weight)

    def keys(self, memory: Tensor) -> Tensor:
        keys: Tensor = self.memory(memory)
        return keys

    def forward(self, query: Tensor, view: View) -> Tensor:
        return view.dot(query)

    def form(self) -> Form:
        return Form()
