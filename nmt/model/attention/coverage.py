"""Coverage: the attention of the steps so far, as a term of the score (Tu 2016).

Shapes: `...` is B, or B and N heads; Q queries, S source positions, K coverage features, A attention units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nmt.config import schema
from nmt.config.schema import NetworkPartOptions, Size
from nmt.kernels.gru.reference import gru_step
from nmt.model.attention.base import COVERAGES, Carried, Coverage, Prepared
from nmt.model.modules import initialize


class NoCoverageOptions(NetworkPartOptions):
    kind: Literal["none"] = "none"


class CoverageOptions(NetworkPartOptions):
    """Options of a coverage."""

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """Coverage is a term inside the tanh of the score."""
        score = model.attention.score
        if not getattr(score, "takes_coverage", False):
            yield (
                "model.attention.coverage",
                f"is a term inside the tanh of a score, and {score.kind} has none; choose additive or concat as "
                "model.attention.score, or leave coverage out",
            )


@COVERAGES.register("none", NoCoverageOptions)
class NoCoverage(Coverage):
    """No coverage."""

    def __init__(self, options: NoCoverageOptions, units: int, query_size: int, memory_size: int) -> None:
        super().__init__()


class TermCoverage(Coverage):
    """Coverage [..., Q, S, K] enters the score as V C inside its tanh (Tu 2016, section 3)."""

    accumulates = True

    def __init__(self, size: int, units: int) -> None:
        super().__init__()
        self.size = size
        self.term = nn.Linear(size, units, bias=False)
        initialize(self.term)

    def start(self, prepared: Prepared) -> Carried:
        return (prepared.bias.new_zeros(*prepared.memory.shape[:-2], 1, prepared.memory.shape[-2], self.size),)

    def at(self, carried: Carried, positions: Tensor | None) -> Tensor:
        (coverage,) = carried
        if positions is not None:
            coverage = coverage.gather(-2, positions.unsqueeze(-1).expand(*positions.shape, self.size))
        term: Tensor = self.term(coverage)
        return term


class LinguisticOptions(CoverageOptions):
    kind: Literal["linguistic"] = "linguistic"
    max_fertility: Annotated[float, Field(ge=0.0, le=1_000.0)] = 2.0
    """N: the fertility of a position is learned between 0 and N; 0: it is 1 for every position."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Weights are divided by the fertility, which must not vanish."""
        if 0.0 < self.max_fertility < 0.01:
            yield (
                "max_fertility",
                f"is {self.max_fertility:g}, too little to divide by; set it to at least 0.01, or to 0",
            )


@COVERAGES.register("linguistic", LinguisticOptions)
class LinguisticCoverage(TermCoverage):
    """C_t = C_{t-1} + a_t / F, with the fertility F = N sigmoid(U m) of each position (Tu 2016, section 3)."""

    def __init__(self, options: LinguisticOptions, units: int, query_size: int, memory_size: int) -> None:
        super().__init__(1, units)
        self.most = options.max_fertility
        self.fertility = nn.Linear(memory_size, 1, bias=False) if self.most else None

    def prepare(self, memory: Tensor) -> Carried:
        return () if self.fertility is None else (self.most * torch.sigmoid(self.fertility(memory)),)

    def update(self, carried: Carried, weights: Tensor, query: Tensor, prepared: Prepared) -> Carried:
        (coverage,) = carried
        share = weights.unsqueeze(-1)
        for fertility in prepared.covered:
            share = share / fertility.unsqueeze(-3)
        return (coverage + share,)


class NeuralOptions(CoverageOptions):
    kind: Literal["neural"] = "neural"
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
        initialize(self.memory, self.query)
        nn.init.zeros_(self.recurrent.bias)

    def prepare(self, memory: Tensor) -> Carried:
        return (self.memory(memory),)

    def update(self, carried: Carried, weights: Tensor, query: Tensor, prepared: Prepared) -> Carried:
        (coverage,), (from_memory,) = carried, prepared.covered
        from_input = from_memory.unsqueeze(-3) + self.query(query).unsqueeze(-2) + weights.unsqueeze(-1) * self.weight
        return gru_step(from_input, self.recurrent(coverage), (coverage,))
