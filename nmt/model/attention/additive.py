"""Additive attention (Bahdanau 2015, A.1.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from nmt.config.schema import Positive
from nmt.model.attention.base import SCORES, Form, Score, ScoreOptions, View


class AdditiveOptions(ScoreOptions):
    """v' tanh(W query + U memory)."""

    kind: Literal["additive"] = "additive"
    """v' tanh(W query + U memory) of Bahdanau 2015."""
    hidden_size: Positive | None = None
    """Attention units; by default as many as the query has features."""
    takes_coverage: ClassVar[bool] = True


@SCORES.register("additive", AdditiveOptions)
class AdditiveScore(Score):
    """v' tanh(W q + U m + b) (Bahdanau 2015, A.1.2); U m is computed once for a sentence."""

    def __init__(self, options: AdditiveOptions, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.units = options.hidden_size or query_size
        self.query = nn.Linear(query_size, self.units, bias=False)
        self.memory = nn.Linear(memory_size, self.units)
        self.energy = nn.Linear(self.units, 1, bias=False)
        for layer in (self.query, self.memory, self.energy):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.memory.bias)

    def keys(self, memory: Tensor) -> Tensor:
        keys: Tensor = self.memory(memory)
        return keys

    def forward(self, query: Tensor, view: View) -> Tensor:
        return view.additive(self.query(query), self.energy.weight.squeeze(0))

    def form(self) -> Form:
        return Form(self.query.weight, self.energy.weight.squeeze(0))
