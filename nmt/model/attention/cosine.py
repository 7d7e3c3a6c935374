"""Content-based addressing by cosine similarity (Graves 2014, section 3.3.1)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, Score, ScoreOptions, View


class CosineOptions(ScoreOptions):
    kind: Literal["cosine"] = "cosine"


@SCORES.register("cosine", CosineOptions)
class CosineScore(Score):
    """beta cos(k, m) (Graves 2014, eq. 5-6), k = W q and beta = log(1 + exp(w' q + b)) > 0 emitted at every step.

    A cosine is 1 at most: beta begins at 10, so that a softmax over a sentence can tell positions apart at all.
    """

    def __init__(self, options: CosineOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.key = nn.Linear(query_size, memory_size, bias=False)
        self.strength = nn.Linear(query_size, 1)
        nn.init.xavier_uniform_(self.key.weight)
        nn.init.xavier_uniform_(self.strength.weight)
        nn.init.constant_(self.strength.bias, 10.0)

    def keys(self, memory: Tensor) -> Tensor:
        return F.normalize(memory, dim=-1)

    def forward(self, query: Tensor, view: View) -> Tensor:
        strength = F.softplus(self.strength(query))
        return view.dot(F.normalize(self.key(query), dim=-1) * strength)
