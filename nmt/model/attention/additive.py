"""Scores with a hidden layer: additive (Bahdanau 2015, A.1.2; Yang 2016, eq. 5-6) and concat (Luong 2015, section 3.1).

Without a query they compare the memory with their own learned vector.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config.schema import Size
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, ClosedForm, Score, ScoreOptions, View
from nmt.model.modules import Linear, initialize


class HiddenLayerOptions(ScoreOptions):
    """Options of a score with a hidden layer."""

    hidden_size: Size | None = None
    """Attention units; by default as many as the query has features, or the memory where there is no query."""
    takes_coverage: ClassVar[bool] = True
    needs_query: ClassVar[bool] = False


class HiddenLayerScore(Score):
    """v' tanh(W q + key), without a query v' tanh(key)."""

    kernels: Kernels
    energy: nn.Linear
    """v."""

    @property
    def query_weight(self) -> Tensor | None:
        """W, [A, H]; None without a query."""
        raise AssertionError("a hidden layer has weights")

    def forward(self, query: Tensor, view: View) -> Tensor:
        weight = self.query_weight
        projected = None if weight is None else F.linear(query, weight)
        return view.additive(projected, self.energy.weight.squeeze(0), self.kernels)

    def closed_form(self) -> ClosedForm | None:
        weight = self.query_weight
        return None if weight is None else ClosedForm(weight, self.energy.weight.squeeze(0))


class AdditiveOptions(HiddenLayerOptions):
    kind: Literal["additive"] = "additive"


@SCORES.register("additive", AdditiveOptions)
class AdditiveScore(HiddenLayerScore):
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
        initialize(self.query, self.memory, self.energy)

    @property
    def query_weight(self) -> Tensor | None:
        return None if self.query is None else self.query.weight

    def keys(self, memory: Tensor) -> Tensor:
        keys: Tensor = self.memory(memory)
        return keys


class ConcatOptions(HiddenLayerOptions):
    kind: Literal["concat"] = "concat"


@SCORES.register("concat", ConcatOptions)
class ConcatScore(HiddenLayerScore):
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
        initialize(self.joint, self.energy)

    @property
    def query_weight(self) -> Tensor | None:
        return self.joint.weight[:, : self.query_size] if self.query_size else None

    def keys(self, memory: Tensor) -> Tensor:
        return self.kernels.linear(memory, self.joint.weight[:, self.query_size :], None)
