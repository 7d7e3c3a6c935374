"""Length normalisation and coverage penalty of Wu 2016 (Google's Neural Machine Translation System), equation 14.

score(Y) = log P(Y | X) / lp(Y) + cp(X, Y)
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)

# Attention through a local window can leave a position with exactly nothing; its penalty must stay finite, or all
# hypotheses of the sentence would score alike. ln 1e-10 is -23.
SMALLEST_COVERAGE = 1e-10


def length_penalty(length: Number, alpha: float) -> Number:
    """lp(Y) = ((5 + |Y|) / (5 + 1)) ** alpha; |Y| counts the end of the sentence, as log P does."""
    penalty: Number = ((5.0 + length) / 6.0) ** alpha
    return penalty


def coverage_penalty(attention_sum_BQS: Tensor, lengths_B: Tensor, beta: float) -> Tensor:
    """cp(X, Y) = beta * sum_i log(min(sum_j p_ij, 1)), [B, Q].

    Args:
        attention_sum_BQS: attention that each source position got, summed over the target positions.
        lengths_B: source pieces that count: not the end of the sentence, which has no content to be left out.
        beta: weight of the penalty.
    """
    covered_BQS = attention_sum_BQS.clamp(SMALLEST_COVERAGE, 1.0).log()
    position_S = torch.arange(attention_sum_BQS.shape[2], device=lengths_B.device)
    is_word_B1S = (position_S < lengths_B.unsqueeze(1)).unsqueeze(1)
    return beta * covered_BQS.where(is_word_B1S, 0.0).sum(-1)
