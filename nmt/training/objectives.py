"""Objectives: weighted sums of loss terms, each a mean over all batches of an update.

Shapes: B sentences or documents, T target positions, S source positions, L links, K labels, R readout, N target pieces
without padding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config.schema import GuidedAlignmentConfig
from nmt.data.batching import Batch, DocumentBatch, Links
from nmt.model.classifier import DocumentClassifier
from nmt.model.translator import Translator, forced_readout

MIN_ATTENTION = 1e-12
"""Lower bound of the attention weights in the alignment loss: a link outside a local window, or one that a sparse
normalizer leaves out, has weight 0, whose logarithm is infinite. Such a link costs 27.6 nats and has no gradient. A
softmax over the whole source falls below the bound only where scores lie 27 apart, and 1 / MIN_ATTENTION times the loss
scale of fp16 does not overflow."""


class LossSums(NamedTuple):
    """Sums over the target pieces or documents of a batch, in at least single precision."""

    smoothed: Tensor
    """(1 - e) * -log p + e * mean over the vocabulary or labels of -log p."""
    negative_log_likelihood: Tensor
    """-log p, without smoothing and without gradient."""
    alignment: Tensor | None = None
    """The alignment loss over the pieces with links; None for a batch without links."""
    correct: Tensor | None = None
    """100 for each document whose label is the most probable one, so that accuracy is in percent; has no gradient."""

    def loss(self, scales: Sequence[float]) -> Tensor:
        """Returns the part of the batch in the loss of its update, by the `loss_scales` of the terms."""
        loss = self.smoothed * scales[0]
        return loss if self.alignment is None else loss + self.alignment * scales[1]

    def reported(self) -> Tensor:
        """Returns the sums that are logged, [terms], without gradient."""
        likelihood = self.negative_log_likelihood
        second = self.alignment if self.correct is None else self.correct
        second = torch.zeros_like(likelihood) if second is None else second.to(likelihood.dtype)
        return torch.stack((likelihood, second)).detach()


def loss_scales(counts: Sequence[int], weights: Sequence[float], world: int) -> tuple[float, ...]:
    """Returns the scale of each term in the loss of an update: the sum over its terms of weight x mean.

    `counts` are the denominators of the means, over all batches and ranks. `world` ranks average their gradients, so
    their number is a factor. A term with count 0 has scale 0.
    """
    terms = zip(counts, weights, strict=True)
    return tuple(weight * world / count if count else 0.0 for count, weight in terms)


class Objective(nn.Module):
    """Computes the loss terms of a network. A module, so that `DistributedDataParallel` can wrap it."""

    terms: ClassVar[tuple[str, ...]]
    """Names of the terms in the logs. The first is `loss`, which decides whether an update is finite."""
    unit: ClassVar[str]
    """Unit of `tokens`, for the training speed."""
    has_perplexity: ClassVar[bool]
    """Whether the loss is per token, so that its exponential is a perplexity."""
    has_unused_parameters: bool = False
    """Whether the backward pass of a batch may leave parameters without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def counts(self, batch: Any) -> tuple[int, ...]:
        """Returns the denominator of each term; 0 for a batch of weight 0."""

    @abstractmethod
    def tokens(self, batch: Any) -> int:
        """Returns the tokens that count for the training speed."""

    def weights(self, epoch: int) -> tuple[float, ...]:
        """Returns the weight of each term in an epoch, counted from 0."""
        return tuple(1.0 for _ in self.terms)


