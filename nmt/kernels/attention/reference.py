"""The equations of attention.

Shapes: B sentences, Q queries, S source positions, A attention units, C memory features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.kernels.steps import Annotations


def attention_scores(query_BQA: Tensor, keys_BSA: Tensor, energy_A: Tensor | None) -> Tensor:
    """v' tanh(q + k) (Bahdanau 2015, A.1.2), or q' k (Luong 2015, section 3.1) without an energy: [B, Q, S]."""
    if energy_A is None:
        return query_BQA @ keys_BSA.transpose(1, 2)
    return torch.tanh(query_BQA.unsqueeze(2) + keys_BSA.unsqueeze(1)) @ energy_A


def attend(query_BQA: Tensor, source: Annotations) -> tuple[Tensor, Tensor]:
    """Returns the contexts [B, Q, C] of the queries and their weights [B, Q, S].

    a = softmax(score + bias);  context = sum over s of a_s memory_s. Where every position is excluded both are 0.
    """
    scores_BQS = attention_scores(query_BQA, source.keys, source.energy) + source.bias.unsqueeze(1)
    excluded_B11 = (source.bias == -torch.inf).all(1).view(-1, 1, 1)
    weights_BQS = torch.softmax(scores_BQS.masked_fill(excluded_B11, 0.0), -1).masked_fill(excluded_B11, 0.0)
    return weights_BQS @ source.memory, weights_BQS
