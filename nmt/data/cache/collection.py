"""Labelled documents as ids, memory-mapped: tokenized once into the cache, in memory that hardly grows with them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from nmt.config.schema import DocumentFiltersConfig
from nmt.data.cache.columns import FlatColumn, RaggedColumn, arrow_flat, arrow_lists
from nmt.data.cache.digests import Digests
from nmt.data.cache.keeping import kept
from nmt.data.cache.mapped import Lengths, Rows, lengths_of, lists, mapped, numbers, parts_of
from nmt.data.cache.processes import worked
from nmt.data.cache.ragged import BLOCK, Values, blocks_of_lengths, count_equal, flatten, gather, offsets_of
from nmt.data.cache.reading import Reader
from nmt.data.cache.report import CollectionReport, CorpusReport
from nmt.data.cache.tokenization import id_type
from nmt.data.readers.base import Counts
from nmt.data.readers.labelled import Collection, Document, unknown_label
from nmt.errors import DataError

FORMAT = 1
"""Part of every key: raise it when the same text would be encoded differently, or laid out differently."""
EMPTY = "without a word"

_DOCUMENTS = "documents.arrow"
_CHUNK_DOCUMENTS = 256
_CHUNK_CHARACTERS = 1 << 20
_LENGTH = np.uint32


@dataclass(frozen=True)
class _Chunk:
    """Consecutive documents of one collection."""

    collection: int
    documents: list[Document]


@dataclass(frozen=True)
class _EncodedChunk:
    """A chunk as arrays: pieces, and of each sentence their number; of each document the numbers of both."""

    ids: Values
    pieces: npt.NDArray[np.int64]
    lengths: Values
    sentences: npt.NDArray[np.int64]


class EncodedCollection:
    """Labelled documents by row number. All of it stays on disk, so memory does not grow with the documents."""

    def __init__(
        self, arrow: Path, collections: Sequence[Collection], report: CollectionReport, fingerprint: str
    ) -> None:
        """`collections` are those that the file was made from, in the same order."""
        self.report = report.named([collection.name for collection in collections])
        self.fingerprint = fingerprint
        self._batch = mapped(arrow)
        self._ids = lists(self._batch.column("ids"))
        self._lengths = lists(self._batch.column("lengths"))
        self._labels = numbers(self._batch.column("label"))
        self._longest = numbers(self._batch.column("longest"))
        self.parts = parts_of((each.kept for each in report.collections), (each.weight for each in collections))
        assert self.parts[-1].stop == len(self)

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def sizes(self, rows: Rows) -> tuple[Lengths, Lengths]:
        """Pieces of these documents, and of the longest sentence of each."""
        return lengths_of(self._ids[1], rows), self._longest[rows]

    def labels(self, rows: Rows) -> npt.NDArray[np.int64]:
        """The label of each of these documents, as its place among all."""
        return self._labels[rows].astype(np.int64)

    def sentences(self, rows: Rows) -> tuple[Values, Values, npt.NDArray[np.int64]]:
        """Of these documents all pieces, the pieces of each sentence, and the sentences of each document."""
        lengths, offsets = gather(*self._lengths, rows)
        return gather(*self._ids, rows)[0].astype(np.int64), lengths.astype(np.int64), np.diff(offsets)


def encode_collections(
    collections: Sequence[Collection],
    reader: Reader,
    labels: Sequence[str],
    filters: DocumentFiltersConfig,
    cache: Path,
    workers: int,
) -> EncodedCollection:
    """The collections as ids, in this order, from the cache where it has them; else tokenized into it.

    `workers` is the number of processes that tokenize, 0 for one a core.
    Raises DataError where a collection cannot be read, has an unknown label, nothing of it is left, or the cache cannot
    be written.
    """
    assert collections

    def describe(digests: Digests) -> dict[str, Any]:
        described = {
            "format": FORMAT,
            "documents": [
                digests.of(f"documents, format {FORMAT} {each.reading}", each.files, each.fingerprint)
                for each in collections
            ],
            "tokenizer": reader.tokenizer.fingerprint,
            "labels": list(labels),
            "filters": filters.model_dump(),
            "splitter": reader.splitter.version if any(each.may_split for each in collections) else None,
        }
        # All collections have the same split. Without one, the keys are those of before there were splits.
        return described | ({"held_out": collections[0].held_out.fingerprint} if collections[0].held_out else {})

    make = partial(_build, collections, reader, labels, filters, workers)
    documents, report, key = kept(cache, describe, _DOCUMENTS, make, CollectionReport.from_json)
    return EncodedCollection(documents, collections, report, key)


def _build(
    collections: Sequence[Collection],
    reader: Reader,
    labels: Sequence[str],
    filters: DocumentFiltersConfig,
    workers: int,
    scratch: Path,
    arrow: Path,
) -> CollectionReport:
    counts = [Counts() for _ in collections]
    places = {label: place for place, label in enumerate(labels)}
    with ExitStack() as files:
        ids = RaggedColumn(scratch, "ids", id_type(reader.tokenizer), files)
        lengths = RaggedColumn(scratch, "lengths", _LENGTH, files)
        flat = {
            name: FlatColumn(scratch / name, dtype, files)
            for name, dtype in (("label", np.uint16), ("longest", np.int32))
        }
        # Closed at once where a document is refused, because worker processes hang on it.
        stream = files.enter_context(closing(_shown(worked(_chunks(collections, counts), _encode, reader, workers))))
        for chunk, encoded in stream:
            collection = collections[chunk.collection]
            keep = _judge(chunk, encoded, collection, counts[chunk.collection], filters)
            ids.append(encoded.ids, encoded.pieces, keep)
            lengths.append(encoded.lengths, encoded.sentences, keep)
            flat["label"].append(np.asarray([_place(each, collection, places) for each in chunk.documents])[keep])
            flat["longest"].append(_longest(encoded)[keep])
        columns = {"ids": ids.close(), "lengths": lengths.close()}
        values = {name: column.close() for name, column in flat.items()}
    _refuse_empty(collections, counts)
    batch = pa.RecordBatch.from_pydict(
        {name: arrow_lists(*column) for name, column in columns.items()}
        | {name: arrow_flat(column) for name, column in values.items()}
    )
    with pa.OSFile(str(arrow), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    pieces, offsets = columns["ids"]
    return CollectionReport(
        tuple(CorpusReport.of(each.name, count) for each, count in zip(collections, counts, strict=True)),
        labels=dict(zip(labels, _counted(values["label"], len(labels)), strict=True)),
        sentences=len(columns["lengths"][0]),
        pieces=len(pieces),
        unknown=count_equal(pieces, reader.tokenizer.unk),
        longest=max(int(lengths.max()) for lengths in blocks_of_lengths(offsets)),
    )


def _chunks(collections: Sequence[Collection], counts: Sequence[Counts]) -> Iterator[_Chunk]:
    """The documents of the collections, in order, in chunks of bounded size that never span two collections."""
    for index, collection in enumerate(collections):
        chunk, characters = _Chunk(index, []), 0
        for document in collection.read(counts[index]):
            chunk.documents.append(document)
            characters += len(document.text)
            if len(chunk.documents) == _CHUNK_DOCUMENTS or characters >= _CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = _Chunk(index, []), 0
        if chunk.documents:
            yield chunk


def _encode(chunk: _Chunk, reader: Reader) -> _EncodedChunk:
    read = reader.read([document.sentences(reader.splitter) for document in chunk.documents])
    ids, offsets = flatten([sentence for sentences in read for sentence in sentences])
    lengths = np.diff(offsets)
    sentences = np.asarray([len(each) for each in read], np.int64)
    pieces = np.diff(offsets[offsets_of(sentences)])
    return _EncodedChunk(ids.astype(id_type(reader.tokenizer)), pieces, lengths.astype(_LENGTH), sentences)


def _judge(
    chunk: _Chunk, encoded: _EncodedChunk, collection: Collection, counts: Counts, filters: DocumentFiltersConfig
) -> npt.NDArray[np.bool_]:
    """Which documents of a chunk to keep, all decisions counted."""
    keep = encoded.pieces > 0
    lines = [chunk.documents[row].line for row in np.flatnonzero(~keep)]
    if lines and filters.empty == "error":
        remedy = "mend it, or set data.filters.empty: drop"
        raise DataError(*(f"{collection.location(line, 'text')}: has no word; {remedy}" for line in lines[:5]))
    counts.drop(EMPTY, lines)
    counts.kept += int(keep.sum())
    return keep


def _place(document: Document, collection: Collection, places: dict[str, int]) -> int:
    if document.label not in places:
        raise unknown_label(collection.location(document.line, "label"), document.label, list(places))
    return places[document.label]


def _longest(encoded: _EncodedChunk) -> npt.NDArray[np.int32]:
    """Pieces of the longest sentence of each document; every document has a sentence, if an empty one."""
    longest: npt.NDArray[np.int32] = np.maximum.reduceat(encoded.lengths, offsets_of(encoded.sentences)[:-1])
    return longest


def _counted(places: Values, labels: int) -> list[int]:
    """How often each label occurs."""
    counted = np.zeros(labels, np.int64)
    for start in range(0, len(places), BLOCK):
        counted += np.bincount(places[start : start + BLOCK], minlength=labels)
    return counted.tolist()


def _refuse_empty(collections: Sequence[Collection], counts: Sequence[Counts]) -> None:
    problems = []
    for collection, count in zip(collections, counts, strict=True):
        if not count.read:
            problems.append(f"{collection.name}: has no documents")
        elif not count.kept:
            problems.append(f"{collection.name}: none of its {count.read:,} documents has a word")
    if problems:
        raise DataError(*problems)


def _shown(
    encoded: Iterable[tuple[_Chunk, _EncodedChunk]],
) -> Generator[tuple[_Chunk, _EncodedChunk]]:
    # `disable=None` shows the bar on a terminal only.
    with tqdm(desc="tokenizing", unit=" documents", unit_scale=True, disable=None, leave=False) as bar:
        for chunk, arrays in encoded:
            yield chunk, arrays
            bar.update(len(chunk.documents))
