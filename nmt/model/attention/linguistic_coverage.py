"""Coverage that counts: the weights so far, over what each position is expected to get (Tu 2016, section 3).

Shapes: `...` is B, or B and N heads; Q queries, S source positions, K coverage features, A attention units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nmt.model.attention.base import COVERAGES, Prepared
from nmt.model.attention.coverage import Carried, CoverageOptions, TermCoverage


class LinguisticOptions(CoverageOptions):
    """The sum of the weights so far over each position's fertility."""

    kind: Literal["linguistic"] = "linguistic"
    """The sum of the weights so far, divided by how much each position is expected to get (Tu 2016)."""
    max_fertility: Annotated[float, Field(ge=0.0, le=1_000.0)] = 2.0
    """N: the most that a position is expected to get, learned between 0 and N; 0: every position gets 1."""

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
