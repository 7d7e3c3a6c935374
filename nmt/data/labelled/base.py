"""A collection of labelled documents, in the order of the file, read again at every pass and never held in memory."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from nmt.config.names import advice
from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import Count, LabelledDataConfig, Positive, Weight
from nmt.data.labelled.sentences import SEPARATOR, Splitter
from nmt.data.readers.counts import Counts
from nmt.data.readers.files import broken_utf8
from nmt.data.readers.held_out import HELD_OUT, HeldOut, SplitOptions
from nmt.errors import DataError

COLLECTIONS: Registry[Collection] = Registry("collection")

MOST_LABELS = 1 << 16
"""Labels that a model can have at most: the cache keeps the number of each document's label in 16 bits."""

Part = Literal["text", "label"]
"""What a labelled document is made of."""


class CollectionOptions(PartOptions):
    """What every kind of collection has."""

    weight: Weight = 1.0
    """How often a document of this collection occurs in an epoch: 2 is twice, 0.5 half of the time, by chance."""
    skip: Count = 0
    """Documents to leave out at the beginning, say those that are the validation collection."""
    limit: Positive | None = None
    """Number of documents to read after those; by default all."""


class Document(NamedTuple):
    """A text and its label."""

    text: str
    """Sentences separated by TAB, or running text."""
    is_split: bool
    """Whether TAB separates the sentences."""
    label: str
    line: int
    """Line of the file, counted from 1."""

    def sentences(self, splitter: Splitter) -> list[str]:
        """The sentences as they are given, or as the text is split: one at least, which may be blank."""
        return self.text.split(SEPARATOR) if self.is_split else splitter.split(self.text) or [""]


class Record(NamedTuple):
    """A document as it lies in the file: bytes that should be UTF-8, without the line's end."""

    line: int
    text: bytes
    label: bytes
    is_split: bool


class Collection(ABC):
    """Base of all kinds: streaming, limits, broken UTF-8, labels, the fingerprint. A kind only finds the records."""

    name: str
    """What messages call it: the paths."""
    files: Sequence[Path]
    """All files that the records are read from."""
    reading: str
    """How the files are read: what the documents depend on besides them."""
    may_split: bool
    """Whether some of its text comes without sentence boundaries."""

    def __init__(self, options: CollectionOptions, data: LabelledDataConfig) -> None:
        self.weight = options.weight
        self.skip = options.skip
        self.limit = options.limit
        self.held_out: HeldOut | None = None
        self._broken_utf8 = data.filters.broken_utf8
        self.reading = f"{options.model_dump_json(exclude={'weight'})} broken_utf8: {self._broken_utf8}"

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """All records in order, from the beginning at every call.

        Raises DataError, naming file and line, where there is no record to be had.
        """

    def place(self, line: int, part: Part) -> str:
        """Where a part of a document lies, for messages."""
        return f"{self.name}:{line}"

    def __iter__(self) -> Iterator[Document]:
        return self.documents(Counts())

    def documents(self, counts: Counts) -> Iterator[Document]:
        """Yields the documents in order, without those that are held out for validation.

        `counts` learns how many were read, and which were dropped and why.
        Raises DataError, naming file and line, when the text is damaged or a label is missing.
        """
        for record in self._limited():
            counts.read += 1
            try:
                text, label = record.text.decode(), record.label.decode().strip()
            except UnicodeDecodeError as error:
                if self._broken_utf8 == "error":
                    part: Part = "text" if error.object == record.text else "label"
                    remedy = "mend it, or set data.filters.broken_utf8: drop"
                    raise DataError(f"{broken_utf8(self.place(record.line, part), error)}; {remedy}") from error
                counts.drop("not UTF-8", self.name, record.line)
                continue
            if not label:
                raise DataError(f"{self.place(record.line, 'label')}: no label; give the document one, or take it out")
            if one_line(label) != label:
                raise DataError(
                    f"{self.place(record.line, 'label')}: the label {label!r} has a line break or TAB in it"
                )
            if self.held_out is not None and self.held_out.has(text):
                counts.drop(HELD_OUT, self.name, record.line)
                continue
            yield Document(text, record.is_split, label, record.line)

    def labels(self) -> set[str]:
        """The labels that occur. Reads the text once."""
        return {document.label for document in self}

    def fingerprint(self) -> str:
        """SHA-256 of the records that are read, in hexadecimal; the same in every format. Reads the text once."""
        digest = hashlib.sha256()
        for record in self._limited():
            digest.update(b"%d %d %d " % (record.is_split, len(record.text), len(record.label)))
            digest.update(record.text)
            digest.update(record.label)
        return digest.hexdigest()

    def _limited(self) -> Iterator[Record]:
        end = None if self.limit is None else self.skip + self.limit
        return islice(self.records(), self.skip, end)


@COLLECTIONS.register("split", SplitOptions)
def _open_split(options: SplitOptions, data: LabelledDataConfig) -> Collection:
    """Documents taken from the training text, for `data.validation` alone."""
    raise DataError(f"split: {options.split}: the documents are known in a training run alone; name a file here")


def one_line(label: str) -> str:
    """Returns the label with a space for every line break and TAB, so that it fits into a column of a file."""
    return " ".join(label.replace("\t", " ").splitlines())


def open_collection(options: PartOptions, data: LabelledDataConfig) -> Collection:
    """The collection that the options describe.

    Checks what is cheap to check: that files and columns are there, and what splits text. Raises DataError.
    """
    collection = COLLECTIONS.build(options, data)
    if collection.may_split:
        Splitter(data.language).check(collection.name)
    return collection


def open_collections(options: Sequence[PartOptions], data: LabelledDataConfig) -> list[Collection]:
    """Several collections; what is wrong with any of them is raised as one DataError, a line for each mistake."""
    collections: list[Collection] = []
    problems: list[str] = []
    for each in options:
        try:
            collections.append(open_collection(each, data))
        except DataError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise DataError(*problems)
    return collections


def labels_of(
    collections: Sequence[Collection], read: Callable[[Collection], Iterable[str]] = Collection.labels
) -> tuple[str, ...]:
    """The labels that occur, in alphabetical order; `read` finds those of a collection.

    Raises DataError where there is nothing to tell apart.
    """
    labels: set[str] = set()
    for collection in collections:
        found = set(read(collection))
        if not found:
            raise DataError(f"{collection.name}: has no documents")
        labels |= found
    names = ", ".join(collection.name for collection in collections)
    if len(labels) > MOST_LABELS:
        raise DataError(
            f"{names}: {len(labels):,} labels, more than {MOST_LABELS:,}; is this the column of the labels?"
        )
    if len(labels) == 1:
        raise DataError(f"{names}: all documents have the label {labels.pop()!r}; there is nothing to tell apart")
    return tuple(sorted(labels))


def unknown_label(place: str, label: str, labels: Sequence[str]) -> DataError:
    """The mistake of a label that the model does not know."""
    return DataError(f"{place}: the label {label!r} does not occur in the training text; {advice(label, labels)}")
