"""The objective of document classification.

Shapes: B documents, W words, N sentences, K labels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from nmt.data.batching import DocumentBatch
from nmt.model.classifier import DocumentClassifier
from nmt.training.objectives.base import LossSums, Objective


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
        smoothed = F.cross_entropy(logits_BK, batch.labels_B, reduction="sum", label_smoothing=self.label_smoothing)
        likelihood = F.cross_entropy(logits_BK.detach(), batch.labels_B, reduction="sum")
        correct = 100.0 * (logits_BK.argmax(1) == batch.labels_B).sum()  # so that accuracy is in percent
        return LossSums((smoothed, None), (likelihood, correct))
