"""A parallel corpus: aligned sentences in the order of the text, read again at every pass and never held in memory."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import DataConfig, Positive, Weight
from nmt.data.readers.counts import Counts
from nmt.data.readers.files import broken_utf8
from nmt.data.readers.held_out import HELD_OUT, HeldOut, SplitOptions
from nmt.errors import DataError

CORPORA: Registry[Corpus] = Registry("corpus")

Text = Literal["source", "target", "alignment", "document"]
"""What a record is made of."""


class CorpusOptions(PartOptions):
    """What every kind of corpus has."""

    weight: Weight = 1.0
    """How often a pair of this corpus occurs in an epoch: 2 is twice, 0.5 half of the time, by chance."""
    limit: Positive | None = None
    """Number of pairs to read, from the beginning; by default all."""

    @property
    def has_alignments(self) -> bool:
        """Whether the pairs come with word alignments."""
        raise AssertionError("a kind knows where its alignments are")

    @property
    def has_documents(self) -> bool:
        """Whether the pairs are the sentences of documents, in order."""
        raise AssertionError("a kind knows where its documents begin")


class Pair(NamedTuple):
    """A sentence and its translation; either side may be empty."""

    source: str
    target: str
    line: int
    """Line of the file, or row of the table, counted from 1."""
    alignment: str | None = None
    """Links between the words that spaces separate, counted from 0, in the Pharaoh format, such as `0-0 2-1`; blank
    where nothing is linked, None where the corpus has no alignments."""
    document: int | None = None
    """Number of the document that the pair belongs to, counted from 0 in the corpus; None where it has no documents."""


class Record(NamedTuple):
    """A pair as it lies in the file: bytes that should be UTF-8, without the line's end."""

    line: int
    source: bytes
    target: bytes
    alignment: bytes | None = None
    document: bytes | None = None
    """What its document is called: a document ends where the next record has another name for its own."""


Where = TypeVar("Where")


def of_record(
    source: Where, target: Where, alignment: Where | None = None, document: Where | None = None
) -> dict[Text, Where]:
    """Where each part of a record is found, for those that there are."""
    places: dict[Text, Where | None] = {
        "source": source,
        "target": target,
        "alignment": alignment,
        "document": document,
    }
    return {text: where for text, where in places.items() if where is not None}


class Corpus(ABC):
    """Base of all kinds: streaming, limits, broken UTF-8, the fingerprint. A kind only says how records are found."""

    name: str
    """What messages call it: the paths, or the name of the data set."""
    files: Sequence[Path] = ()
    """All files that the records are read from; none where that cannot be told."""
    reading: str
    """How the files are read: what the records depend on besides them."""

    def __init__(self, options: CorpusOptions, data: DataConfig) -> None:
        self.weight = options.weight
        self.limit = options.limit
        self.has_alignments = options.has_alignments
        self.has_documents = options.has_documents
        self.reading = options.model_dump_json(exclude={"weight"})
        self.held_out: HeldOut | None = None
        self._broken_utf8 = data.filters.broken_utf8

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """All records in order, from the beginning at every call.

        Raises DataError, naming file and line, where there is no record to be had.
        """

    def place(self, line: int, text: Text) -> str:
        """Where a text of a record lies, for messages."""
        return f"{self.name}:{line}"

    def __iter__(self) -> Iterator[Pair]:
        return self.pairs(Counts())

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yields the pairs in order, without those that are held out for validation.

        `counts` learns how many were read, and which were dropped and why.
        Raises DataError, naming file and line, when the text is damaged.
        """
        for record, document in self._limited():
            counts.read += 1
            try:
                alignment = None if record.alignment is None else record.alignment.decode()
                pair = Pair(record.source.decode(), record.target.decode(), record.line, alignment, document)
            except UnicodeDecodeError as error:
                if self._broken_utf8 == "error":
                    raise DataError(self._explain(record, error)) from error
                counts.drop("not UTF-8", self.name, record.line)
                continue
            if self.held_out is not None and self._is_held_out(pair, self.held_out):
                counts.drop(HELD_OUT, self.name, record.line)
                continue
            yield pair

    @staticmethod
    def _is_held_out(pair: Pair, held_out: HeldOut) -> bool:
        # A sentence that is held out stays in another document as context; it is left out as a pair when it is encoded.
        return held_out.has(pair.source) if pair.document is None else pair.document in held_out.documents

    def fingerprint(self) -> str:
        """SHA-256 of the records up to the limit, in hexadecimal; the same text has the same one in every format.

        Reads the text once.
        """
        digest = hashlib.sha256()
        for record, document in self._limited():
            # The length before each side keeps ("ab", "c") apart from ("a", "bc").
            digest.update(b"%d %d " % (len(record.source), len(record.target)))
            digest.update(record.source)
            digest.update(record.target)
            if record.alignment is not None:
                # No digit comes first, as in what begins the next record.
                digest.update(b"links %d " % len(record.alignment))
                digest.update(record.alignment)
            if document is not None:
                digest.update(b"document %d " % document)
        return digest.hexdigest()

    def _limited(self) -> Iterator[tuple[Record, int | None]]:
        """The records up to the limit, each with the number of its document."""
        number, name = -1, None
        for record in islice(self.records(), self.limit):
            if record.document != name:
                number, name = number + 1, record.document
            yield record, None if name is None else number

    def _explain(self, record: Record, error: UnicodeDecodeError) -> str:
        texts: dict[Text, bytes | None] = {"source": record.source, "target": record.target}
        text: Text = next((name for name, content in texts.items() if error.object == content), "alignment")
        remedy = "mend it, or set data.filters.broken_utf8: drop"
        return f"{broken_utf8(self.place(record.line, text), error)}; {remedy}"


@CORPORA.register("split", SplitOptions)
def _open_split(options: SplitOptions, data: DataConfig) -> Corpus:
    """Pairs taken from the training text, for `data.validation` alone."""
    raise DataError(f"split: {options.split}: the pairs are known in a training run alone; name a file here")


def open_corpus(options: PartOptions, data: DataConfig) -> Corpus:
    """The corpus that the options describe.

    Checks what is cheap to check: that files exist and columns are there. Raises DataError.
    """
    return CORPORA.build(options, data)


def open_corpora(options: Sequence[PartOptions], data: DataConfig) -> list[Corpus]:
    """Several corpora; what is wrong with any of them is raised as one DataError, a line for each mistake."""
    corpora: list[Corpus] = []
    problems: list[str] = []
    for each in options:
        try:
            corpora.append(open_corpus(each, data))
        except DataError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise DataError(*problems)
    return corpora
