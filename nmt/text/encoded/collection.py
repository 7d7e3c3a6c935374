"""Labelled documents as ids, memory-mapped: tokenized once into the cache, in memory that hardly grows with them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from nmt.config.schema import DocumentFilters
from nmt.errors import DataError
from nmt.text.corpus.counts import Counts
from nmt.text.encoded.columns import FlatColumn, RaggedColumn, arrow_flat, arrow_lists
from nmt.text.encoded.keeping import kept, key_of
from nmt.text.encoded.processes import worked
from nmt.text.encoded.ragged import Offsets, Values, count_equal, flatten, gather, offsets_of
from nmt.text.encoded.reading import Reader
from nmt.text.encoded.report import CollectionReport, CorpusReport
from nmt.text.encoded.tokenization import id_type
from nmt.text.labelled import Collection, Document, unknown_label

FORMAT = 1
"""Part of every key: raise it when the same text would be encoded differently, or laid out differently."""
EMPTY = "without a word"

_DOCUMENTS = "documents.arrow"
_REPORT = "report.json"
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
    """Labelled documents by row number. The ids stay on disk; in memory are 14 bytes a document."""

    def __init__(
        self, arrow: Path, collections: Sequence[Collection], report: CollectionReport, fingerprint: str
    ) -> None:
        """`collections` are those that the file was made from, in the same order."""
        self.report = report.named([collection.name for collection in collections])
        self.fingerprint = fingerprint
        with pa.memory_map(str(arrow)) as file, pa.ipc.open_stream(file) as stream:
            # One batch, so every column is one contiguous array that numpy can look at without a copy.
            batch = stream.read_next_batch()
        self._ids = _ragged(batch.column("ids"))
        self._lengths = _ragged(batch.column("lengths"))
        self.labels: npt.NDArray[np.uint16] = batch.column("label").to_numpy()
        """The label of each document, as its place among all."""
        self.words = np.diff(self._ids[1]).astype(np.int32)
        """Pieces of each document."""
        self.longest: npt.NDArray[np.int32] = batch.column("longest").to_numpy()
        """Pieces of the longest sentence of each document."""
        weights = np.asarray([collection.weight for collection in collections], np.float32)
        self.weights = weights[batch.column("collection").to_numpy()]

    def __len__(self) -> int:
        return len(self.words)

    def sentences(self, rows: npt.NDArray[np.integer[Any]]) -> tuple[Values, Values, npt.NDArray[np.int64]]:
        """Of these documents all pieces, the pieces of each sentence, and the sentences of each document."""
        lengths, offsets = gather(*self._lengths, rows)
        return gather(*self._ids, rows)[0].astype(np.int64), lengths.astype(np.int64), np.diff(offsets)


def encode_collections(
    collections: Sequence[Collection],
    reader: Reader,
    labels: Sequence[str],
    filters: DocumentFilters,
    cache: Path,
    workers: int,
) -> EncodedCollection:
    """The collections as ids, in this order, from the cache where it has them; else tokenized into it.

    `workers` is the number of processes that tokenize, 0 for one a core.
    Raises DataError where a collection cannot be read, has an unknown label, nothing of it is left, or the cache cannot
    be written.
    """

    def make(folder: Path, scratch: Path) -> None:
        report = _build(collections, reader, labels, filters, workers, scratch, folder / _DOCUMENTS)
        (folder / _REPORT).write_text(report.to_json(), encoding="utf-8")

    key = key_of(
        {
            "format": FORMAT,
            "documents": [collection.fingerprint() for collection in collections],
            "tokenizer": reader.tokenizer.fingerprint,
            "labels": list(labels),
            "filters": filters.model_dump(),
            "splitter": reader.splitter.version if any(each.may_split for each in collections) else None,
        }
    )
    folder = kept(cache, key, (_DOCUMENTS, _REPORT), make)
    report = CollectionReport.from_json((folder / _REPORT).read_text(encoding="utf-8"))
    return EncodedCollection(folder / _DOCUMENTS, collections, report, key)


def _build(
    collections: Sequence[Collection],
    reader: Reader,
    labels: Sequence[str],
    filters: DocumentFilters,
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
            for name, dtype in (("label", np.uint16), ("longest", np.int32), ("collection", np.uint16))
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
            flat["collection"].append(np.full(keep.sum(), chunk.collection))
        columns = {"ids": ids.close(), "lengths": lengths.close()}
        values = {name: column.close() for name, column in flat.items()}
    _refuse_empty(collections, counts)
    batch = pa.RecordBatch.from_pydict(
        {name: arrow_lists(*column) for name, column in columns.items()}
        | {name: arrow_flat(column) for name, column in values.items()}
    )
    with pa.OSFile(str(arrow), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    named = zip(labels, np.bincount(values["label"], minlength=len(labels)).tolist(), strict=True)
    pieces = columns["ids"][0]
    return CollectionReport(
        tuple(CorpusReport.of(each.name, count) for each, count in zip(collections, counts, strict=True)),
        labels=dict(named),
        sentences=len(columns["lengths"][0]),
        pieces=len(pieces),
        unknown=count_equal(pieces, reader.tokenizer.unk),
        longest=int(np.diff(columns["ids"][1]).max()),
    )


def _chunks(collections: Sequence[Collection], counts: Sequence[Counts]) -> Iterator[_Chunk]:
    """The documents of the collections, in order, in chunks of bounded size that never span two collections."""
    for index, collection in enumerate(collections):
        chunk, characters = _Chunk(index, []), 0
        for document in collection.documents(counts[index]):
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
    chunk: _Chunk, encoded: _EncodedChunk, collection: Collection, counts: Counts, filters: DocumentFilters
) -> npt.NDArray[np.bool_]:
    """Which documents of a chunk to keep, all decisions counted."""
    keep = encoded.pieces > 0
    lines = [chunk.documents[row].line for row in np.flatnonzero(~keep)]
    if lines and filters.empty == "error":
        remedy = "mend it, or set data.filters.empty: drop"
        raise DataError(*(f"{collection.place(line, 'text')}: has no word; {remedy}" for line in lines[:5]))
    for line in lines:
        counts.drop(EMPTY, collection.name, line)
    counts.kept += int(keep.sum())
    return keep


def _place(document: Document, collection: Collection, places: dict[str, int]) -> int:
    if document.label not in places:
        raise unknown_label(collection.place(document.line, "label"), document.label, list(places))
    return places[document.label]


def _longest(encoded: _EncodedChunk) -> npt.NDArray[np.int32]:
    """Pieces of the longest sentence of each document; every document has a sentence, if an empty one."""
    longest: npt.NDArray[np.int32] = np.maximum.reduceat(encoded.lengths, offsets_of(encoded.sentences)[:-1])
    return longest


def _refuse_empty(collections: Sequence[Collection], counts: Sequence[Counts]) -> None:
    problems = []
    for collection, count in zip(collections, counts, strict=True):
        if not count.read:
            problems.append(f"{collection.name}: has no documents")
        elif not count.kept:
            problems.append(f"{collection.name}: none of its {count.read:,} documents has a word")
    if problems:
        raise DataError(*problems)


def _ragged(column: pa.LargeListArray) -> tuple[Values, Offsets]:
    return column.values.to_numpy(), column.offsets.to_numpy()


def _shown(
    encoded: Iterable[tuple[_Chunk, _EncodedChunk]],
) -> Generator[tuple[_Chunk, _EncodedChunk]]:
    # `disable=None` shows the bar on a terminal only.
    with tqdm(desc="tokenizing", unit=" documents", unit_scale=True, disable=None, leave=False) as bar:
        for chunk, arrays in encoded:
            yield chunk, arrays
            bar.update(len(chunk.documents))
