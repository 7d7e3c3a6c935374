"""Unpadded batches of labelled documents. Shapes: B documents, N sentences and W words of all documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nmt.data.batching.plan import Plan, plan_documents
from nmt.data.batching.update_stream import UpdateStream, describe_rows
from nmt.data.cache import EncodedCollection, Rows
from nmt.errors import counted
from nmt.runtime import pinned


@dataclass(frozen=True)
class DocumentBatch:
    """Documents as words in sentences, one after the other."""

    ids_W: Tensor
    """int64."""
    words_N: Tensor
    """int64; words of each sentence. Stays on the CPU, where it is read."""
    sentences_B: Tensor
    """int64; sentences of each document. Stays on the CPU."""
    labels_B: Tensor
    """int64; the index of each label."""
    rows: Rows
    weight: float = 1.0
    """Factor of the batch's loss: 1, or 0 for the dummy batch of a rank without one in a window's last update."""

    @property
    def words(self) -> int:
        """Words of all documents; 0 in a batch of weight 0."""
        return len(self.ids_W) if self.weight else 0

    @property
    def documents(self) -> int:
        """Number of documents, the divisor of the loss; 0 in a batch of weight 0."""
        return len(self.labels_B) if self.weight else 0

    def to(self, device: torch.device) -> DocumentBatch:
        """Returns it with words and labels on a device; the copy overlaps with computation if the memory is pinned."""
        return replace(
            self,
            ids_W=self.ids_W.to(device, non_blocking=True),
            labels_B=self.labels_B.to(device, non_blocking=True),
        )

    def describe(self, with_rows: bool = False) -> str:
        """Returns the size of the batch for messages: `12 documents, 3,950 words in 160 sentences`.

        `with_rows` adds the first row numbers of the encoded text: `, rows 12, 7, 903, ...`. They count from 0.
        """
        if not self.weight:
            return "a dummy batch of weight 0"
        documents, words = counted(len(self.sentences_B), "document"), counted(len(self.ids_W), "word")
        rows = f", {describe_rows(self.rows)}" if with_rows else ""
        return f"{documents}, {words} in {counted(len(self.words_N), 'sentence')}{rows}"


def documents_batch(documents: Sequence[Sequence[Sequence[int]]], labels: Sequence[int] | None = None) -> DocumentBatch:
    """Returns documents, lists of sentences of ids, as a batch. `labels` are indices, by default all 0."""
    assert documents, "a batch has documents"
    sentences = [sentence for document in documents for sentence in document]
    return DocumentBatch(
        ids_W=_tensor([id_ for sentence in sentences for id_ in sentence]),
        words_N=_tensor([len(sentence) for sentence in sentences]),
        sentences_B=_tensor([len(document) for document in documents]),
        labels_B=_tensor([0] * len(documents) if labels is None else labels),
        rows=np.arange(len(documents)),
    )


@dataclass(eq=False)
class DocumentStream(UpdateStream[DocumentBatch]):
    """Batches of labelled documents of similar size. `batch_tokens` bounds their words."""

    text: EncodedCollection

    def plan(self, rows: Rows, rng: np.random.Generator) -> Plan:
        words, longest = self.text.sizes(rows)
        return plan_documents(rows, words, longest, self.batch_tokens, self.group, rng)

    def batch(self, rows: Rows, seeds: np.random.SeedSequence | None) -> DocumentBatch:
        ids, words, sentences = self.text.documents(rows)
        return DocumentBatch(_tensor(ids), _tensor(words), _tensor(sentences), _tensor(self.text.labels(rows)), rows)

    def dummy_batch(self) -> DocumentBatch:
        return replace(documents_batch([[[0]]]), rows=np.empty(0, np.int64), weight=0.0)


def _tensor(values: Any) -> Tensor:
    return pinned(torch.as_tensor(values, dtype=torch.int64))