class TranslationObjective(Objective):
    """Label-smoothed cross-entropy (Szegedy 2016, section 7), and guided alignment for batches with links.

    The loss is H + weight * G, with H the mean of the smoothed cross-entropy over the target pieces and G the mean of
    the alignment loss over the pieces with links: the weighted sum of Chen 2016, with weight 1 for H.
    """

    terms = ("loss", "alignment")
    unit = "target tokens"
    has_perplexity = True
    model: Translator

    def __init__(
        self,
        translator: Translator,
        label_smoothing: float,
        guidance: GuidedAlignmentConfig = GuidedAlignmentConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(translator)
        self.cross_entropy = translator.kernels.cross_entropy
        self.label_smoothing = label_smoothing
        self.guidance = guidance
        self.alignment_loss = ALIGNMENT_LOSSES[guidance.loss]
        self.has_unused_parameters = translator.context.document_context is not None

    def counts(self, batch: Batch) -> tuple[int, ...]:
        return batch.target_tokens, batch.linked_pieces

    def tokens(self, batch: Batch) -> int:
        return batch.target_tokens

    def weights(self, epoch: int) -> tuple[float, ...]:
        """The weight of the alignment loss decays by epoch: alignments start the training, the likelihood ends it."""
        return 1.0, self.guidance.weight * self.guidance.decay**epoch

    def forward(self, batch: Batch) -> LossSums:
        """Returns the sums over the target pieces, end symbols included, padding excluded."""
        readout_BTR, weights, *_ = forced_readout(self.model, batch)
        rows_N = target_rows(batch).to(batch.target_BT.device, non_blocking=True)
        projection = self.model.projection
        smoothed, likelihood = self.cross_entropy(
            readout_BTR.flatten(0, 1).index_select(0, rows_N),
            projection.weight,
            projection.bias,
            batch.target_BT.flatten().index_select(0, rows_N),
            self.label_smoothing,
        )
        if batch.links is None:
            return LossSums(smoothed, likelihood)
        assert weights is not None, "links need a translator with attention"
        return LossSums(smoothed, likelihood, self.alignment_loss(weights.mean(), batch.links))


def target_rows(batch: Batch) -> Tensor:
    """Returns the rows [N] of the pairs' pieces in the flattened [B x T] target.

    They are computed on the CPU, because a mask on a GPU would synchronize.
    """
    positions_T = torch.arange(batch.target_BT.shape[1])
    return (positions_T < batch.target_lengths_B[: batch.pairs].unsqueeze(1)).flatten().nonzero().squeeze(1)


# Guided alignment. A target piece t has A_ts = 1 / (its links) at the source pieces s that it is linked with, and 0
# elsewhere; a_ts is its attention, the mean over the heads. Target pieces without links do not count.


def alignment_cross_entropy(weights_BTS: Tensor, links: Links) -> Tensor:
    """Sum over t, s of -A_ts log a_ts (Chen 2016; Liu 2016; Mi 2016). Reads only the weights at the links."""
    return -(links.share_L * _linked_weights(weights_BTS, links).clamp_min(MIN_ATTENTION).log()).sum()


def alignment_squared_error(weights_BTS: Tensor, links: Links) -> Tensor:
    """Sum over t, s of (A_ts - a_ts)^2 (Chen 2016; Liu 2016).

    Computed as the sum over t of |a_t|^2 + sum over the links of A_ts^2 - 2 A_ts a_ts.
    """
    positions = weights_BTS.shape[1]
    squares_L = weights_BTS.square().sum(2).flatten().index_select(0, links.row_L * positions + links.target_L)
    share_L = links.share_L
    # The shares of a piece add up to 1, so that its |a_t|^2, spread over its links, counts once.
    return (share_L * (squares_L + share_L - 2 * _linked_weights(weights_BTS, links))).sum()


ALIGNMENT_LOSSES: Mapping[str, Callable[[Tensor, Links], Tensor]] = {
    "cross_entropy": alignment_cross_entropy,
    "squared_error": alignment_squared_error,
}
"""Attention [B, T, S] of a batch and its links -> the sum over the target pieces with links."""


def _linked_weights(weights_BTS: Tensor, links: Links) -> Tensor:
    """Returns the weights at the links, in at least single precision."""
    targets, sources = weights_BTS.shape[1:]
    index_L = (links.row_L * targets + links.target_L) * sources + links.source_L
    weights_L = weights_BTS.flatten().index_select(0, index_L)
    return weights_L.to(torch.promote_types(weights_L.dtype, torch.float32))


class ClassificationObjective(Objective):
    """Cross-entropy of the labels (Yang 2016, eq. 12), smoothed (Szegedy 2016, section 7)."""

    terms = ("loss", "accuracy")
    unit = "words"
    has_perplexity = False
    model: DocumentClassifier

    def __init__(self, classifier: DocumentClassifier, label_smoothing: float) -> None:
        super().__init__(classifier)
        self.label_smoothing = label_smoothing

    def counts(self, batch: DocumentBatch) -> tuple[int, ...]:
        return batch.documents, batch.documents

    def tokens(self, batch: DocumentBatch) -> int:
        return batch.words

    def forward(self, batch: DocumentBatch) -> LossSums:
        """Returns the sums over the documents."""
        logits_BK, _ = self.model(batch.ids_W, batch.words_N, batch.sentences_B)
        logits_BK = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
        return LossSums(
            F.cross_entropy(logits_BK, batch.labels_B, reduction="sum", label_smoothing=self.label_smoothing),
            F.cross_entropy(logits_BK.detach(), batch.labels_B, reduction="sum"),
            correct=100.0 * (logits_BK.argmax(1) == batch.labels_B).sum(),
        )
