"""Columns of numbers, one number or a row of numbers each: grown in raw files, stored as Arrow, memory-mapped.

Memory does not grow with the columns: they are appended to and read block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Values = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
Lengths = npt.NDArray[Any]
"""Of the rows of a ragged column."""

_BLOCK_ROWS = 1 << 18


class Ragged(NamedTuple):
    """Rows of unequal length, flat: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Values
    offsets: Offsets
    """[rows + 1]."""

    def block(self, rows: slice) -> Ragged:
        bounds = self.offsets[rows.start : rows.stop + 1]
        return Ragged(self.values[bounds[0] : bounds[-1]], bounds - bounds[0])


@dataclass(frozen=True)
class Columns:
    """Columns of the same rows, by name."""

    flat: dict[str, Values] = field(default_factory=dict)
    """One number a row."""
    ragged: dict[str, Ragged] = field(default_factory=dict)

    def block(self, rows: slice) -> Columns:
        flat = {name: column[rows] for name, column in self.flat.items()}
        return Columns(flat, {name: column.block(rows) for name, column in self.ragged.items()})


def offsets_of(lengths: npt.ArrayLike) -> Offsets:
    """Returns the offsets [rows + 1] of rows with these lengths."""
    return np.cumsum(np.append(0, lengths), dtype=np.int64)


def flatten(rows: Sequence[Sequence[int]], dtype: npt.DTypeLike = np.int32) -> Ragged:
    """Returns lists of numbers as flat rows."""
    offsets = offsets_of(np.fromiter(map(len, rows), np.int64, len(rows)))
    return Ragged(np.fromiter(chain.from_iterable(rows), dtype, int(offsets[-1])), offsets)


def gather(column: Ragged, rows: Rows, dtype: npt.DTypeLike) -> Ragged:
    """Returns the rows with these numbers, in this order, in one vectorised read."""
    starts = column.offsets[rows]
    lengths = column.offsets[rows + 1] - starts
    offsets = offsets_of(lengths)
    values = column.values[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)]
    return Ragged(values.astype(dtype), offsets)


def lengths_of(column: Ragged, rows: Rows) -> npt.NDArray[np.int32]:
    """Returns the lengths of the rows with these numbers."""
    lengths = np.empty(len(rows), np.int32)
    for block in row_blocks(len(rows)):
        lengths[block] = column.offsets[rows[block] + 1] - column.offsets[rows[block]]
    return lengths


def document_positions(documents: Sequence[int]) -> Rows:
    """Returns the position of each sentence in its document, from 0; a document ends where its number changes."""
    numbers, rows = np.asarray(documents, np.int64), np.arange(len(documents))
    begins = np.append(True, numbers[1:] != numbers[:-1])[: len(rows)]
    return rows - np.maximum.accumulate(np.where(begins, rows, 0))


