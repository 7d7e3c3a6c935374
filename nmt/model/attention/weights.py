"""Where queries looked.

Shapes: B sentences, N heads, Q queries, S source positions, W positions of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionWeights:
    """Where queries looked, as the attention computed it: a window keeps its own positions alone."""

    values_BQNW: Tensor
    """Weights, N = 1 without heads; exactly 0 on padding. With a Gaussian they do not add up to 1."""
    positions_BQNW: Tensor | None
    """Source position of each weight; None where W is the whole source."""
    centers_BQN: Tensor | None
    """p_t of Luong 2015, section 3.2, counted from 0; None where the window does not move."""
    source_positions: int
    """S."""
    half_width: int | None = None
    """D of Luong 2015, section 3.2."""

    def dense(self) -> Tensor:
        """The weights [B, Q, N, S], 0 outside the window."""
        return spread(self.values_BQNW, self.positions_BQNW, self.source_positions)

    def mean(self) -> Tensor:
        """The mean over the heads, [B, Q, S]."""
        dense_BQNS = self.dense()
        return dense_BQNS.squeeze(2) if dense_BQNS.shape[2] == 1 else dense_BQNS.mean(2)

    def select(self, sentences_N1: Tensor, hypotheses_NQ: Tensor) -> AttentionWeights:
        """The weights whose row n is sentence `sentences_N1[n]`, its query q the old `hypotheses_NQ[n, q]`."""

        def chosen(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[sentences_N1, hypotheses_NQ]

        return AttentionWeights(
            self.values_BQNW[sentences_N1, hypotheses_NQ],
            chosen(self.positions_BQNW),
            chosen(self.centers_BQN),
            self.source_positions,
            self.half_width,
        )

    @staticmethod
    def join(steps: Sequence[AttentionWeights | None]) -> AttentionWeights | None:
        """The weights of one target position after another, as one; None where there are none."""
        weights = [step for step in steps if step is not None]
        if not weights:
            return None

        def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
            present = [part for part in parts if part is not None]
            return torch.cat(present, 1) if present else None

        return AttentionWeights(
            torch.cat([step.values_BQNW for step in weights], 1),
            joined([step.positions_BQNW for step in weights]),
            joined([step.centers_BQN for step in weights]),
            weights[0].source_positions,
            weights[0].half_width,
        )


def spread(weights: Tensor, positions: Tensor | None, source_positions: int) -> Tensor:
    """Weights [..., W] at these source positions as weights [..., S] of the whole source."""
    if positions is None:
        return weights
    empty = weights.new_zeros(*weights.shape[:-1], source_positions)
    return empty.scatter(-1, positions.expand(weights.shape), weights)
