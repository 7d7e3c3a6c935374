"""Tab-separated columns, two of which are the sides."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Literal

from nmt.config.schema import ColumnNumber, DataConfig
from nmt.data.readers.base import CORPORA, Corpus, CorpusOptions, Record, of_record
from nmt.data.readers.files import raw_lines
from nmt.errors import DataError

_log = logging.getLogger(__name__)

SOURCE_NAMES = frozenset({"source", "src", "source_text", "source_sentence", "source sentence", "original"})
TARGET_NAMES = frozenset({"target", "tgt", "trg", "target_text", "target_sentence", "target sentence", "translation"})
"""What headers call the columns, besides the codes of the languages."""

Column = ColumnNumber | str


def find_column(column: Column, header: list[str], path: Path) -> int:
    """The place, from 0, of a column of this file; raises DataError where the header has no such name, or several."""
    if isinstance(column, int):
        return column - 1
    if header.count(column) != 1:
        count = "no column" if column not in header else "more than one column"
        raise DataError(f"{path}:1: {count} {column!r}; the header has {', '.join(map(repr, header))}")
    return header.index(column)


def warn_of_header(path: Path, header: list[str], columns: Sequence[int], names: Sequence[Container[str]]) -> None:
    """Logs a warning where the first line, which is read as text, has one of its `names` in each of the columns."""
    cells = [header[column].strip() if column < len(header) else "" for column in columns]
    if all(cell.casefold() in known for cell, known in zip(cells, names, strict=True)):
        _log.warning(
            "%s:1: looks like a header (%s), but is read as text; give columns by these names instead of numbers",
            path,
            ", ".join(map(repr, cells)),
        )


class TsvOptions(CorpusOptions):
    """A file of tab-separated columns, plain or compressed. Quotes are text like any other."""

    kind: Literal["tsv"] = "tsv"
    """Columns separated by tabs."""
    path: str
    """The file."""
    source_column: Column = 1
    """Column of the source sentence: its number, from 1, or its name; a name makes the first line a header."""
    target_column: Column = 2
    """Column of the target sentence: its number, from 1, or its name; a name makes the first line a header."""
    alignments_column: Column | None = None
    """Column of the word alignment, such as `0-0 2-1`, for `training.guided_alignment`: its number, from 1, or name."""

    documents_column: Column | None = None
    """Column that names the document, its number, from 1, or its name: lines of one document follow each other, in
    order, and have the same."""

    @property
    def has_alignments(self) -> bool:
        return self.alignments_column is not None

    @property
    def has_documents(self) -> bool:
        return self.documents_column is not None


@CORPORA.register("tsv", TsvOptions)
class TsvCorpus(Corpus):
    """Tab-separated columns, two of which are the sides."""

    def __init__(self, options: TsvOptions, data: DataConfig) -> None:
        super().__init__(options, data)
        self.name = options.path
        self._path = Path(options.path)
        self.files = (self._path,)
        wanted = of_record(
            options.source_column, options.target_column, options.alignments_column, options.documents_column
        )
        self._has_header = any(isinstance(column, str) for column in wanted.values())
        header = next(raw_lines(self._path), b"").decode("utf-8", "replace").split("\t")
        self._columns = {text: find_column(column, header, self._path) for text, column in wanted.items()}
        if not self._has_header:
            names = (SOURCE_NAMES | {data.source_language}, TARGET_NAMES | {data.target_language})
            warn_of_header(self._path, header, (self._columns["source"], self._columns["target"]), names)

    def records(self) -> Iterator[Record]:
        needed = max(self._columns.values()) + 1
        for line, text in enumerate(raw_lines(self._path), start=1):
            if line == 1 and self._has_header:
                continue
            columns = text.split(b"\t")
            if len(columns) < needed:
                found = f"{len(columns)} column{'s' if len(columns) > 1 else ''}"
                raise DataError(f"{self._path}:{line}: {found} separated by tabs, but column {needed} is needed")
            yield Record(line, **{text: columns[index] for text, index in self._columns.items()})
