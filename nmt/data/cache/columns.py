"""Columns that grow in raw files, so that memory stays constant, and that end as Arrow arrays."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nmt.data.cache.ragged import Offsets, Values

Mask = npt.NDArray[np.bool_]

_BLOCK_ROWS = 1 << 18


class FlatColumn:
    """One number a row: appended to a file, then memory-mapped."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, files: ExitStack) -> None:
        """`files` closes the file if the column is never closed."""
        self._path = path
        self._file = files.enter_context(path.open("wb"))
        self.dtype = np.dtype(dtype)

    def append(self, values: Values) -> None:
        """Add these values."""
        np.ascontiguousarray(values, self.dtype).tofile(self._file)

    def close(self) -> Values:
        """All values; nothing can be appended from now on."""
        self._file.close()
        # An empty file cannot be mapped.
        return np.memmap(self._path, self.dtype, mode="r") if self._path.stat().st_size else np.empty(0, self.dtype)


class RaggedColumn:
    """A list of numbers, or a text in UTF-8, a row: flat values and offsets, each in a file."""

    def __init__(self, folder: Path, name: str, dtype: npt.DTypeLike, files: ExitStack) -> None:
        """`files` closes the files if the column is never closed."""
        self._values = FlatColumn(folder / f"{name}.values", dtype, files)
        self._offsets = FlatColumn(folder / f"{name}.offsets", np.int64, files)
        self._offsets.append(np.zeros(1, np.int64))
        self._end = 0

    def append(self, values: Values, lengths: npt.NDArray[Any], keep: Mask) -> None:
        """Add those of the `len(lengths)` rows that `keep` marks; `values` holds all of them, one after the other."""
        if not keep.all():
            values, lengths = values[np.repeat(keep, lengths)], lengths[keep]
        ends = np.cumsum(lengths, dtype=np.int64)
        assert len(values) == (ends[-1] if len(ends) else 0)
        self._values.append(values)
        self._offsets.append(ends + self._end)
        self._end += len(values)

    def close(self) -> tuple[Values, Offsets]:
        """All values and offsets; nothing can be appended from now on."""
        return self._values.close(), self._offsets.close()


def flat_kept(values: Values, keep: Mask, path: Path) -> Values:
    """The marked rows of a column, copied block by block into a file of their own."""
    with ExitStack() as files:
        column = FlatColumn(path, values.dtype, files)
        for start in range(0, len(keep), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            column.append(values[block][keep[block]])
        return column.close()


def ragged_kept(values: Values, offsets: Offsets, keep: Mask, folder: Path, name: str) -> tuple[Values, Offsets]:
    """The same for a column of rows of unequal length."""
    with ExitStack() as files:
        column = RaggedColumn(folder, name, values.dtype, files)
        for start in range(0, len(keep), _BLOCK_ROWS):
            block = keep[start : start + _BLOCK_ROWS]
            bounds = offsets[start : start + len(block) + 1]
            column.append(values[bounds[0] : bounds[-1]], np.diff(bounds), block)
        return column.close()


def arrow_flat(values: Values) -> pa.Array:
    """Numbers as an Arrow array of the same buffer."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def arrow_lists(values: Values, offsets: Offsets) -> pa.Array:
    """Rows of numbers as an Arrow array of the same buffers; 64-bit offsets, so that one array holds any corpus."""
    items = arrow_flat(values)
    kind = pa.large_list(items.type)
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets)], children=[items])


def arrow_texts(values: Values, offsets: Offsets) -> pa.Array:
    """Rows of UTF-8 bytes as an Arrow array of the same buffers."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
