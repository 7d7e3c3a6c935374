"""Corpora as ids, memory-mapped: what batches are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nmt.text.corpus import Corpus
from nmt.text.encoded.links import COLUMNS
from nmt.text.encoded.ragged import Offsets, gather
from nmt.text.encoded.report import EncodingReport

Rows = npt.NDArray[np.integer[Any]]
Lengths = npt.NDArray[np.int32]

_BLOCK_ROWS = 1 << 18


@dataclass(frozen=True)
class Part:
    """The rows of one of the corpora, and how often each is to occur in an epoch."""

    start: int
    stop: int
    weight: float


class EncodedCorpus:
    """Pairs of ids by row number. All of it stays on disk, so memory does not grow with the pairs."""

    def __init__(self, arrow: Path, corpora: Sequence[Corpus], report: EncodingReport, fingerprint: str) -> None:
        """`corpora` are those that the file was made from, in the same order."""
        self.report = report.named([corpus.name for corpus in corpora])
        self.fingerprint = fingerprint
        self._corpora = corpora
        with pa.memory_map(str(arrow)) as file, pa.ipc.open_stream(file) as stream:
            # One batch, so every column is one contiguous array that numpy can look at without a copy.
            self._batch = stream.read_next_batch()
        self._source = _ids(self._batch.column("source"))
        self._target = _ids(self._batch.column("target"))
        present = set(COLUMNS) & set(self._batch.schema.names)
        self._positions = {name: _ids(self._batch.column(name)) for name in present}
        stops = np.cumsum([corpus.kept for corpus in report.corpora]).tolist()
        assert stops[-1] == len(self)
        self.parts = [
            Part(start, stop, corpus.weight) for start, stop, corpus in zip([0, *stops], stops, corpora, strict=False)
        ]

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def lengths(self, rows: Rows) -> tuple[Lengths, Lengths]:
        """Pieces of the sources and of the targets of these rows, without end symbols."""
        return _lengths(self._source[1], rows), _lengths(self._target[1], rows)

    def source(self, rows: Rows) -> tuple[npt.NDArray[np.int32], Offsets]:
        """Source ids of these rows, without end symbol: flat ids, and offsets [rows + 1]."""
        values, offsets = gather(*self._source, rows)
        return values.astype(np.int32), offsets

    def target(self, rows: Rows) -> tuple[npt.NDArray[np.int32], Offsets]:
        """Target ids of these rows, in the same form."""
        values, offsets = gather(*self._target, rows)
        return values.astype(np.int32), offsets

    @property
    def has_links(self) -> bool:
        """Whether any of the corpora has alignments."""
        return bool(self._positions)

    def links(self, rows: Rows) -> tuple[npt.NDArray[np.int64], Offsets]:
        """Links between the words of these pairs: source and target word of each in turn, flat, and offsets."""
        return self._words("links", rows)

    def source_words(self, rows: Rows) -> tuple[npt.NDArray[np.int64], Offsets]:
        """The word of each source piece of these pairs, flat, and offsets; a pair without links has none of them."""
        return self._words("source_words", rows)

    def target_words(self, rows: Rows) -> tuple[npt.NDArray[np.int64], Offsets]:
        """The word of each target piece, in the same form."""
        return self._words("target_words", rows)

    @property
    def has_text(self) -> bool:
        """Whether the text was kept beside the ids."""
        return "source_text" in self._batch.schema.names

    def text(self, rows: Rows) -> tuple[list[str], list[str]]:
        """Source and target sentences of these rows; only where the text was kept."""
        assert self.has_text, "encoded without keep_text"
        numbers = pa.array(rows)
        source, target = (self._batch.column(name).take(numbers).to_pylist() for name in ("source_text", "target_text"))
        return source, target

    def place(self, row: int) -> str:
        """Where the source sentence of a row comes from, for messages: file and line."""
        owner, line = (int(self._batch.column(name)[row].as_py()) for name in ("corpus", "line"))
        return self._corpora[owner].place(line, "source")

    def _words(self, column: str, rows: Rows) -> tuple[npt.NDArray[np.int64], Offsets]:
        assert self.has_links, "encoded without alignments"
        values, offsets = gather(*self._positions[column], rows)
        return values.astype(np.int64), offsets


def _lengths(offsets: Offsets, rows: Rows) -> Lengths:
    lengths = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        lengths[start : start + len(block)] = offsets[block + 1] - offsets[block]
    return lengths


def _ids(column: pa.LargeListArray) -> tuple[npt.NDArray[Any], Offsets]:
    return _numbers(column.values), _numbers(column.offsets)


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """The column's own memory. `to_numpy` does the same, but imports pandas: a second, and 40 MB."""
    dtype = column.type.to_pandas_dtype()
    if not len(column):
        return np.empty(0, dtype)
    assert not column.offset, "a column of a whole batch"
    return np.frombuffer(column.buffers()[1], dtype, len(column))
