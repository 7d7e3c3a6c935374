"""Labelled documents as ids, memory-mapped: tokenized once into the cache, and read by row number."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.schema import DocumentFiltersConfig
from nmt.data.cache.columns import (
    Columns,
    GrowingColumns,
    MappedColumns,
    Mask,
    Ragged,
    Rows,
    gather,
    lengths_of,
    offsets_of,
    write_arrow,
)
from nmt.data.cache.encoding import (
    Chunk,
    CollectionReport,
    encode_chunks,
    encode_ids,
    named,
    read_chunks,
    refuse_empty,
    side_report,
    split_description,
    weighted_rows,
)
from nmt.data.cache.store import Digests, get_or_build
from nmt.data.readers.base import LISTED_LINES, Counts
from nmt.data.readers.labelled import Collection, Document, unknown_label
from nmt.data.sentences import Splitter
from nmt.data.tokenizer import Tokenizer, words_of_spans
from nmt.errors import DataError

FORMAT = 1
"""Part of every fingerprint: raise it if the same text would be encoded or laid out differently."""
LABELS_FORMAT = 1
"""Raise it if other labels would be found in the same files."""
MOST_LABELS = 1 << 16
"""Labels that a model can have at most: the index of each document's label is stored in 16 bits."""
CHUNK_DOCUMENTS = 256

_EMPTY = "without a word"
_FILE = "documents.arrow"

Sentences = list[list[int]]
"""The ids of each sentence of a document; an empty sentence has none."""


@dataclass(frozen=True)
class TokenizedSentence:
    """A sentence as the model reads it, or a part of a long one, with its text."""

    ids: tuple[int, ...]
    words: tuple[str, ...]
    """Parts of the text between spaces."""
    word_of_piece: tuple[int, ...]
    """The word, from 0, of each piece."""

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class DocumentTokenizer:
    """Tokenizes documents for training and for use. Long sentences are split, and documents cut at a limit."""

    tokenizer: Tokenizer
    splitter: Splitter
    max_length: int | None
    """Pieces of a document."""
    max_sentence_length: int
    """Pieces of a sentence."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, language: str, filters: DocumentFiltersConfig) -> DocumentTokenizer:
        """Returns the tokenizer of documents that the config describes."""
        return cls(tokenizer, Splitter(language), filters.max_length, filters.max_sentence_length)

    def encode(self, documents: Sequence[Sequence[str]]) -> list[Sentences]:
        """Returns the ids of documents given as sentences."""
        encoded = iter(self.tokenizer.encode([sentence for sentences in documents for sentence in sentences]))
        return [
            [sentences[number][start:stop] for number, start, stop in self._parts(sentences)]
            for sentences in ([next(encoded) for _ in document] for document in documents)
        ]

    def encode_with_text(self, sentences: Sequence[str]) -> list[TokenizedSentence]:
        """Returns the sentences of one document as `encode` does, with their text."""
        encoded, shown = self.tokenizer.encode(sentences), []
        for number, start, stop in self._parts(encoded):
            text, spans = sentences[number], self.tokenizer.spans(sentences[number])
            assert len(spans) == len(encoded[number]), "a span for every piece"
            # A word that the end of the document cuts is shown as far as its sentence goes on.
            part = slice(start, start + self.max_sentence_length)
            words: list[str] = []
            word_of_piece: list[int] = []
            for _, pieces in groupby(zip(words_of_spans(text, spans)[part], spans[part], strict=True), itemgetter(0)):
                bounds = [span for _, span in pieces]
                word_of_piece += [len(words)] * len(bounds)
                words.append(text.encode()[bounds[0][0] : bounds[-1][1]].decode("utf-8", "replace").strip())
            del word_of_piece[stop - start :]
            del words[word_of_piece[-1] + 1 if word_of_piece else 0 :]
            shown.append(TokenizedSentence(tuple(encoded[number][start:stop]), tuple(words), tuple(word_of_piece)))
        return shown

    def _parts(self, sentences: Sentences) -> Iterator[tuple[int, int, int]]:
        """Yields the parts to read: the number of the sentence, and the first piece and end of the part."""
        left = sys.maxsize if self.max_length is None else self.max_length
        for number, ids in enumerate(sentences):
            if left <= 0:
                break
            length = min(len(ids), left)
            left -= length
            for start in range(0, max(length, 1), self.max_sentence_length):
                yield number, start, min(start + self.max_sentence_length, length)


class EncodedCollection:
    """Labelled documents as ids, by row number. They stay on disk, so memory does not grow with them."""

    def __init__(
        self, collections: Sequence[Collection], file: Path, report: CollectionReport, fingerprint: str
    ) -> None:
        """`collections` are those that the file was built from, in the same order."""
        self.report = replace(report, collections=named(report.collections, collections))
        self.fingerprint = fingerprint
        self._columns = MappedColumns(file)
        self._ids = self._columns.ragged("ids")
        self._lengths = self._columns.ragged("lengths")
        sizes = (each.kept for each in report.collections)
        self.parts = weighted_rows(sizes, (each.weight for each in collections))
        assert self.parts[-1].stop == len(self)

    def __len__(self) -> int:
        return len(self._columns)

    def sizes(self, rows: Rows) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Returns the number of pieces of these documents, and of the longest sentence of each."""
        return lengths_of(self._ids, rows), self._columns.numbers("longest")[rows]

    def labels(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Returns the label of each of these documents, as its index among all."""
        return self._columns.numbers("label")[rows].astype(np.int64)

    def documents(self, rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns all pieces of these documents, the length of each sentence, and the sentences of each document."""
        lengths, offsets = gather(self._lengths, rows, np.int64)
        return gather(self._ids, rows, np.int64).values, lengths, np.diff(offsets)


def encode_collections(
    collections: Sequence[Collection],
    tokenizer: DocumentTokenizer,
    labels: Sequence[str],
    filters: DocumentFiltersConfig,
    cache: Path,
    workers: int,
) -> EncodedCollection:
    """Returns the collections as ids, in this order, from the cache, or tokenizes them into it.

    `workers` is the number of processes that tokenize; 0 for one per core. Raises DataError if a collection cannot be
    read, has an unknown label, nothing of it is left, or the cache cannot be written.
    """
    assert collections

    def describe(digests: Digests) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "documents": digests.of_texts(f"documents, format {FORMAT}", collections),
            "tokenizer": tokenizer.tokenizer.fingerprint,
            "labels": list(labels),
            "filters": filters.model_dump(),
            "splitter": tokenizer.splitter.version if any(each.may_split for each in collections) else None,
        } | split_description(collections)

    build = partial(_build, collections, tokenizer, labels, filters, workers)
    return EncodedCollection(collections, *get_or_build(cache, describe, _FILE, build, CollectionReport))


