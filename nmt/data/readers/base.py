"""Records of named fields, and the streams of examples made of them: pairs of sentences and labelled documents."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, NoReturn, TypeVar

from nmt.config.registry import PartOptions
from nmt.config.schema import Count, Positive, Weight
from nmt.data.readers.files import broken_utf8_message, check_file
from nmt.errors import DataError, counted

FieldName = Literal["source", "target", "alignment", "document", "text", "label"]
TextOfFields = Mapping[FieldName, str]
NUMERIC_FIELDS: frozenset[FieldName] = frozenset({"document", "label"})
"""Fields that may be whole numbers where a format has numbers."""
LIST_FIELDS: frozenset[FieldName] = frozenset({"text"})
"""Fields that may be lists of sentences where a format has lists."""

SENTENCE_SEPARATOR = "\t"
"""Separates the sentences of a document that was split already."""
HELD_OUT = "held out for validation"
LISTED_LINES = 5
"""Lines that a report lists for each reason to leave examples out."""

Example = TypeVar("Example")


class Record(NamedTuple):
    """A line of a file or a row of a table: bytes that should be UTF-8, without the line's end."""

    line: int
    """Counted from 1."""
    values: dict[FieldName, bytes]
    is_split: bool = False
    """Whether the text is a list of sentences; TAB separates them."""
    document: int | None = None
    """Number of the document that a pair belongs to, counted from 0; None where the corpus has no documents."""
    left_out: str | None = None
    """Reason for which a sentence of a document is no pair to train on. It stays as context of others."""


class SourceOptions(PartOptions):
    """Options of every kind of corpus and collection."""

    keys: ClassVar[TextOfFields]
    """The option that gives the column, name or file of each field."""
    weight: Weight = 1.0
    """How often a pair or document occurs in an epoch: 2 is twice, 0.5 half of the time, by chance."""
    limit: Positive | None = None
    """Number of pairs or documents to read, from the beginning; by default all."""

    def columns(self) -> dict[FieldName, Any]:
        """Returns the column, name or file of each field that has one."""
        columns = {name: getattr(self, key) for name, key in self.keys.items()}
        return {name: column for name, column in columns.items() if column is not None}


class FileOptions(SourceOptions):
    """Options of every kind that is one file."""

    path: str
    """The file. Text may be compressed: .gz, .bz2, .xz, .zst."""


