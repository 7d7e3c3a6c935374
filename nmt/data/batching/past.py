"""Document context: the sentences before a sentence in its document.

Shapes: B sentences, L those of them that have context, P positions back in the document, N entries of L x P that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.runtime import pinned

Rows = npt.NDArray[np.int64]
RowsBefore = Callable[[Rows], Rows]
"""Returns the row before each of some rows in its document, -1 where there is none, and for -1."""
Documents = Sequence[int]
"""The number of each sentence's document: a document ends where the number changes."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Lookback:
    """The document context that a model reads."""

    sentences: int
    """Number of sentences before."""
    sources: bool
    """Whether their sources are read."""
    targets: bool
    """Whether their translations are read."""

    @property
    def reach(self) -> int:
        """Number of sentences before that are read at all.

        If both sides are read, the translations before were made with the sources before them. Older translations,
        which the decoder's states depend on as well, are not read.
        """
        return self.sentences * (self.sources + self.targets)


@dataclass(frozen=True)
class Past:
    """Context of sentences, the nearest first. Sentences without context are left out."""

    sentence_L: Tensor
    """int64, ascending: the sentences that have context."""
    present_LP: Tensor
    """Whether there is a sentence so far before."""
    place_N: Tensor
    """int64, ascending: index in L x P of each sentence before."""
    row_N: Tensor
    """int64: its index among the encoded sentences."""
    count_L: Tensor
    """int64, on the CPU: number of sentences before each."""

    @staticmethod
    def of(rows_BP: Rows) -> Past:
        """From the rows of the encoded sentences before each sentence, nearest first, -1 where there is none."""
        has_past_B = (rows_BP >= 0).any(1)
        rows_LP = rows_BP[has_past_B]
        present_LP = rows_LP >= 0
        return Past(
            _tensor(np.flatnonzero(has_past_B)),
            _tensor(present_LP),
            _tensor(np.flatnonzero(present_LP)),
            _tensor(rows_LP[present_LP]),
            torch.from_numpy(present_LP.sum(1)),
        )

    def __len__(self) -> int:
        return len(self.sentence_L)

    def to(self, device: torch.device) -> Past:
        """Copies it to a device; the copy overlaps with computation where the memory is pinned."""
        return Past(
            self.sentence_L.to(device, non_blocking=True),
            self.present_LP.to(device, non_blocking=True),
            self.place_N.to(device, non_blocking=True),
            self.row_N.to(device, non_blocking=True),
            self.count_L,
        )


@dataclass(frozen=True)
class BatchPast:
    """Context of the sentences of a batch, which is in the batch as well."""

    pairs: int
    """Number of pairs to learn from, the first sentences of the batch; the others are context only."""
    rows: Rows
    """Row numbers of all sentences of the batch."""
    sources: Past | None
    """Context of the sources; None where the model does not read it."""
    targets: Past | None
    """Context of the pairs' targets; None where the model does not read it."""

    def to(self, device: torch.device) -> BatchPast:
        """Copies it to a device."""
        return replace(
            self,
            sources=None if self.sources is None else self.sources.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )


@dataclass(frozen=True)
class Reading:
    """Rows of a batch: first the pairs, then rows that are context only."""

    rows: Rows
    translated: int
    """Number of rows, the first ones, whose targets are read as well."""
    past: BatchPast | None


def read_back(rows: Rows, rows_before: RowsBefore, lookback: Lookback | None) -> Reading:
    """Adds the rows that the context of these rows needs."""
    if lookback is None:
        return Reading(rows, len(rows), None)
    before_BP = _before(rows, rows_before, lookback.sentences)
    beside = _new(before_BP, rows)
    known = np.concatenate([rows, beside])
    if not lookback.targets:
        return Reading(known, len(rows), BatchPast(len(rows), known, Past.of(_indices(known, before_BP)), None))
    translated, sources = len(known), None
    if lookback.sources:
        before_DP = _before(known, rows_before, lookback.sentences)
        known = np.concatenate([known, _new(before_DP, known)])
        sources = Past.of(_indices(known, before_DP))
    targets = Past.of(_indices(known, before_BP))
    return Reading(known, translated, BatchPast(len(rows), known, sources, targets))


def document_positions(documents: Documents) -> Rows:
    """Returns the position of each sentence in its document, counted from 0."""
    numbers, rows = np.asarray(documents, np.int64), np.arange(len(documents))
    begins = np.append(True, numbers[1:] != numbers[:-1])[: len(rows)]
    return rows - np.maximum.accumulate(np.where(begins, rows, 0))


def sentences_before(documents: Documents, lengths: npt.NDArray[np.int64]) -> RowsBefore:
    """Finds the sentence before others in their documents; those without pieces are passed over."""
    rows = np.arange(len(lengths))
    latest = np.maximum.accumulate(np.where(lengths > 0, rows, -1))
    before = np.append(-1, latest)[: len(rows)]
    before = np.where(before >= rows - document_positions(documents), before, -1)
    return lambda some: np.where(some < 0, -1, before[some])


def group_by_document(items: Iterable[Item], documents: Documents) -> list[list[Item]]:
    """Returns the items of each document."""
    groups: list[list[Item]] = []
    for item, position in zip(items, document_positions(documents).tolist(), strict=True):
        if position == 0:
            groups.append([])
        groups[-1].append(item)
    return groups


def _before(rows: Rows, rows_before: RowsBefore, sentences: int) -> Rows:
    """[rows, sentences] the rows before, nearest first, -1 where there is none."""
    before = []
    for _ in range(sentences):
        rows = rows_before(rows)
        before.append(rows)
    return np.stack(before, 1)


def _new(before_BP: Rows, known: Rows) -> Rows:
    """Rows of the context that are not in the batch yet, each once, in order."""
    return np.setdiff1d(before_BP[before_BP >= 0], known)


def _indices(known: Rows, rows: Rows) -> Rows:
    """Indices of rows among the known ones; -1 stays."""
    order = np.argsort(known, kind="stable")
    indices = order[np.searchsorted(known[order], rows.clip(0)).clip(max=len(known) - 1)]
    return np.where(rows < 0, -1, indices)


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    return pinned(torch.from_numpy(values))
