"""What training minimises.

Shapes: B sentences, T target positions, R readout, N target pieces of the batch, padding left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nmt.batching import Batch
from nmt.kernels.choice import Kernels
from nmt.model.in_context import follow
from nmt.model.translator import Translator
from nmt.training.guidance import ALIGNMENT_LOSSES


class Losses(NamedTuple):
    """Sums over a batch, in at least single precision."""

    smoothed: Tensor
    """Over the target pieces: (1 - e) * -log p(target) + e * mean over the vocabulary of -log p."""
    negative_log_likelihood: Tensor
    """Over the target pieces: -log p(target), without smoothing; carries no gradient."""
    alignment: Tensor | None = None
    """Over the target pieces with links: how far attention is from them; None for a batch without links."""

    def reported(self) -> Tensor:
        """The negative log-likelihood and the alignment loss, [2], without gradient."""
        likelihood = self.negative_log_likelihood
        alignment = torch.zeros_like(likelihood) if self.alignment is None else self.alignment
        return torch.stack((likelihood, alignment.to(likelihood.dtype))).detach()


@dataclass(frozen=True)
class Scales:
    """What turns the sums of a batch into its part of what an update minimises."""

    likelihood: float
    alignment: float = 0.0

    @classmethod
    def of_update(cls, pieces: int, linked: int, weight: float, world: int) -> Scales:
        """Those of an update with so many target pieces on all ranks, and so many of them with links.

        What is minimised is H + weight * G, with H the mean of the smoothed loss over the pieces and G the mean of the
        alignment loss over those with links: the weighted sum of Chen 2016, whose weight of H is 1 here. `world`
        processes average their gradients, which takes their number as a factor.
        """
        return cls(world / pieces, weight * world / linked if linked else 0.0)

    def total(self, losses: Losses) -> Tensor:
        """This batch's part of what is minimised."""
        total = losses.smoothed * self.likelihood
        return total if losses.alignment is None else total + losses.alignment * self.alignment


class Objective(nn.Module):
    """Label-smoothed cross-entropy (Szegedy 2016, section 7) of a batch, summed over its target pieces, and beside it
    the alignment loss of a batch that has links.

    A module, so that gradients can be exchanged between processes by wrapping it.
    """

    def __init__(
        self,
        translator: Translator,
        kernels: Kernels,
        label_smoothing: float,
        alignment_loss: Literal["cross_entropy", "squared_error"] = "cross_entropy",
    ) -> None:
        super().__init__()
        self.translator = translator
        self.kernels = kernels
        self.label_smoothing = label_smoothing
        self.alignment_loss = ALIGNMENT_LOSSES[alignment_loss]

    def forward(self, batch: Batch) -> Losses:
        """Sums over the pieces of the target, its end symbol included, padding not."""
        readout_BTR, weights, *_ = follow(self.translator, batch, self.kernels.steps)
        rows_N = target_rows(batch).to(batch.target_BT.device, non_blocking=True)
        projection = self.translator.projection
        smoothed, likelihood = self.kernels.cross_entropy(
            readout_BTR.flatten(0, 1).index_select(0, rows_N),
            projection.weight,
            projection.bias,
            batch.target_BT.flatten().index_select(0, rows_N),
            self.label_smoothing,
        )
        if batch.links is None:
            return Losses(smoothed, likelihood)
        assert weights is not None, "links are for a translator with attention"
        return Losses(smoothed, likelihood, self.alignment_loss(weights.mean(), batch.links))


def target_rows(batch: Batch) -> Tensor:
    """Rows of the pairs' pieces in the flattened [B x T] target, made on the CPU: a mask on a GPU would wait for it."""
    positions_T = torch.arange(batch.target_BT.shape[1])
    return (positions_T < batch.target_lengths_B[: batch.pairs].unsqueeze(1)).flatten().nonzero().squeeze(1)
