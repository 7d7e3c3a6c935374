"""Coverage: what has been looked at, told to the score (Tu 2016).

Shapes: `...` is B, or B and N heads; Q queries, S source positions, K coverage features, A attention units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from nmt.config import schema
from nmt.config.schema import NetworkPartOptions
from nmt.model.attention.base import COVERAGES, Coverage, Prepared

Carried = tuple[Tensor, ...]


class NoCoverageOptions(NetworkPartOptions):
    """Nothing is remembered."""

    kind: Literal["none"] = "none"
    """Nothing is remembered."""


class CoverageOptions(NetworkPartOptions):
    """Options of what is remembered."""

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
    """Nothing is remembered."""

    def __init__(self, options: NoCoverageOptions, units: int, query_size: int, memory_size: int) -> None:
        super().__init__()


class TermCoverage(Coverage):
    """Coverage [..., Q, S, K] enters the score as V C inside its tanh (Tu 2016, section 3)."""

    remembers = True

    def __init__(self, size: int, units: int) -> None:
        super().__init__()
        self.size = size
        self.term = nn.Linear(size, units, bias=False)
        nn.init.xavier_uniform_(self.term.weight)

    def start(self, prepared: Prepared) -> Carried:
        return (prepared.bias.new_zeros(*prepared.memory.shape[:-2], 1, prepared.memory.shape[-2], self.size),)

    def at(self, carried: Carried, positions: Tensor | None) -> Tensor:
        (coverage,) = carried
        if positions is not None:
            coverage = coverage.gather(-2, positions.unsqueeze(-1).expand(*positions.shape, self.size))
        term: Tensor = self.term(coverage)
        return term