class RecordReader(ABC):
    """Reads the records of one format. Its constructor raises DataError where files or columns are missing."""

    name: str
    """The paths, or the name of the data set, for messages."""
    files: Sequence[Path] = ()
    """All files that the records are read from; empty where they are not known."""

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yields all records, from the beginning at every call; raises DataError, naming file and line, for damage."""

    def location(self, line: int, field: FieldName) -> str:
        """Returns the file and line of a field, for messages."""
        return f"{self.name}:{line}"


class FileReader(RecordReader):
    """Reads the records of one file."""

    def __init__(self, options: FileOptions, languages: TextOfFields) -> None:
        self.name = options.path
        self.files = (Path(options.path),)
        self._columns: dict[FieldName, Any] = options.columns()
        check_file(self.files[0])


@dataclass(frozen=True)
class Dropped:
    """Examples of one source that were left out for one reason."""

    count: int
    lines: tuple[int, ...]
    """The first `LISTED_LINES` of them."""

    def __str__(self) -> str:
        if not self.lines:
            return f"{self.count:,}"
        more = ", ..." if self.count > len(self.lines) else ""
        word = "line" if self.count == 1 else "lines"
        return f"{self.count:,} ({word} {', '.join(map(str, self.lines))}{more})"


@dataclass
class Counts:
    """Counts of a pass over a corpus or collection, which its user completes so that `read == kept + dropped_total`."""

    name: str = ""
    read: int = 0
    kept: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def drop(self, reason: str, lines: Sequence[int]) -> None:
        """Counts the examples of these lines as left out; `reason` is a short phrase, such as `empty side`."""
        if len(lines):
            before = self.dropped.get(reason, Dropped(0, ()))
            listed = before.lines + tuple(int(line) for line in lines[: LISTED_LINES - len(before.lines)])
            self.dropped[reason] = Dropped(before.count + len(lines), listed)

    @property
    def dropped_total(self) -> int:
        return sum(dropped.count for dropped in self.dropped.values())

    def dropped_text(self) -> str:
        """Returns for example `too long 3 (lines 17, 40, 41), empty 1 (line 5)`; empty if nothing was dropped."""
        return ", ".join(f"{reason} {dropped}" for reason, dropped in self.dropped.items())

    def line(self, unit: str) -> str:
        """Returns a line for the log; `unit` names a row in the singular."""
        left_out = f"; left out: {self.dropped_text()}" if self.dropped else ""
        return f"{self.name}: {counted(self.read, unit)} read, {self.kept:,} kept{left_out}"


class SplitOptions(PartOptions):
    """Validation text that is taken from the training text, for `data.validation` alone."""

    kind: Literal["split"] = "split"
    split: Positive
    """Number of pairs, or of labelled documents, drawn from all of `data.train`, at most half of it. No other source
    sentence like theirs stays in the training text. Corpora with `documents` give whole documents, up to this number of
    pairs or a few more."""
    seed: Count = 1
    """Seed of the draw. The same text and seed give the same split."""


def refuse_split(options: SplitOptions, data: object) -> NoReturn:
    """Taken from the training text, for `data.validation` alone."""
    raise DataError(f"split: {options.split}: the text is known in a training run alone; name a file here")


def text_key(text: str, seed: int) -> int:
    """Returns 64 random bits for a text and a seed. Unicode's spelling (NFKC) and spacing make no difference."""
    normal = unicodedata.normalize("NFKC", " ".join(text.split()))
    return int.from_bytes(hashlib.blake2b(f"{seed} {normal}".encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class HeldOut:
    """The text of a corpus or collection that is held out of training."""

    fingerprint: str
    """Of the whole split."""
    seed: int
    texts: frozenset[int]
    """The keys of the source sentences, or of the labelled documents, of the whole split."""
    documents: frozenset[int] = frozenset()
    """The numbers of the documents of this corpus that are held out."""

    def has(self, text: str) -> bool:
        """Whether a text like this is held out."""
        return text_key(text, self.seed) in self.texts

    def has_record(self, record: Record, values: Mapping[FieldName, str]) -> bool:
        """Whether an example is held out; of a sentence in a document, whether its document is.

        Another document keeps a sentence like those held out as context; the encoding leaves it out as a pair.
        """
        if record.document is not None:
            return record.document in self.documents
        return self.has(values["source"] if "source" in values else values["text"])


@dataclass(frozen=True)
class LeftOut:
    """The examples of a corpus that rules on its text leave out, in a file of JSON lines."""

    fingerprint: str
    """Of the examples that are left out of all corpora."""
    file: Path
    start: int
    """Position of the corpus in the file, in bytes."""
    count: int

    def reasons(self) -> Iterator[str | None]:
        """Yields, for every record that is UTF-8, the reason to leave it out, or None. Never ends."""
        number = 0
        with self.file.open("rb") as file:
            file.seek(self.start)
            for line in islice(file, self.count):
                row = json.loads(line)
                yield from repeat(None, row["number"] - number)
                yield row["reason"]
                number = row["number"] + 1
        yield from repeat(None)


class ExampleSource(ABC, Generic[Example]):
    """Examples in the order of the text. They are read anew at every pass, so that memory does not grow with them."""

    skip = 0
    """Records to leave out at the beginning."""

    def __init__(self, options: SourceOptions, reader: RecordReader, broken_utf8: Literal["error", "drop"]) -> None:
        self.name = reader.name
        self.files = reader.files
        self.location = reader.location
        self.weight = options.weight
        self.limit = options.limit
        self.reading = f"{options.model_dump_json(exclude={'weight'})} broken_utf8: {broken_utf8}"
        """Everything that the examples depend on besides the files."""
        self.held_out: HeldOut | None = None
        self.left_out: LeftOut | None = None
        self._reader = reader
        self._broken_utf8 = broken_utf8

    def __iter__(self) -> Iterator[Example]:
        return self.read(Counts())

    def read(self, counts: Counts) -> Iterator[Example]:
        """Yields the examples in order, without those that are held out for validation or left out.

        Adds what is read and dropped to `counts`. Raises DataError, naming file and line, where the text is damaged.
        """
        reasons = repeat(None) if self.left_out is None else self.left_out.reasons()
        for record in self._records():
            counts.read += 1
            try:
                values = {name: value.decode() for name, value in record.values.items()}
            except UnicodeDecodeError as error:
                if self._broken_utf8 == "drop":
                    counts.drop("not UTF-8", (record.line,))
                    continue
                broken = next(name for name, value in record.values.items() if value == error.object)
                message = broken_utf8_message(self.location(record.line, broken), error)
                raise DataError(f"{message}; mend it, or set data.filters.broken_utf8: drop") from error
            reason = next(reasons)
            if self.held_out is not None and self.held_out.has_record(record, values):
                counts.drop(HELD_OUT, (record.line,))
            elif reason is not None and record.document is None:
                counts.drop(reason, (record.line,))
            else:
                yield self._example(record._replace(left_out=reason) if reason else record, values)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the records in hexadecimal, the same one in every format. Reads the text once."""
        digest = hashlib.sha256()
        for record in self._records():
            digest.update(self._content(record))
        return digest.hexdigest()

    def _records(self) -> Iterator[Record]:
        """The records after `skip`, up to the limit."""
        return islice(self._reader.records(), self.skip, None if self.limit is None else self.skip + self.limit)

    @abstractmethod
    def _example(self, record: Record, values: dict[FieldName, str]) -> Example: ...

    @abstractmethod
    def _content(self, record: Record) -> bytes:
        """The record as bytes, different ones for different records."""
