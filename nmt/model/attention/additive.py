"""Additive attention (Bahdanau 2015, A.1.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nmt.config.registry import PartOptions
from nmt.config.schema import Positive
from nmt.model.attention.base import SCORES, Score


class AdditiveOptions(PartOptions):
    """v' tanh(W query + U memory)."""

    kind: Literal["additive"] = "additive"
    """v' tanh(W query + U memory) of Bahdanau 2015."""
    hidden_size: Positive | None = None
    """Attention units; by default as many as the query has features."""


@SCORES.register("additive", AdditiveOptions)
class AdditiveScore(Score):
    """score(q, m) = v' tanh(W q + U m + b) (Bahdanau 2015, A.1.2); U m is computed once for a sentence."""

    def __init__(self, options: AdditiveOptions, query_size: int, memory_size: int) -> None:
        super().__init__()
        units = options.hidden_size or query_size
        self.query = nn.Linear(query_size, units, bias=False)
        self.memory = nn.Linear(memory_size, units)
        self.energy = nn.Linear(units, 1, bias=False)
        for layer in (self.query, self.memory, self.energy):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.memory.bias)

    def keys(self, memory_BSC: Tensor) -> Tensor:
        keys_BSA: Tensor = self.memory(memory_BSC)
        return keys_BSA

    def forward(self, query_BQH: Tensor, memory_BSC: Tensor, keys_BSA: Tensor | None) -> Tensor:
        assert keys_BSA is not None, "prepared without keys"
        hidden_BQSA = torch.tanh(self.query(query_BQH).unsqueeze(2) + keys_BSA.unsqueeze(1))
        scores_BQS: Tensor = self.energy(hidden_BQSA).squeeze(-1)
        return scores_BQS
