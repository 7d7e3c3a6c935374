"""Objectives: weighted sums of loss terms, each a mean over all batches of an update; and those of the likelihood.

Other objectives of translation lie beside, each a class in a file of its own, registered with its options.

Shapes: B sentences, T target positions, S source positions, L links, R readout, N target pieces without padding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import GuidedAlignmentConfig, TrainingConfig
from nmt.data.batching import Batch, DocumentBatch, Links
from nmt.data.tokenizer import TokenizerPair
from nmt.model.attention import AttentionWeights
from nmt.model.classifier import DocumentClassifier
from nmt.model.translator import Translator, forced_readout

MIN_ATTENTION = 1e-12
"""Lower bound of the attention weights in the alignment loss: a link outside a local window, or one that a sparse
normalizer leaves out, has weight 0, whose logarithm is infinite. Such a link costs 27.6 nats and has no gradient. A
softmax over the whole source falls below the bound only where scores lie 27 apart, and 1 / MIN_ATTENTION times the loss
scale of fp16 does not overflow."""


class LossSums(NamedTuple):
    """Sums of the terms of an objective over a batch, in their order and in at least single precision."""

    trained: tuple[Tensor | None, ...]
    """What the gradient descends; None for a term that is only logged, or that the batch does not have."""
    logged: tuple[Tensor | None, ...]
    """What the log shows; None for a term that the batch does not have."""

    def loss(self, scales: Sequence[float] | Tensor) -> Tensor:
        """Returns the part of the batch in the loss of its update, by the `loss_scales` of the terms."""
        parts: list[Tensor] = [
            part * scale for part, scale in zip(self.trained, scales, strict=True) if part is not None
        ]
        return sum(parts[1:], parts[0])

    def reported(self) -> Tensor:
        """Returns the sums that are logged, [terms], without gradient."""
        first = self.logged[0]
        assert first is not None
        parts = (torch.zeros_like(first) if part is None else part.to(first.dtype) for part in self.logged)
        return torch.stack(tuple(parts)).detach()


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

    def begin_update(self, updates: int) -> None:
        """Called before the batches of an update, with the number of updates so far, for what depends on it."""

    def without_sampling(self) -> Objective:
        """Returns an objective of the same network that draws no pieces of its own, which rounding may change."""
        return self

    def weights(self, epoch: int) -> tuple[float, ...]:
        """Returns the weight of each term in an epoch, counted from 0."""
        return tuple(1.0 for _ in self.terms)


OBJECTIVES: Registry[Objective] = Registry("objective")
"""Of translation. Each is built from its options, the translator, the section `training` and the tokenizers."""


class ObjectiveOptions(PartOptions):
    """Options of all objectives."""

    reads_context: ClassVar[bool] = True
    """Whether the objective is for translators with document context, too."""

    def conflicts(self, training: TrainingConfig) -> Iterable[tuple[str, str]]:
        """Yields conflicts with the rest of the section `training`: (key inside it, what is wrong and what to do)."""
        return ()


class LikelihoodOptions(ObjectiveOptions):
    kind: Literal["likelihood"] = "likelihood"


class TranslationObjective(Objective):
    """Label-smoothed cross-entropy (Szegedy 2016, section 7), and guided alignment for batches with links.

    The loss is H + weight * G, with H the mean of the smoothed cross-entropy over the target pieces and G the mean of
    the alignment loss over the pieces with links: the weighted sum of Chen 2016, with weight 1 for H.
    """

    terms: ClassVar[tuple[str, ...]] = ("loss", "alignment")
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
        return self.sums(batch, batch)

    def sums(self, batch: Batch, inputs: Batch) -> LossSums:
        """Returns the sums of a batch whose decoder reads the target pieces of `inputs`, which else is equal."""
        forced = forced_readout(self.model, inputs)
        if batch.is_masked:
            positions_T = torch.arange(batch.target_BT.shape[1], device=batch.target_BT.device)
            target_N = batch.target_BT.masked_fill(positions_T >= batch.target_lengths_B.unsqueeze(1), -1).flatten()
            return LossSums(*((each, None) for each in self.model.losses(forced, None, target_N, self.label_smoothing)))
        rows_N = target_rows(batch).to(batch.target_BT.device, non_blocking=True)
        target_N = batch.target_BT.flatten().index_select(0, rows_N)
        smoothed, likelihood = self.model.losses(forced, rows_N, target_N, self.label_smoothing)
        alignment = self.alignment(forced.weights, batch.links)
        return LossSums((smoothed, alignment), (likelihood, alignment))

    def alignment(self, weights: AttentionWeights | None, links: Links | None) -> Tensor | None:
        """Returns the sum of the alignment loss over the target pieces with links; None without links."""
        if links is None:
            return None
        assert weights is not None, "links need a translator with attention"
        return self.alignment_loss(weights.mean(), links)


@contextmanager
def translating(model: Translator, device: torch.device) -> Iterator[None]:
    """While entered, a network in training translates: without dropout, and without gradients.

    Autocast keeps no casts of the weights meanwhile: made without gradients, they must not serve the trained pass.
    """
    was_training, kind = model.training, device.type
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
            yield
    finally:
        model.train(was_training)


@OBJECTIVES.register("likelihood", LikelihoodOptions)
def likelihood(
    options: LikelihoodOptions, translator: Translator, training: TrainingConfig, tokenizers: TokenizerPair
) -> TranslationObjective:
    """Label-smoothed cross-entropy of the references."""
    return TranslationObjective(translator, training.label_smoothing, training.guided_alignment)


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
    """Cross-entropy of the labels (Yang 2016, eq. 12), smoothed (Szegedy 2016, section 7).

    Shapes: B documents, W words, N sentences, K labels.
    """

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
        smoothed = F.cross_entropy(logits_BK, batch.labels_B, reduction="sum", label_smoothing=self.label_smoothing)
        likelihood = F.cross_entropy(logits_BK.detach(), batch.labels_B, reduction="sum")
        correct = 100.0 * (logits_BK.argmax(1) == batch.labels_B).sum()  # so that accuracy is in percent
        return LossSums((smoothed, None), (likelihood, correct))
