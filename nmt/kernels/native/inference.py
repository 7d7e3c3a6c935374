"""What a step of the search is made of, by compiled kernels (kernels.h); nothing has a gradient.

Shapes: ... leading dimensions, Q queries, S source positions, A attention units, V pieces.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nmt.kernels import additive, cross_entropy
from nmt.kernels.native.calls import calls, can_be_called


def additive_scores(query: Tensor, keys: Tensor, exponential_keys: Tensor, energy_A: Tensor) -> Tensor:
    """As `additive.additive_scores`, which computes them where a gradient is wanted or keys are broadcast."""
    if not (can_be_called(query, exponential_keys) and query.shape[:-2] == keys.shape[:-2]):
        return additive.additive_scores(query, keys, exponential_keys, energy_A)
    query, keys = additive.exponentials(query).contiguous(), exponential_keys.contiguous()
    energy_A = energy_A.to(keys.dtype).contiguous()
    *leading, queries, units = query.shape
    positions = keys.shape[-2]
    scores = query.new_empty(*leading, queries, positions)
    calls(query.dtype).scores(
        *(math.prod(leading), queries, positions, units),
        *(query.data_ptr(), keys.data_ptr(), energy_A.data_ptr(), scores.data_ptr()),
    )
    return scores


def log_softmax(logits: Tensor) -> Tensor:
    """As `cross_entropy.log_softmax`, which computes it where a gradient is wanted."""
    if not can_be_called(logits):
        return cross_entropy.log_softmax(logits)
    logits = logits.contiguous()
    out = torch.empty_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
    pieces = logits.shape[-1]
    calls(logits.dtype).log_softmax(logits.numel() // max(pieces, 1), pieces, logits.data_ptr(), out.data_ptr())
    return out
