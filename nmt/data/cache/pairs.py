"""Corpora as ids, memory-mapped: tokenized once into the cache, and read by row number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.schema import FiltersConfig
from nmt.data.cache.columns import MappedColumns, Mask, Ragged, Rows, gather, lengths_of, previous_rows
from nmt.data.cache.encoding import EncodingReport, WeightedRows, named, split_description, weighted_rows
from nmt.data.cache.pair_encoding import IS_PAIR, LINKS, POSITION, build_pairs
from nmt.data.cache.store import Digests, get_or_build, lookup
from nmt.data.readers.corpora import Corpus
from nmt.data.tokenizer import TokenizerPair

FORMAT = 1
"""Part of every fingerprint: raise it if the same text would be encoded or laid out differently."""
_FILE = "pairs.arrow"


class EncodedPairs:
    """Pairs of sentences as ids, by row number. They stay on disk, so memory does not grow with them.

    Every row is a pair to train on, except those that the filters drop from a document: they stay as context. The rows
    of a document are consecutive.
    """

    def __init__(self, file: Path) -> None:
        self._columns = MappedColumns(file)
        self._source = self._columns.ragged("source")
        self._target = self._columns.ragged("target")

    def __len__(self) -> int:
        return len(self._columns)

    def lengths(self, rows: Rows) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Returns the source and target lengths of these rows in pieces, without end symbols."""
        return lengths_of(self._source, rows), lengths_of(self._target, rows)

    def source(self, rows: Rows) -> Ragged:
        """Returns the source ids of these rows, int32, without end symbols."""
        return gather(self._source, rows, np.int32)

    def target(self, rows: Rows) -> Ragged:
        """Returns the target ids of these rows, int32, without end symbols."""
        return gather(self._target, rows, np.int32)

    def is_pair(self, rows: Rows) -> Mask:
        """Marks those of these rows that are pairs to train on."""
        if IS_PAIR not in self._columns:
            return np.ones(len(rows), np.bool_)
        return self._columns.numbers(IS_PAIR)[rows].astype(np.bool_)

    def parts_with(self, weights: Sequence[float]) -> list[WeightedRows]:
        """Returns the rows of each corpus in order; `weights` has one for each corpus."""
        stops = np.searchsorted(self._columns.numbers("corpus"), np.arange(len(weights)), side="right")
        parts = weighted_rows(np.diff(stops, prepend=0).tolist(), weights)
        assert parts[-1].stop == len(self), "a weight for each corpus"
        return parts


class EncodedCorpus(EncodedPairs):
    """The pairs of corpora, with their links, documents, text and report."""

    def __init__(self, corpora: Sequence[Corpus], file: Path, report: EncodingReport, fingerprint: str) -> None:
        """`corpora` are those that the file was built from, in the same order."""
        super().__init__(file)
        self.report = replace(report, corpora=named(report.corpora, corpora))
        self.fingerprint = fingerprint
        self.parts = self.parts_with([corpus.weight for corpus in corpora])
        self.has_links = LINKS in self._columns
        self.has_text = "source_text" in self._columns
        self._corpora = corpora

    @property
    def document_positions(self) -> npt.NDArray[np.int32] | None:
        """The position of each row in its document, from 0; None without documents."""
        return self._columns.numbers(POSITION) if POSITION in self._columns else None

    def previous_rows(self, rows: Rows) -> Rows:
        """Returns the row with source pieces before each of these in its document; -1 if there is none, and for -1."""
        positions = self.document_positions
        if positions is None:
            return np.full(len(rows), -1)
        return previous_rows(rows, positions, partial(lengths_of, self._source))

    def words(self, column: str, rows: Rows) -> Ragged:
        """Returns a column of word links for these pairs, which were encoded with alignments."""
        return gather(self._columns.ragged(column), rows, np.int64)

    def text(self, rows: Rows) -> tuple[list[str], list[str]]:
        """Returns the source and target sentences of these rows, if the text was kept."""
        assert self.has_text, "encoded without keep_text"
        return self._columns.texts("source_text", rows), self._columns.texts("target_text", rows)

    def location(self, row: int) -> str:
        """Returns file and line of a row's source sentence, for messages."""
        corpus = self._corpora[int(self._columns.numbers("corpus")[row])]
        return corpus.location(int(self._columns.numbers("line")[row]), "source")


def encode_corpora(
    corpora: Sequence[Corpus],
    tokenizers: TokenizerPair,
    filters: FiltersConfig | None,
    cache: Path,
    workers: int,
    keep_text: bool,
) -> EncodedCorpus:
    """Returns the corpora as ids, in this order, from the cache, or tokenizes them into it.

    If several processes ask for the same corpora, one encodes them and the others wait.

    Args:
        filters: None keeps every pair, including empty sides.
        workers: number of processes that tokenize; 0 for one per core.
        keep_text: keep the sentences as well, for subword regularisation and augmentation.

    Raises DataError if a corpus cannot be read, nothing of it is left, or the cache cannot be written.
    """
    assert corpora

    def describe(digests: Digests) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "corpora": digests.of_texts(f"format {FORMAT}", corpora),
            "tokenizers": [tokenizers.source.fingerprint, tokenizers.target.fingerprint],
            "filters": None if filters is None else filters.piece_rules,
            "text": keep_text,
        } | split_description(corpora)

    build = partial(build_pairs, corpora, tokenizers, filters, workers, keep_text)
    return EncodedCorpus(corpora, *get_or_build(cache, describe, _FILE, build, EncodingReport))


def lookup_pairs(cache: Path, fingerprint: str) -> EncodedPairs | None:
    """Returns the pairs of an `EncodedCorpus` with this fingerprint; None if the cache does not have them."""
    file = lookup(cache, fingerprint, _FILE, EncodingReport)
    return None if file is None else EncodedPairs(file)
