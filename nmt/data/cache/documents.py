"""Documents in the cache: which rows belong together, and which of them are pairs to learn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmt.data.cache.columns import FlatColumn, Mask
from nmt.data.cache.ragged import Values
from nmt.data.cache.report import DocumentsReport
from nmt.data.cache.tokenization import Chunk, EncodedChunk

PAIR, SENTENCE = "pair", "sentence"
COLUMNS: Mapping[str, type[np.generic]] = {PAIR: np.uint8, SENTENCE: np.int32}
"""Of the cache: whether a row is a pair, 1 or 0, and its place in its document, counted from 0."""

_BLOCK_ROWS = 1 << 18


class Documents:
    """Follows documents through all corpora; a pair of a corpus that has none is a document by itself."""

    def __init__(self) -> None:
        self._here = (-1, -1)
        self._sentences = 0

    @staticmethod
    def stay(chunk: Chunk, encoded: EncodedChunk, pairs: Mask) -> Mask:
        """The rows that stay: the pairs, and whatever a document says in the source language."""
        return pairs if chunk.documents is None else pairs | (encoded.source.lengths > 0)

    def sentences(self, chunk: Chunk, keep: Mask) -> npt.NDArray[np.int64]:
        """The places in their documents of the rows that stay; the chunks come in order."""
        count = int(np.count_nonzero(keep))
        if chunk.documents is None or not count:
            return np.zeros(count, np.int64)
        documents = np.asarray(chunk.documents, np.int64)[keep]
        corpus, document = self._here
        begins = np.diff(documents, prepend=document if corpus == chunk.corpus else -1) != 0
        rows = np.arange(count)
        # What goes on from the chunk before began there.
        places = rows - np.maximum.accumulate(np.where(begins, rows, -self._sentences))
        self._here, self._sentences = (chunk.corpus, int(documents[-1])), int(places[-1]) + 1
        return places


def leave_out(rows: Mask, pairs: Values, documented: Mask, owners: Values, path: Path) -> Values:
    """The pairs among which those not marked are none any longer; `path` is where the column goes.

    Of corpora with documents all rows are marked then, because these rows stay.
    """
    with ExitStack() as files:
        column = FlatColumn(path, pairs.dtype, files)
        for block in _blocks(len(pairs)):
            column.append(pairs[block] * rows[block])
            rows[block] |= documented[owners[block]]
        return column.close()


def documents_report(sentences: Values, pairs: Values) -> DocumentsReport:
    """What there is to say of the documents."""
    count = longest = kept = 0
    for block in _blocks(len(sentences)):
        count += int(np.count_nonzero(sentences[block] == 0))
        longest = max(longest, int(sentences[block].max()) + 1)
        kept += int(np.count_nonzero(pairs[block]))
    return DocumentsReport(count, len(sentences), longest, len(sentences) - kept)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS))
