"""The equations of the loss behind the vocabulary projection, and of log-probabilities.

Shapes: N positions, R readout, V vocabulary; 2 passes with different dropout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Losses(NamedTuple):
    """Sums over the positions, in at least single precision."""

    smoothed: Tensor
    """The training loss: (1 - e) * -log p(target) + e * mean over the vocabulary of -log p."""
    negative_log_likelihood: Tensor
    """-log p(target), without smoothing; carries no gradient."""


class RegularizedLosses(NamedTuple):
    """Sums over the positions, in at least single precision."""

    regularized: Tensor
    """The smoothed losses of both passes + alpha * divergence (Liang 2021, eq. 4)."""
    negative_log_likelihood: Tensor
    """-log p(target) of both passes, without smoothing; carries no gradient."""
    divergence: Tensor
    """(KL(p || q) + KL(q || p)) / 2 of the predictions of both passes (eq. 3); carries no gradient."""


def cross_entropy(readout_NR: Tensor, weight_VR: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float) -> Losses:
    """Computes the losses with all logits at once."""
    logits_NV = F.linear(readout_NR, weight_VR, bias_V)
    log_probabilities_NV = torch.log_softmax(logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)), -1)
    likelihood = -log_probabilities_NV.gather(1, target_N.unsqueeze(1)).sum()
    spread = -log_probabilities_NV.mean(-1).sum()
    return Losses((1 - smoothing) * likelihood + smoothing * spread, likelihood.detach())


def regularized_cross_entropy(
    readout_2NR: Tensor, weight_VR: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float, alpha: float
) -> RegularizedLosses:
    """Computes the losses of R-Drop with all logits at once."""
    both, likelihood = cross_entropy(readout_2NR.flatten(0, 1), weight_VR, bias_V, target_N.repeat(2), smoothing)
    logits_2NV = F.linear(readout_2NR, weight_VR, bias_V)
    first_NV, second_NV = log_softmax(logits_2NV)
    # KL(p || q) + KL(q || p) = sum of (p - q) (log p - log q)
    divergence = ((first_NV.exp() - second_NV.exp()) * (first_NV - second_NV)).sum() / 2
    return RegularizedLosses(both + alpha * divergence, likelihood, divergence.detach())


def target_log_probabilities(readout_NR: Tensor, weight_VR: Tensor, bias_V: Tensor, target_N: Tensor) -> Tensor:
    """Computes log p(target), [N], in at least single precision, with all logits at once."""
    return log_softmax(F.linear(readout_NR, weight_VR, bias_V)).gather(1, target_N.unsqueeze(1)).squeeze(1)


def log_softmax(logits: Tensor) -> Tensor:
    """Computes log-softmax over the last dimension, in at least single precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
