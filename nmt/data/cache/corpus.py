"""Corpora as ids, memory-mapped: what batches are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nmt.data.cache.documents import PAIR, SENTENCE
from nmt.data.cache.links import COLUMNS
from nmt.data.cache.mapped import Lengths, Part, Rows, lengths_of, lists, mapped, numbers, parts_of
from nmt.data.cache.ragged import Offsets, gather
from nmt.data.cache.report import EncodingReport
from nmt.data.readers.pairs import Corpus


class EncodedPairs:
    """Sentences and their translations, as ids, by row number. All of it stays on disk, so memory does not grow with
    them.

    Every row is a pair to learn from, but for those that the filters leave out of a document: they stay as context. The
    rows of a document follow each other.
    """

    def __init__(self, arrow: Path) -> None:
        self._batch = mapped(arrow)
        self._source = lists(self._batch.column("source"))
        self._target = lists(self._batch.column("target"))

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def lengths(self, rows: Rows) -> tuple[Lengths, Lengths]:
        """Pieces of the sources and of the targets of these rows, without end symbols."""
        return lengths_of(self._source[1], rows), lengths_of(self._target[1], rows)

    def source(self, rows: Rows) -> tuple[npt.NDArray[np.int32], Offsets]:
        """Source ids of these rows, without end symbol: flat ids, and offsets [rows + 1]."""
        values, offsets = gather(*self._source, rows)
        return values.astype(np.int32), offsets

    def target(self, rows: Rows) -> tuple[npt.NDArray[np.int32], Offsets]:
        """Target ids of these rows, in the same form."""
        values, offsets = gather(*self._target, rows)
        return values.astype(np.int32), offsets

    def pairs(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which of these rows are pairs to learn from."""
        pairs = self._column(PAIR)
        return np.ones(len(rows), np.bool_) if pairs is None else pairs[rows].astype(np.bool_)

    def parts_with(self, weights: Sequence[float]) -> list[Part]:
        """The rows of each corpus that these pairs were read from, in its order, with its weight."""
        # Rows come corpus by corpus.
        stops = np.searchsorted(numbers(self._batch.column("corpus")), np.arange(len(weights)), side="right")
        parts = parts_of(np.diff(stops, prepend=0).tolist(), weights)
        assert parts[-1].stop == len(self), "a weight for each corpus"
        return parts

    def _column(self, name: str) -> npt.NDArray[Any] | None:
        return numbers(self._batch.column(name)) if name in self._batch.schema.names else None


class EncodedCorpus(EncodedPairs):
    """The pairs of corpora, with all that the cache knows of them."""

    def __init__(self, arrow: Path, corpora: Sequence[Corpus], report: EncodingReport, fingerprint: str) -> None:
        """`corpora` are those that the file was made from, in the same order."""
        super().__init__(arrow)
        self.report = report.named([corpus.name for corpus in corpora])
        self.fingerprint = fingerprint
        self._corpora = corpora
        present = set(COLUMNS) & set(self._batch.schema.names)
        self._positions = {name: lists(self._batch.column(name)) for name in present}
        self.parts = self.parts_with([corpus.weight for corpus in corpora])

    @property
    def sentences(self) -> npt.NDArray[np.int32] | None:
        """The place of each row in its document, counted from 0; None where there are no documents."""
        return self._column(SENTENCE)

    def rows_before(self, rows: Rows) -> npt.NDArray[np.int64]:
        """The row before each of these in its document, -1 where there is none, or for -1.

        A row without source pieces has nothing to say to those that follow: it is passed over.
        """
        sentences, found = self.sentences, np.full(len(rows), -1)
        if sentences is None:
            return found
        left = np.flatnonzero(rows >= 0)
        left = left[sentences[rows[left]] > 0]
        found[left] = rows[left] - 1
        while len(left := left[self.lengths(found[left])[0] == 0]):
            found[left] -= np.where(sentences[found[left]] > 0, 1, found[left] + 1)
            left = left[found[left] >= 0]
        return found

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
        return self._corpora[owner].location(line, "source")

    def _words(self, column: str, rows: Rows) -> tuple[npt.NDArray[np.int64], Offsets]:
        assert self.has_links, "encoded without alignments"
        values, offsets = gather(*self._positions[column], rows)
        return values.astype(np.int64), offsets
