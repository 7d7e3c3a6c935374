"""Documents in the cache: which rows belong together, and which of them are pairs to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.text.encoded.ragged import Values
from nmt.text.encoded.report import DocumentsReport
from nmt.text.encoded.tokenization import Chunk, EncodedChunk

PAIR, DOCUMENT = "pair", "document"
COLUMNS: Mapping[str, type[np.generic]] = {PAIR: np.uint8, DOCUMENT: np.int64}
"""Of the cache: whether a row is a pair, 1 or 0, and the number of its document, ascending from row to row."""


class Documents:
    """Numbers documents through all corpora; a pair of a corpus that has none is a document by itself."""

    def __init__(self) -> None:
        self._corpus = -1
        self._before = 0
        self._next = 0

    def numbers(self, chunk: Chunk) -> npt.NDArray[np.int64]:
        """The number of each pair's document; the chunks come in order."""
        if chunk.corpus != self._corpus:
            self._corpus, self._before = chunk.corpus, self._next
        if chunk.documents is None:
            numbers = self._next + np.arange(len(chunk.lines))
        else:
            numbers = self._before + np.asarray(chunk.documents, np.int64)
        self._next = int(numbers[-1]) + 1
        return numbers

    @staticmethod
    def stay(chunk: Chunk, encoded: EncodedChunk, pairs: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The rows that stay: the pairs, and whatever a document says in the source language."""
        return pairs if chunk.documents is None else pairs | (encoded.source.lengths > 0)


def first_rows(documents: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The first row of the document that each row belongs to."""
    begins = np.flatnonzero(np.diff(documents, prepend=-1))
    return np.repeat(begins, np.diff(begins, append=len(documents)))


def documents_report(documents: Values, pairs: Values) -> DocumentsReport:
    """What there is to say of the documents."""
    begins = np.flatnonzero(np.diff(documents, prepend=-1))
    sizes = np.diff(begins, append=len(documents))
    alone = len(pairs) - int(np.count_nonzero(pairs))
    return DocumentsReport(len(begins), len(documents), int(sizes.max(initial=0)), alone)
