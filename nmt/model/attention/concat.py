"""Concat attention (Luong 2015, section 3.1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config.schema import Size
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, ClosedForm, Score, ScoreOptions, View


class ConcatOptions(ScoreOptions):
    kind: Literal["concat"] = "concat"
    hidden_size: Size | None = None
    """Attention units; by default as many as the query has features, or the memory where there is no query."""
    takes_coverage: ClassVar[bool] = True
    needs_query: ClassVar[bool] = False


@SCORES.register("concat", ConcatOptions)
class ConcatScore(Score):
    """v' tanh(W [q; m]) (Luong 2015, section 3.1); the half of W that meets m is computed once for a sentence.

    Without a query it is v' tanh(W m).
    """

    def __init__(self, options: ConcatOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.query_size = query_size
        self.kernels = kernels
        self.units = options.hidden_size or query_size or memory_size
        self.joint = nn.Linear(query_size + memory_size, self.units, bias=False)
        self.energy = nn.Linear(self.units, 1, bias=False)
        nn.init.xavier_uniform_(self.joint.weight)
        nn.init.xavier_uniform_(self.energy.weight)

    def keys(self, memory: Tensor) -> Tensor:
        return self.kernels.linear(memory, self.joint.weight[:, self.query_size :], None)

    def forward(self, query: Tensor, view: View) -> Tensor:
        asked = F.linear(query, self.joint.weight[:, : self.query_size]) if self.query_size else None
        return view.additive(asked, self.energy.weight.squeeze(0), self.kernels)

    def closed_form(self) -> ClosedForm | None:
        if not self.query_size:
            return None
        return ClosedForm(self.joint.weight[:, : self.query_size], self.energy.weight.squeeze(0))
