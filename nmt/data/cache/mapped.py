"""What encoded text is read by: columns of a memory-mapped file, and the parts that its rows fall into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nmt.data.cache.ragged import Offsets, Values

Rows = npt.NDArray[np.integer[Any]]
Lengths = npt.NDArray[np.int32]

_BLOCK_ROWS = 1 << 18


@dataclass(frozen=True)
class Part:
    """The rows of one of the corpora, and how often each is to occur in an epoch."""

    start: int
    stop: int
    weight: float


def parts_of(sizes: Iterable[int], weights: Iterable[float]) -> list[Part]:
    """Parts of these sizes, one after the other."""
    bounds = pairwise(accumulate(sizes, initial=0))
    return [Part(start, stop, weight) for (start, stop), weight in zip(bounds, weights, strict=True)]


def mapped(arrow: Path) -> pa.RecordBatch:
    """The rows of a file, which stay on disk."""
    with pa.memory_map(str(arrow)) as file, pa.ipc.open_stream(file) as stream:
        # One batch, so every column is one contiguous array that numpy can look at without a copy.
        return stream.read_next_batch()


def lists(column: pa.LargeListArray) -> tuple[Values, Offsets]:
    """The column's own memory: flat values, and offsets [rows + 1]."""
    return numbers(column.values), numbers(column.offsets)


def numbers(column: pa.Array) -> Values:
    """The column's own memory, of integers. `to_numpy` does the same, but imports pandas: a second, and 40 MB."""
    dtype = np.dtype(str(column.type))  # `to_pandas_dtype` needs pandas before pyarrow 26.
    assert dtype.kind in "iu", "columns of integers are looked at"
    if not len(column):
        return np.empty(0, dtype)
    assert not column.offset, "a column of a whole batch"
    return np.frombuffer(column.buffers()[1], dtype, len(column))


def lengths_of(offsets: Offsets, rows: Rows) -> Lengths:
    """The lengths of these rows."""
    lengths = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        lengths[start : start + len(block)] = offsets[block + 1] - offsets[block]
    return lengths
