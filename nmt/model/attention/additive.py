"""Additive attention (Bahdanau 2015, A.1.2; without a query Yang 2016, eq. 5-6)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from nmt.config.schema import Size
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, ClosedForm, Score, ScoreOptions, View
from nmt.model.modules import Linear


class AdditiveOptions(ScoreOptions):
    kind: Literal["additive"] = "additive"
    hidden_size: Size | None = None
    """Attention units; by default as many as the query has features, or the memory where there is no query."""
    takes_coverage: ClassVar[bool] = True
    needs_query: ClassVar[bool] = False


@SCORES.register("additive", AdditiveOptions)
class AdditiveScore(Score):
    """v' tanh(W q + U m + b) (Bahdanau 2015, A.1.2); U m is computed once for a sentence.

    Without a query it is u' v of u = tanh(U m + b) (Yang 2016, eq. 5-6 and 8-9), v being the context vector u_w or u_s
    of the paper. A learned query would add the constant W q to b, and nothing else.
    """

    def __init__(self, options: AdditiveOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.units = options.hidden_size or query_size or memory_size
        self.query = nn.Linear(query_size, self.units, bias=False) if query_size else None
        self.memory = Linear(memory_size, self.units, kernels)
        self.kernels = kernels
        self.energy = nn.Linear(self.units, 1, bias=False)
        for layer in (self.query, self.memory, self.energy):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.memory.bias)

    def keys(self, memory: Tensor) -> Tensor:
        keys: Tensor = self.memory(memory)
        return keys

    def forward(self, query: Tensor, view: View) -> Tensor:
        asked = None if self.query is None else self.query(query)
        return view.additive(asked, self.energy.weight.squeeze(0), self.kernels)

    def closed_form(self) -> ClosedForm | None:
        return None if self.query is None else ClosedForm(self.query.weight, self.energy.weight.squeeze(0))
