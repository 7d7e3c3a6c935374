"""What training a translator minimises.

Shapes: B sentences, T target positions, R readout, N target pieces of the batch, padding left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nmt.config.schema import GuidedAlignmentConfig
from nmt.data.batching import Batch
from nmt.kernels.choice import Kernels
from nmt.kernels.products import blocked_products
from nmt.model.in_context import follow
from nmt.model.translator import Translator
from nmt.training.guidance import ALIGNMENT_LOSSES, guidance_weight
from nmt.training.objective import Objective


class TranslationLosses(NamedTuple):
    """Sums over a batch, in at least single precision."""

    smoothed: Tensor
    """Over the target pieces: (1 - e) * -log p(target) + e * mean over the vocabulary of -log p."""
    negative_log_likelihood: Tensor
    """Over the target pieces: -log p(target), without smoothing; carries no gradient."""
    alignment: Tensor | None = None
    """Over the target pieces with links: how far attention is from them; None for a batch without links."""

    def minimised(self) -> tuple[Tensor | None, ...]:
        """The smoothed loss and, where there are links, the alignment loss."""
        return self.smoothed, self.alignment

    def reported(self) -> Tensor:
        """The negative log-likelihood and the alignment loss, [2], without gradient."""
        likelihood = self.negative_log_likelihood
        alignment = torch.zeros_like(likelihood) if self.alignment is None else self.alignment
        return torch.stack((likelihood, alignment.to(likelihood.dtype))).detach()


class TranslationObjective(Objective):
    """Label-smoothed cross-entropy (Szegedy 2016, section 7) of a batch, summed over its target pieces, and beside it
    the alignment loss of a batch that has links.

    What is minimised is H + weight * G, with H the mean of the smoothed loss over the pieces and G the mean of the
    alignment loss over those with links: the weighted sum of Chen 2016, whose weight of H is 1 here.
    """

    terms = ("loss", "alignment")
    unit = "target tokens"
    has_perplexity = True
    model: Translator

    def __init__(
        self,
        translator: Translator,
        kernels: Kernels,
        label_smoothing: float,
        guidance: GuidedAlignmentConfig = GuidedAlignmentConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(translator)
        self.kernels = kernels
        self.label_smoothing = label_smoothing
        self.guidance = guidance
        self.alignment_loss = ALIGNMENT_LOSSES[guidance.loss]
        self.spares = translator.context.lookback is not None

    def counts(self, batch: Batch) -> tuple[int, ...]:
        return batch.target_tokens, batch.linked_pieces

    def tokens(self, batch: Batch) -> int:
        return batch.target_tokens

    def weights(self, epoch: int) -> tuple[float, ...]:
        return 1.0, guidance_weight(self.guidance, epoch)

    def forward(self, batch: Batch) -> TranslationLosses:
        """Sums over the pieces of the target, its end symbol included, padding not."""
        with blocked_products(self.kernels.blocked):
            readout_BTR, weights, *_ = follow(self.model, batch, self.kernels.steps, self.kernels.gru)
        rows_N = target_rows(batch).to(batch.target_BT.device, non_blocking=True)
        projection = self.model.projection
        smoothed, likelihood = self.kernels.cross_entropy(
            readout_BTR.flatten(0, 1).index_select(0, rows_N),
            projection.weight,
            projection.bias,
            batch.target_BT.flatten().index_select(0, rows_N),
            self.label_smoothing,
        )
        if batch.links is None:
            return TranslationLosses(smoothed, likelihood)
        assert weights is not None, "links are for a translator with attention"
        return TranslationLosses(smoothed, likelihood, self.alignment_loss(weights.mean(), batch.links))


def target_rows(batch: Batch) -> Tensor:
    """Rows of the pairs' pieces in the flattened [B x T] target, made on the CPU: a mask on a GPU would wait for it."""
    positions_T = torch.arange(batch.target_BT.shape[1])
    return (positions_T < batch.target_lengths_B[: batch.pairs].unsqueeze(1)).flatten().nonzero().squeeze(1)
