"""Collections of labelled documents, from records of every format, and their sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar, Literal, NamedTuple

from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import ColumnNumber, Count, LabelledDataConfig
from nmt.config.wording import advice
from nmt.data.readers import base
from nmt.data.readers.arrow import HuggingFaceOptions, HuggingFaceReader, ParquetReader
from nmt.data.readers.line_formats import AlignedReader, JsonLinesReader, TableColumn, TsvReader, split_columns
from nmt.data.sentences import Splitter
from nmt.errors import DataError


class CollectionOptions(base.SourceOptions):
    """Options of every kind of collection."""

    keys: ClassVar[base.TextOfFields] = {"text": "text", "label": "label"}
    skip: Count = 0
    """Documents to leave out at the beginning, say those that are the validation collection, before `limit` counts."""


class DocumentFieldOptions(CollectionOptions):
    """Names of the fields of a labelled document."""

    text: str = "text"
    """Column or field of the text, which is split into sentences, or of a list of sentences; or its dotted name."""
    label: str = "label"
    """Column or field of the label, text or a whole number; or its dotted name."""


class TextDocumentOptions(CollectionOptions):
    """A file of documents, their sentences separated by TAB, and a file of labels; plain or .gz, .bz2, .xz, .zst."""

    keys: ClassVar[base.TextOfFields] = {"text": "docs", "label": "labels"}
    kind: Literal["text"] = "text"
    docs: str
    """File with a document a line, its sentences separated by TAB."""
    labels: str
    """File with, line by line, the label of each document; further columns may follow behind TAB."""
    label_column: ColumnNumber = 1
    """Number of the column of `labels` that holds the label, from 1."""
    split: bool = False
    """Take each line for running text and split it into sentences, instead of at TAB."""


class TsvDocumentOptions(CollectionOptions, base.FileOptions):
    """Tab-separated columns, one of which is the text and another the label; quotes are text like any other."""

    keys: ClassVar[base.TextOfFields] = {"text": "text_column", "label": "label_column"}
    kind: Literal["tsv"] = "tsv"
    text_column: TableColumn = "text"
    """Column of the text, which is split into sentences: its number, from 1, or its name; a name makes the first line
    a header."""
    label_column: TableColumn = "label"
    """Column of the label: its number, from 1, or its name; a name makes the first line a header."""


class JsonDocumentOptions(DocumentFieldOptions, base.FileOptions):
    """One JSON object a line, one field of which is the text and another the label."""

    kind: Literal["jsonl"] = "jsonl"


class ParquetDocumentOptions(DocumentFieldOptions, base.FileOptions):
    """A Parquet file, one column of which is the text and another the label."""

    kind: Literal["parquet"] = "parquet"


class HuggingFaceDocumentOptions(HuggingFaceOptions, DocumentFieldOptions):
    """A Hugging Face data set: from the hub, from a folder it was saved to, or from local files."""


class Document(NamedTuple):
    """A text and its label."""

    text: str
    """Sentences separated by TAB, or running text."""
    is_split: bool
    """Whether TAB separates the sentences."""
    label: str
    line: int
    """Line of the file, or row of the table, counted from 1."""

    def sentences(self, splitter: Splitter) -> list[str]:
        """Returns the sentences as they are given, or as the text is split: one at least, which may be blank."""
        return self.text.split(base.SENTENCE_SEPARATOR) if self.is_split else splitter.split(self.text) or [""]


class Collection(base.ExampleSource[Document]):
    """A collection of labelled documents."""

    def __init__(
        self, reader: Callable[..., base.RecordReader], options: CollectionOptions, data: LabelledDataConfig
    ) -> None:
        super().__init__(options, reader(options, {}), data.filters.broken_utf8)
        self.skip = options.skip
        # Records of one file are alike as a rule.
        first = next(self._reader.records(), None)
        self.may_split = first is not None and not first.is_split
        """Whether some of the text comes without sentence boundaries."""

    def _example(self, record: base.Record, values: dict[base.FieldName, str]) -> Document:
        label = values["label"].strip()
        location = self.location(record.line, "label")
        if not label:
            raise DataError(f"{location}: no label; give the document one, or take it out")
        if one_line(label) != label:
            raise DataError(f"{location}: the label {label!r} has a line break or TAB in it")
        return Document(values["text"], record.is_split, label, record.line)

    def _content(self, record: base.Record) -> bytes:
        text, label = record.values["text"], record.values["label"]
        return b"%d %d %d " % (record.is_split, len(text), len(label)) + text + label


class TextDocumentReader(AlignedReader):
    """A file of documents and a file of their labels, aligned line by line."""

    def __init__(self, options: TextDocumentOptions, languages: base.TextOfFields) -> None:
        super().__init__(options.columns(), "document")
        self._label: dict[base.FieldName, int] = {"label": options.label_column - 1}
        self._is_split = not options.split

    def records(self) -> Iterator[base.Record]:
        for line, values, *_ in super().records():
            label = split_columns(values["label"], self._label, self.location(line, "label"))
            yield base.Record(line, values | label, self._is_split)


COLLECTIONS: Registry[Collection] = Registry("collection")
COLLECTIONS.register("split", base.SplitOptions)(base.refuse_split)
COLLECTIONS.register("huggingface", HuggingFaceDocumentOptions)(partial(Collection, HuggingFaceReader))
COLLECTIONS.register("jsonl", JsonDocumentOptions)(partial(Collection, JsonLinesReader))
COLLECTIONS.register("parquet", ParquetDocumentOptions)(partial(Collection, ParquetReader))
COLLECTIONS.register("tsv", TsvDocumentOptions)(partial(Collection, TsvReader))
COLLECTIONS.register("text", TextDocumentOptions)(partial(Collection, TextDocumentReader))


def one_line(label: str) -> str:
    """Returns the label with a space for every line break and TAB, so that it fits into a column of a file."""
    return " ".join(label.replace("\t", " ").splitlines())


def open_collection(options: PartOptions, data: LabelledDataConfig) -> Collection:
    """Opens a collection; raises DataError for missing files or columns, and for the package that splits text."""
    collection = COLLECTIONS.build(options, data)
    if collection.may_split:
        Splitter(data.language).check(collection.name)
    return collection


def unknown_label(location: str, label: str, labels: Sequence[str]) -> DataError:
    """Returns the error for a label that the model does not know."""
    return DataError(f"{location}: the label {label!r} does not occur in the training text; {advice(label, labels)}")
