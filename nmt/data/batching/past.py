"""The sentences before a sentence, in its document.

Shapes: B sentences that look back, L those of them that have something before them, P sentences that they look back
to, N those of the L x P that there are.
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
"""The row before each of some rows in its document, -1 where there is none, and for -1."""
Documents = Sequence[int]
"""The number of each sentence's document: a document ends where the number changes."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Lookback:
    """What a model wants of the sentences before."""

    sentences: int
    """How many it looks back to."""
    sources: bool
    """Whether it reads them in the source language."""
    targets: bool
    """Whether it reads their translations."""

    @property
    def reach(self) -> int:
        """Sentences back to the first one that has to be read at all.

        Where both sides are read, the translations before were themselves made with the sources before them. It goes
        no further: what a decoder's state knows of older translations is not what is read of it.
        """
        return self.sentences * (self.sources + self.targets)


@dataclass(frozen=True)
class Past:
    """Which sentences stand before others, nearest first. Sentences with nothing before them are left out."""

    sentence_L: Tensor
    """int64, ascending: the sentences that have something before them."""
    present_LP: Tensor
    """Whether there is a sentence so far back."""
    place_N: Tensor
    """int64, ascending: where in L x P each of those is that are there."""
    row_N: Tensor
    """int64: where it is found among the sentences that are remembered."""
    count_L: Tensor
    """int64, on the CPU: how many sentences there are before each."""

    @staticmethod
    def of(rows_BP: Rows) -> Past:
        """From the rows of the remembered that stand before each sentence, nearest first, -1 where there is none."""
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
        """The same on a device; the copy overlaps with computation where the memory is pinned."""
        return Past(
            self.sentence_L.to(device, non_blocking=True),
            self.present_LP.to(device, non_blocking=True),
            self.place_N.to(device, non_blocking=True),
            self.row_N.to(device, non_blocking=True),
            self.count_L,
        )


@dataclass(frozen=True)
class BatchPast:
    """The sentences of a batch that stand before others of it."""

    pairs: int
    """The first sentences of the batch are the pairs to learn from; the others are read as context."""
    rows: Rows
    """Row numbers of all sentences of the batch."""
    sources: Past | None
    """What is read before the sources; None where a model does not ask for it."""
    targets: Past | None
    """What was translated before the pairs' targets; None where a model does not ask for it."""

    def to(self, device: torch.device) -> BatchPast:
        """The same on a device."""
        return replace(
            self,
            sources=None if self.sources is None else self.sources.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )


@dataclass(frozen=True)
class Reading:
    """Rows to read together: first the pairs, then what only others have as context."""

    rows: Rows
    translated: int
    """The first of them, whose targets are read as well."""
    past: BatchPast | None


def read_back(rows: Rows, rows_before: RowsBefore, lookback: Lookback | None) -> Reading:
    """What has to be read so that each of the rows knows the sentences before it."""
    if lookback is None:
        return Reading(rows, len(rows), None)
    before_BP = _before(rows, rows_before, lookback.sentences)
    beside = _new(before_BP, rows)
    known = np.concatenate([rows, beside])
    if not lookback.targets:
        return Reading(known, len(rows), BatchPast(len(rows), known, Past.of(_positions(known, before_BP)), None))
    translated, sources = len(known), None
    if lookback.sources:
        before_DP = _before(known, rows_before, lookback.sentences)
        known = np.concatenate([known, _new(before_DP, known)])
        sources = Past.of(_positions(known, before_DP))
    targets = Past.of(_positions(known, before_BP))
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
    """The rows that stand before these, [rows, sentences], nearest first, -1 where there is none."""
    found = []
    for _ in range(sentences):
        rows = rows_before(rows)
        found.append(rows)
    return np.stack(found, 1)


def _new(before_BP: Rows, known: Rows) -> Rows:
    """The rows among those before that are not known, each once, in order."""
    return np.setdiff1d(before_BP[before_BP >= 0], known)


def _positions(known: Rows, wanted: Rows) -> Rows:
    """Where the wanted rows stand among the known ones; -1 stays."""
    order = np.argsort(known, kind="stable")
    found = order[np.searchsorted(known[order], wanted.clip(0)).clip(max=len(known) - 1)]
    return np.where(wanted < 0, -1, found)


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    return pinned(torch.from_numpy(values))