def known_labels(collections: Sequence[Collection], cache: Path) -> tuple[str, ...]:
    """Returns the labels that occur, in alphabetical order. Unchanged collections are not read again.

    Raises DataError where a collection is empty, or there is one label alone, or too many, or where the cache cannot be
    written.
    """
    digests, labels = Digests(cache), set[str]()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for collection in collections:
            kind = f"labels, format {LABELS_FORMAT} {collection.reading}"
            occurring = json.loads(digests.of(kind, collection.files, partial(_labels_json, collection)))
            if not occurring:
                raise DataError(f"{collection.name}: has no documents")
            labels.update(occurring)
    except OSError as error:
        raise DataError(f"{cache}: the labels cannot be kept there ({error}); see data.cache") from error
    names = ", ".join(collection.name for collection in collections)
    if len(labels) > MOST_LABELS:
        raise DataError(
            f"{names}: {len(labels):,} labels, more than {MOST_LABELS:,}; is this the column of the labels?"
        )
    if len(labels) == 1:
        raise DataError(f"{names}: all documents have the label {labels.pop()!r}; there is nothing to tell apart")
    return tuple(sorted(labels))


def _labels_json(collection: Collection) -> str:
    return json.dumps(sorted({document.label for document in collection}))


def _build(
    collections: Sequence[Collection],
    tokenizer: DocumentTokenizer,
    labels: Sequence[str],
    filters: DocumentFiltersConfig,
    workers: int,
    scratch: Path,
    file: Path,
) -> CollectionReport:
    counts = [Counts(collection.name) for collection in collections]
    label_numbers = {label: number for number, label in enumerate(labels)}
    label_counts = np.zeros(len(labels), np.int64)
    chunks = read_chunks(collections, counts, CHUNK_DOCUMENTS, lambda document: len(document.text))
    growing = GrowingColumns(scratch)
    with closing(encode_chunks(chunks, _encode, tokenizer, workers, " documents")) as encoded:
        for chunk, columns in encoded:
            collection = collections[chunk.text]
            keep = _filter(chunk, columns, collection, counts[chunk.text], filters)
            if unknown := next((each for each in chunk.rows if each.label not in label_numbers), None):
                raise unknown_label(collection.location(unknown.line, "label"), unknown.label, labels)
            numbers = np.asarray([label_numbers[each.label] for each in chunk.rows], np.uint16)
            label_counts += np.bincount(numbers[keep], minlength=len(labels))
            growing.append(Columns({"label": numbers} | columns.flat, columns.ragged), keep)
    refuse_empty(counts, "document")
    columns = growing.mapped()
    write_arrow(file, columns)
    side = side_report(columns.ragged["ids"], tokenizer.tokenizer.unk)
    return CollectionReport(
        collections=tuple(counts),
        labels=dict(zip(labels, label_counts.tolist(), strict=True)),
        sentences=len(columns.ragged["lengths"].values),
        pieces=side.pieces,
        unknown=side.unknown,
        longest=side.longest,
    )


def _encode(chunk: Chunk[Document], tokenizer: DocumentTokenizer) -> Columns:
    """All ids, the length of each sentence, and of the longest sentence of each document."""
    documents = tokenizer.encode([document.sentences(tokenizer.splitter) for document in chunk.rows])
    ids = encode_ids([sentence for sentences in documents for sentence in sentences], tokenizer.tokenizer)
    lengths = np.diff(ids.offsets).astype(np.uint32)
    offsets = offsets_of([len(sentences) for sentences in documents])
    ragged = {"ids": Ragged(ids.values, ids.offsets[offsets]), "lengths": Ragged(lengths, offsets)}
    # Every document has a sentence, if an empty one.
    return Columns({"longest": np.maximum.reduceat(lengths, offsets[:-1]).astype(np.int32)}, ragged)


def _filter(
    chunk: Chunk[Document], columns: Columns, collection: Collection, counts: Counts, filters: DocumentFiltersConfig
) -> Mask:
    """Marks the documents of a chunk to keep, and counts the others."""
    keep = np.diff(columns.ragged["ids"].offsets) > 0
    lines = [chunk.rows[row].line for row in np.flatnonzero(~keep)]
    if lines and filters.empty == "error":
        remedy = "mend it, or set data.filters.empty: drop"
        raise DataError(
            *(f"{collection.location(line, 'text')}: has no word; {remedy}" for line in lines[:LISTED_LINES])
        )
    counts.drop(_EMPTY, lines)
    counts.kept += int(keep.sum())
    return keep
