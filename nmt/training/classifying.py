"""What training a classifier minimises.

Shapes: B documents, K labels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.data.batching import DocumentBatch
from nmt.kernels.packed import PackedGru
from nmt.model.classifier import DocumentClassifier
from nmt.training.objective import Objective


class LabelLosses(NamedTuple):
    """Sums over the documents of a batch, in at least single precision."""

    smoothed: Tensor
    """(1 - e) * -log p(label) + e * mean over the labels of -log p."""
    negative_log_likelihood: Tensor
    """-log p(label), without smoothing; carries no gradient."""
    right: Tensor
    """100 for each document whose label is the most probable one, so that accuracy is in percent."""

    def minimised(self) -> tuple[Tensor | None, ...]:
        """The smoothed loss; accuracy has no gradient."""
        return self.smoothed, None

    def reported(self) -> Tensor:
        """The negative log-likelihood and the right labels, [2]."""
        return torch.stack((self.negative_log_likelihood, self.right.to(self.smoothed.dtype))).detach()


class ClassificationObjective(Objective):
    """Cross-entropy of the labels (Yang 2016, eq. 12), smoothed (Szegedy 2016, section 7), summed over documents."""

    terms = ("loss", "accuracy")
    unit = "words"
    has_perplexity = False
    model: DocumentClassifier

    def __init__(self, classifier: DocumentClassifier, label_smoothing: float, gru: PackedGru | None = None) -> None:
        super().__init__(classifier)
        self.label_smoothing = label_smoothing
        self.gru = gru

    def counts(self, batch: DocumentBatch) -> tuple[int, ...]:
        return batch.documents, batch.documents

    def tokens(self, batch: DocumentBatch) -> int:
        return batch.words

    def forward(self, batch: DocumentBatch) -> LabelLosses:
        """Sums over the documents."""
        logits_BK, _ = self.model(batch.ids_W, batch.words_N, batch.sentences_B, self.gru)
        logits_BK = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
        smoothed = F.cross_entropy(logits_BK, batch.labels_B, reduction="sum", label_smoothing=self.label_smoothing)
        return LabelLosses(
            smoothed,
            F.cross_entropy(logits_BK.detach(), batch.labels_B, reduction="sum"),
            100.0 * (logits_BK.argmax(1) == batch.labels_B).sum(),
        )
