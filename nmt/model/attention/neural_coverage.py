"""Coverage that is learned: a recurrent state of each source position (Tu 2016, section 3).

Shapes: `...` is B, or B and N heads; Q queries, S source positions, K coverage features, A attention units.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nmt.config.schema import Size
from nmt.kernels.gates import gru_step
from nmt.model.attention.base import COVERAGES, Prepared
from nmt.model.attention.coverage import Carried, CoverageOptions, TermCoverage


class NeuralOptions(CoverageOptions):
    """A small recurrent state of each position."""

    kind: Literal["neural"] = "neural"
    """A small recurrent state of each position, updated at every step (Tu 2016)."""
    size: Size = 10
    """Features of the state."""


@COVERAGES.register("neural", NeuralOptions)
class NeuralCoverage(TermCoverage):
    """C_t = GRU(C_{t-1}; a_t, m, q) for each position (Tu 2016, section 3); the product with m is computed once."""

    def __init__(self, options: NeuralOptions, units: int, query_size: int, memory_size: int) -> None:
        super().__init__(options.size, units)
        gates = 3 * options.size
        self.memory = nn.Linear(memory_size, gates)
        self.query = nn.Linear(query_size, gates, bias=False)
        self.weight = nn.Parameter(torch.empty(gates))
        self.recurrent = nn.Linear(options.size, gates)
        nn.init.uniform_(self.weight, -1.0, 1.0)
        for block in self.recurrent.weight.chunk(3):
            nn.init.orthogonal_(block)
        for layer in (self.memory, self.query):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.memory.bias)
        nn.init.zeros_(self.recurrent.bias)

    def prepare(self, memory: Tensor) -> Carried:
        return (self.memory(memory),)

    def update(self, carried: Carried, weights: Tensor, query: Tensor, prepared: Prepared) -> Carried:
        (coverage,), (from_memory,) = carried, prepared.covered
        from_input = from_memory.unsqueeze(-3) + self.query(query).unsqueeze(-2) + weights.unsqueeze(-1) * self.weight
        return (gru_step(from_input, self.recurrent(coverage), coverage),)
