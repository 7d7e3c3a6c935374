"""Document context: the sentences before a sentence in its document.

Shapes: B sentences, L those of them that have a context, P most sentences of a context, N those of the L x P that
exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.data.cache.columns import Rows, document_positions, previous_rows
from nmt.runtime import pinned

PreviousRows = Callable[[Rows], Rows]
"""Returns the row before each of some rows in its document; -1 if there is none, and for -1."""
Documents = Sequence[int]
"""The number of each sentence's document: a document ends where the number changes."""
Grouped = TypeVar("Grouped")


@dataclass(frozen=True)
class DocumentContext:
    """The sentences before that a model reads."""

    sentences: int
    """How many, at most."""
    sources: bool
    """Whether it reads them in the source language."""
    targets: bool
    """Whether it reads their translations."""

    @property
    def reach(self) -> int:
        """Sentences back to the first one that has to be read at all.

        If both sides are read, the translations before were themselves made with the sources before them. It goes no
        further: older translations that a decoder's state depends on are not read.
        """
        return self.sentences * (self.sources + self.targets)


@dataclass(frozen=True)
class PreviousSentences:
    """The sentences before others, nearest first. Sentences without a context are left out."""

    sentence_L: Tensor
    """int64, ascending: the sentences that have a context."""
    present_LP: Tensor
    """Whether there is a sentence so far back."""
    index_N: Tensor
    """int64, ascending: the index in L x P of each that exists."""
    row_N: Tensor
    """int64: its row in the memory of sentences."""
    count_L: Tensor
    """int64, on the CPU: the number of sentences before each."""

    @staticmethod
    def of(rows_BP: Rows) -> PreviousSentences:
        """From the rows in the memory of the sentences before each, nearest first, -1 if there is none."""
        has_context_B = (rows_BP >= 0).any(1)
        rows_LP = rows_BP[has_context_B]
        present_LP = rows_LP >= 0
        return PreviousSentences(
            _tensor(np.flatnonzero(has_context_B)),
            _tensor(present_LP),
            _tensor(np.flatnonzero(present_LP)),
            _tensor(rows_LP[present_LP]),
            torch.from_numpy(present_LP.sum(1)),
        )

    def __len__(self) -> int:
        return len(self.sentence_L)

    def to(self, device: torch.device) -> PreviousSentences:
        """Returns them on a device; the copy overlaps with computation if the memory is pinned."""
        tensors = self.sentence_L, self.present_LP, self.index_N, self.row_N
        sentence_L, present_LP, index_N, row_N = (each.to(device, non_blocking=True) for each in tensors)
        return PreviousSentences(sentence_L, present_LP, index_N, row_N, self.count_L)


@dataclass(frozen=True)
class BatchContext:
    """The context of the sentences of a batch."""

    pairs: int
    """The first sentences of the batch are the pairs to train on; the others are context."""
    rows: Rows
    """Row numbers of all sentences of the batch."""
    sources: PreviousSentences | None
    """Context of the sources; None if a model does not read it."""
    targets: PreviousSentences | None
    """Context of the pairs' targets; None if a model does not read it."""

    def to(self, device: torch.device) -> BatchContext:
        return replace(
            self,
            sources=None if self.sources is None else self.sources.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )


@dataclass(frozen=True)
class RowsWithContext:
    """Rows to read together: first the pairs, then those that are only context."""

    rows: Rows
    translated: int
    """Number of the first rows, whose targets are read as well."""
    context: BatchContext | None


def add_context(rows: Rows, previous_rows: PreviousRows, context: DocumentContext | None) -> RowsWithContext:
    """Returns the rows to read so that each of these rows has its context."""
    if context is None:
        return RowsWithContext(rows, len(rows), None)
    before_BP = _before(rows, previous_rows, context.sentences)
    read = np.concatenate([rows, _new(before_BP, rows)])
    if not context.targets:
        only = PreviousSentences.of(_indices(read, before_BP))
        return RowsWithContext(read, len(rows), BatchContext(len(rows), read, only, None))
    translated = len(read)
    sources: PreviousSentences | None = None
    if context.sources:
        before_DP = _before(read, previous_rows, context.sentences)
        read = np.concatenate([read, _new(before_DP, read)])
        sources = PreviousSentences.of(_indices(read, before_DP))
    targets = PreviousSentences.of(_indices(read, before_BP))
    return RowsWithContext(read, translated, BatchContext(len(rows), read, sources, targets))


def sentences_before(documents: Documents, lengths: npt.NDArray[np.int64]) -> PreviousRows:
    """Finds the sentence before others in their documents; those without pieces are skipped."""
    return partial(previous_rows, positions=document_positions(documents), lengths=lengths.__getitem__)


def group_by_document(items: Iterable[Grouped], documents: Documents) -> list[list[Grouped]]:
    groups = groupby(zip(items, documents, strict=True), key=itemgetter(1))
    return [[item for item, _ in group] for _, group in groups]


def _before(rows: Rows, previous_rows: PreviousRows, sentences: int) -> Rows:
    """The rows before these, [rows, sentences], nearest first, -1 if there is none."""
    before = []
    for _ in range(sentences):
        rows = previous_rows(rows)
        before.append(rows)
    return np.stack(before, 1)


def _new(before_BP: Rows, read: Rows) -> Rows:
    """The rows of a context that are not read yet, each once, in order."""
    return np.setdiff1d(before_BP[before_BP >= 0], read)


def _indices(read: Rows, rows: Rows) -> Rows:
    """The index of each row among those that are read; -1 stays."""
    order = np.argsort(read, kind="stable")
    indices = order[np.searchsorted(read[order], rows.clip(0)).clip(max=len(read) - 1)]
    return np.where(rows < 0, -1, indices)


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    return pinned(torch.from_numpy(values))
