"""Guided alignment: how far attention is from the links between the pieces of a pair.

Target piece t of a pair has A_ts = 1 / (its links) at the source pieces s that it is linked with and 0 elsewhere;
a_ts is its attention, the mean over the heads. Pieces without links take no part. Summed over the pieces with links:

    cross-entropy   sum over t, s of -A_ts log a_ts        (Chen 2016; Liu 2016; Mi 2016)
    squared error   sum over t, s of (A_ts - a_ts)^2       (Chen 2016; Liu 2016)

Shapes: B sentences, T target positions, S source positions, L links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nmt.config.schema import GuidedAlignmentConfig
from nmt.data.batching import Links

FLOOR = 1e-12
"""Weights below it count as it does: a link outside a local window has weight 0, whose logarithm is infinite. It costs
27.6 nats and has no gradient, because nothing that was computed leads there. A softmax over the whole source goes below
the floor only where scores lie 27 apart, and 1 / FLOOR times the loss scale of fp16 does not overflow."""


def guidance_weight(options: GuidedAlignmentConfig, epoch: int) -> float:
    """Weight of the alignment loss in an epoch, counted from 0: it may decay, so that alignments start what the
    likelihood goes on with (Chen 2016)."""
    return options.weight * options.decay**epoch


def cross_entropy(weights_BTS: Tensor, links: Links) -> Tensor:
    """The cross-entropy above. Only the weights at the links are read."""
    return -(links.share_L * _linked(weights_BTS, links).clamp_min(FLOOR).log()).sum()


def squared_error(weights_BTS: Tensor, links: Links) -> Tensor:
    """The squared error above, as the sum over t of |a_t|^2 + sum over the links of A_ts^2 - 2 A_ts a_ts."""
    positions = weights_BTS.shape[1]
    squares_L = weights_BTS.square().sum(2).flatten().index_select(0, links.row_L * positions + links.target_L)
    share_L = links.share_L
    # The shares of a piece add up to 1, so that its |a_t|^2, spread over its links, counts once.
    return (share_L * (squares_L + share_L - 2 * _linked(weights_BTS, links))).sum()


AlignmentLoss = Callable[[Tensor, Links], Tensor]
ALIGNMENT_LOSSES: Mapping[str, AlignmentLoss] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
"""Attention [B, T, S] of a batch and its links -> the sum over its target pieces that have some."""


def _linked(weights_BTS: Tensor, links: Links) -> Tensor:
    """The weights at the links, in at least single precision."""
    targets, sources = weights_BTS.shape[1:]
    place_L = (links.row_L * targets + links.target_L) * sources + links.source_L
    weights_L = weights_BTS.flatten().index_select(0, place_L)
    return weights_L.to(torch.promote_types(weights_L.dtype, torch.float32))