def packed_buckets(sizes: Lengths, batch_tokens: int) -> Offsets:
    """Returns the bounds [buckets + 1] of consecutive rows, as many in each as fit: sum of sizes <= batch_tokens.

    A larger row is a bucket alone. Python runs once a bucket, not once a row.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    bounds = [0]
    while bounds[-1] < len(ends):
        start = bounds[-1]
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + batch_tokens, side="right"))
        bounds.append(max(fitting, start + 1))
    return np.asarray(bounds, np.int64)


def previous_rows(rows: Rows, positions: npt.NDArray[Any], lengths: Callable[[Rows], Lengths]) -> Rows:
    """Returns the row with pieces before each of these in its document; -1 if there is none, and for -1.

    `positions` are those of all rows in their documents, and `lengths` returns the pieces of some rows.
    """
    previous = np.full(len(rows), -1)
    left = np.flatnonzero(rows >= 0)
    left = left[positions[rows[left]] > 0]
    previous[left] = rows[left] - 1
    while len(left := left[lengths(previous[left]) == 0]):
        previous[left] -= np.where(positions[previous[left]] > 0, 1, previous[left] + 1)
        left = left[previous[left] >= 0]
    return previous


def row_blocks(rows: int) -> Iterator[slice]:
    """Yields consecutive blocks of rows, each small enough to be held in memory."""
    return (slice(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS))


class GrowingColumns:
    """Columns that grow in raw files of a folder, with the types of the rows appended first."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._types: dict[str, np.dtype[Any]] = {}
        self._flat: dict[str, None] = {}
        self._ends: dict[str, int] = {}

    def append(self, columns: Columns, keep: Mask) -> None:
        """Appends the rows that `keep` marks."""
        for name, column in columns.ragged.items():
            values, lengths = column.values, np.diff(column.offsets)
            if not keep.all():
                values, lengths = values[np.repeat(keep, lengths)], lengths[keep]
            if name not in self._ends:
                self._ends[name] = 0
                self._write(f"{name}.offsets", np.zeros(1, np.int64))
            self._write(f"{name}.values", values)
            self._write(f"{name}.offsets", np.cumsum(lengths, dtype=np.int64) + self._ends[name])
            self._ends[name] += len(values)
        for name, flat in columns.flat.items():
            self._flat[name] = None
            self._write(name, flat[keep])

    def mapped(self) -> Columns:
        """Returns all columns, memory-mapped."""
        return Columns(
            {name: self._map(name) for name in self._flat},
            {name: Ragged(self._map(f"{name}.values"), self._map(f"{name}.offsets")) for name in self._ends},
        )

    def _write(self, name: str, values: Values) -> None:
        dtype = self._types.setdefault(name, values.dtype)
        with (self._folder / name).open("ab") as file:
            np.ascontiguousarray(values, dtype).tofile(file)

    def _map(self, name: str) -> Values:
        path, dtype = self._folder / name, self._types[name]
        # An empty file cannot be mapped.
        return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def write_arrow(path: Path, columns: Columns) -> None:
    """Writes columns as one record batch in Arrow's streaming format, which `datasets.Dataset.from_file` reads as well.

    Each column is one contiguous array there, with 64-bit offsets. Rows of bytes are written as UTF-8 text.
    """
    arrays = {name: _arrow_rows(column) for name, column in columns.ragged.items()}
    arrays |= {name: _arrow_numbers(column) for name, column in columns.flat.items()}
    batch = pa.RecordBatch.from_pydict(arrays)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _arrow_numbers(values: Values) -> pa.Array:
    """Shares the memory of the values."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _arrow_rows(column: Ragged) -> pa.Array:
    rows, offsets = len(column.offsets) - 1, pa.py_buffer(column.offsets)
    if column.values.dtype == np.uint8:
        return pa.Array.from_buffers(pa.large_string(), rows, [None, offsets, pa.py_buffer(column.values)])
    items = _arrow_numbers(column.values)
    return pa.Array.from_buffers(pa.large_list(items.type), rows, [None, offsets], children=[items])


class MappedColumns:
    """Columns of a file that `write_arrow` wrote. They stay on disk and are read without a copy."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            self._batch = stream.read_next_batch()

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def __contains__(self, name: str) -> bool:
        return name in self._batch.schema.names

    def validate(self) -> None:
        """Raises `pyarrow.ArrowInvalid`, a ValueError, if offsets are out of bounds."""
        self._batch.validate(full=True)

    def numbers(self, name: str) -> Values:
        """Returns a column of one integer a row."""
        return _numbers(self._batch.column(name))

    def ragged(self, name: str) -> Ragged:
        """Returns a column of rows of integers."""
        column = self._batch.column(name)
        return Ragged(_numbers(column.values), _numbers(column.offsets))

    def texts(self, name: str, rows: Rows) -> list[str]:
        """Returns these rows of a column of text."""
        texts: list[str] = self._batch.column(name).take(pa.array(rows)).to_pylist()
        return texts


def _numbers(column: pa.Array) -> Values:
    """`to_numpy` does the same, but imports pandas: a second, and 40 MB."""
    dtype = np.dtype(str(column.type))  # `to_pandas_dtype` needs pandas before pyarrow 26.
    assert dtype.kind in "iu", "a column of integers"
    if not len(column):
        return np.empty(0, dtype)
    assert not column.offset, "a column of a whole batch"
    return np.frombuffer(column.buffers()[1], dtype, len(column))
