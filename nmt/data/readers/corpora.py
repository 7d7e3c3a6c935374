"""Parallel corpora: pairs of a sentence and its translation, from records of every format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, Literal, NamedTuple

from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import DataConfig
from nmt.data.readers import base
from nmt.data.readers.arrow import HuggingFaceOptions, HuggingFaceReader, ParquetReader
from nmt.data.readers.exchange_formats import OpusReader, TmxReader
from nmt.data.readers.line_formats import AlignedReader, JsonLinesReader, TableColumn, TsvReader
from nmt.errors import DataError

BLANK_LINES = "blank_lines"


class CorpusOptions(base.SourceOptions):
    """Options of every kind of corpus."""

    keys: ClassVar[base.TextOfFields] = {
        "source": "source",
        "target": "target",
        "alignment": "alignments",
        "document": "documents",
    }

    @property
    def has_alignments(self) -> bool:
        """Whether the pairs come with word alignments."""
        return "alignment" in self.columns()

    @property
    def has_documents(self) -> bool:
        """Whether the pairs are the sentences of documents, in order."""
        return "document" in self.columns()


class PairFieldOptions(CorpusOptions):
    """Names of the fields of a pair."""

    source: str
    """Column or field of the source sentence; one inside another by its dotted name, such as `translation.de`."""
    target: str
    """Column or field of the target sentence, or its dotted name."""
    alignments: str | None = None
    """Column or field of the word alignment, such as `0-0 2-1`, for `training.guided_alignment`."""
    documents: str | None = None
    """Column or field that names the document, text or a whole number, or its dotted name: records of one document
    follow each other, in order, and have the same."""


class TextPairOptions(PairFieldOptions):
    """Two text files, aligned line by line; plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["text"] = "text"
    source: str
    """File in the source language, one sentence a line."""
    target: str
    """File in the target language, line by line the translation of `source`."""
    alignments: str | None = None
    """File of word alignments in the Pharaoh format, line by line those of the pair, for `training.guided_alignment`:
    `0-0 2-1` links the first words and the third source word with the second target word, words being what spaces
    separate in the files as they stand; a blank line links nothing."""
    documents: str | None = None
    """Where documents end: `blank_lines`, at lines that are blank in both files, which are no pairs; or a file that
    names the document of each line, up to the first tab: lines of one document follow each other, in order."""


class TsvPairOptions(CorpusOptions, base.FileOptions):
    """Tab-separated columns, two of which are the sides; quotes are text like any other."""

    keys: ClassVar[base.TextOfFields] = {field: f"{key}_column" for field, key in CorpusOptions.keys.items()}
    kind: Literal["tsv"] = "tsv"
    source_column: TableColumn = 1
    """Column of the source sentence: its number, from 1, or its name; a name makes the first line a header."""
    target_column: TableColumn = 2
    """Column of the target sentence: its number, from 1, or its name; a name makes the first line a header."""
    alignments_column: TableColumn | None = None
    """Column of the word alignment, such as `0-0 2-1`, for `training.guided_alignment`: its number, from 1, or name."""
    documents_column: TableColumn | None = None
    """Column that names the document, its number, from 1, or its name: lines of one document follow each other, in
    order, and have the same."""


class JsonPairOptions(PairFieldOptions, base.FileOptions):
    """One JSON object a line, two fields of which are the sides."""

    kind: Literal["jsonl"] = "jsonl"


class ParquetPairOptions(PairFieldOptions, base.FileOptions):
    """A Parquet file, two columns of which are the sides."""

    kind: Literal["parquet"] = "parquet"


class HuggingFacePairOptions(HuggingFaceOptions, PairFieldOptions):
    """A Hugging Face data set: from the hub, from a folder it was saved to, or from local files."""

    source: str | None = None  # type: ignore[assignment]
    """Column of the source sentence, or its dotted name inside a column; by default the source language's code."""
    target: str | None = None  # type: ignore[assignment]
    """Column of the target sentence, or its dotted name inside a column; by default the target language's code."""


class LanguageFileOptions(CorpusOptions, base.FileOptions):
    """Codes of the two languages in a file that may have others."""

    keys: ClassVar[base.TextOfFields] = {"source": "source", "target": "target"}
    source: str | None = None
    """Code of the source language in the file, such as `de`, which also stands for `de-AT`; by default that of
    `data.source_language`."""
    target: str | None = None
    """Code of the target language in the file; by default that of `data.target_language`."""


