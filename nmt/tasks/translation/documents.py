"""Lines that are the sentences of documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nmt.data.batching.past import Rows, RowsBefore

Documents = Sequence[int]
"""The number of each line's document: a document ends where the number changes."""
Item = TypeVar("Item")


def places(documents: Documents) -> Rows:
    """The place of each line in its document, counted from 0."""
    numbers, rows = np.asarray(documents, np.int64), np.arange(len(documents))
    begins = np.append(True, numbers[1:] != numbers[:-1])[: len(rows)]
    return rows - np.maximum.accumulate(np.where(begins, rows, 0))


def rows_before(documents: Documents, lengths: npt.NDArray[np.int64]) -> RowsBefore:
    """Finds the line before lines in their documents; one without pieces is passed over."""
    rows = np.arange(len(lengths))
    latest = np.maximum.accumulate(np.where(lengths > 0, rows, -1))
    before = np.append(-1, latest)[: len(rows)]
    before = np.where(before >= rows - places(documents), before, -1)

    def find(wanted: Rows) -> Rows:
        return np.where(wanted < 0, -1, before[wanted])

    return find


def grouped(items: Iterable[Item], documents: Documents) -> list[list[Item]]:
    """The items by document."""
    groups: list[list[Item]] = []
    for item, place in zip(items, places(documents).tolist(), strict=True):
        if place == 0:
            groups.append([])
        groups[-1].append(item)
    return groups
