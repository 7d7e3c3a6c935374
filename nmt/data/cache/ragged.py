"""Rows of unequal length, flat: row i is `values[offsets[i]:offsets[i + 1]]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


BLOCK = 1 << 22
"""Values that are looked at together, where all would need memory."""


def count_equal(values: Values, value: int) -> int:
    """How many of the values are this one, in constant memory."""
    return sum(int(np.count_nonzero(values[at : at + BLOCK] == value)) for at in range(0, len(values), BLOCK))


def blocks_of_lengths(offsets: Offsets) -> Iterator[npt.NDArray[np.int64]]:
    """The lengths of all rows, a block at a time."""
    for start in range(0, len(offsets) - 1, BLOCK):
        yield np.diff(offsets[start : start + BLOCK + 1])


def offsets_of(lengths: npt.NDArray[Any]) -> Offsets:
    """The offsets [rows + 1] of rows with these lengths, from 0."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flatten(rows: Sequence[Sequence[int]], dtype: npt.DTypeLike = np.int32) -> tuple[Values, Offsets]:
    """Lists of ids -> flat ids [sum of lengths] and offsets [rows + 1]."""
    offsets = offsets_of(np.fromiter(map(len, rows), np.int64, len(rows)))
    return np.fromiter(chain.from_iterable(rows), dtype, int(offsets[-1])), offsets


def gather(values: Values, offsets: Offsets, rows: npt.NDArray[np.integer[Any]]) -> tuple[Values, Offsets]:
    """The rows with these numbers, in this order, flat; one vectorised read, whatever the number of rows."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    gathered = offsets_of(lengths)
    return values[np.arange(gathered[-1]) + np.repeat(starts - gathered[:-1], lengths)], gathered