class TmxPairOptions(LanguageFileOptions):
    """A translation memory (TMX); plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["tmx"] = "tmx"


class OpusPairOptions(LanguageFileOptions):
    """A zip file of opus.nlpl.eu in the Moses format, such as `de-en.txt.zip`, as it was downloaded."""

    kind: Literal["opus"] = "opus"
    path: str
    """The zip file."""
    source: str | None = None
    """Ending of the name of the file inside with the source side, such as `de`; by default `data.source_language`."""
    target: str | None = None
    """Ending of the name of the file inside with the target side; by default `data.target_language`."""


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
    left_out: str | None = None
    """Reason for which a sentence of a document is no pair to train on."""


class Corpus(base.ExampleSource[Pair]):
    """A parallel corpus."""

    def __init__(self, reader: Callable[..., base.RecordReader], options: CorpusOptions, data: DataConfig) -> None:
        languages: base.TextOfFields = {"source": data.source_language, "target": data.target_language}
        super().__init__(options, reader(options, languages), data.filters.broken_utf8)
        self.has_alignments = options.has_alignments
        self.has_documents = options.has_documents

    def _records(self) -> Iterator[base.Record]:
        """The records with the numbers of their documents: one ends where the next record names another document."""
        number, name = -1, None
        for record in super()._records():
            document = record.values.pop("document", None)
            if document is None:
                yield record
                continue
            if document != name:
                number, name = number + 1, document
            yield record._replace(document=number)

    def _example(self, record: base.Record, values: dict[base.FieldName, str]) -> Pair:
        source, target, alignment = values["source"], values["target"], values.get("alignment")
        return Pair(source, target, record.line, alignment, record.document, record.left_out)

    def _content(self, record: base.Record) -> bytes:
        source, target, alignment = record.values["source"], record.values["target"], record.values.get("alignment")
        # The lengths keep ("ab", "c") apart from ("a", "bc"); links begin with a letter, the next record with a digit.
        content = b"%d %d " % (len(source), len(target)) + source + target
        if alignment is not None:
            content += b"links %d " % len(alignment) + alignment
        if record.document is not None:
            content += b"document %d " % record.document
        return content


class TextPairReader(AlignedReader):
    """Two text files, and those of alignments and documents, aligned line by line."""

    def __init__(self, options: TextPairOptions, languages: base.TextOfFields) -> None:
        paths = options.columns()
        if options.documents == BLANK_LINES:
            del paths["document"]
        super().__init__(paths, "pair")
        self._splits_at_blank_lines = options.documents == BLANK_LINES

    def records(self) -> Iterator[base.Record]:
        last_blank = 0
        for record in super().records():
            if self._splits_at_blank_lines:
                if self._is_blank(record):
                    last_blank = record.line
                    continue
                record.values["document"] = b"%d" % last_blank
            elif "document" in record.values:
                # Further columns may follow the document's name.
                record.values["document"] = name = record.values["document"].partition(b"\t")[0].strip()
                if not name:
                    location = self.location(record.line, "document")
                    raise DataError(f"{location}: names no document; every line names its own")
            yield record

    def _is_blank(self, record: base.Record) -> bool:
        """Whether the record ends a document; raises DataError where only a part of it is blank."""
        blank = {field: not value.strip() for field, value in record.values.items()}
        if blank["source"] != blank["target"]:
            sides: list[base.FieldName] = ["source", "target"]
            here, there = sides if blank["source"] else reversed(sides)
            raise DataError(
                f"{self.location(record.line, here)}: is blank, which ends a document, but the {there} is not; "
                "blank lines stand at the same lines of both files"
            )
        if blank["source"] and not all(blank.values()):
            raise DataError(
                f"{self.location(record.line, 'alignment')}: links words where the text is blank, which ends a "
                "document; leave the line blank"
            )
        return blank["source"]


CORPORA: Registry[Corpus] = Registry("corpus")
CORPORA.register("split", base.SplitOptions)(base.refuse_split)
CORPORA.register("huggingface", HuggingFacePairOptions)(partial(Corpus, HuggingFaceReader))
CORPORA.register("jsonl", JsonPairOptions)(partial(Corpus, JsonLinesReader))
CORPORA.register("opus", OpusPairOptions)(partial(Corpus, OpusReader))
CORPORA.register("parquet", ParquetPairOptions)(partial(Corpus, ParquetReader))
CORPORA.register("tmx", TmxPairOptions)(partial(Corpus, TmxReader))
CORPORA.register("tsv", TsvPairOptions)(partial(Corpus, TsvReader))
CORPORA.register("text", TextPairOptions)(partial(Corpus, TextPairReader))


def open_corpus(options: PartOptions, data: DataConfig) -> Corpus:
    """Returns the corpus that the options describe. Raises DataError for files or columns that are missing."""
    return CORPORA.build(options, data)
