"""Tab-separated columns, one of which is the text and another the label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nmt.config.schema import LabelledDataConfig
from nmt.data.labelled.base import COLLECTIONS, Collection, CollectionOptions, Record
from nmt.data.readers.files import raw_lines
from nmt.data.readers.tables import Column, find_column, warn_of_header
from nmt.errors import DataError

TEXT_NAMES = frozenset({"text", "document", "sentence", "review", "content"})
LABEL_NAMES = frozenset({"label", "class", "category", "sentiment", "target"})
"""What headers call the columns."""


class TsvOptions(CollectionOptions):
    """A file of tab-separated columns, plain or compressed. Quotes are text like any other."""

    kind: Literal["tsv"] = "tsv"
    """Columns separated by tabs."""
    path: str
    """The file."""
    text_column: Column = "text"
    """Column of the text, which is split into sentences: its number, from 1, or its name; a name makes the first line
    a header."""
    label_column: Column = "label"
    """Column of the label: its number, from 1, or its name; a name makes the first line a header."""


@COLLECTIONS.register("tsv", TsvOptions)
class TsvCollection(Collection):
    """Tab-separated columns, one of which is the text and another the label."""

    may_split = True

    def __init__(self, options: TsvOptions, data: LabelledDataConfig) -> None:
        super().__init__(options, data)
        self.name = options.path
        self._path = Path(options.path)
        self.files = (self._path,)
        wanted = (options.text_column, options.label_column)
        self._has_header = any(isinstance(column, str) for column in wanted)
        header = next(raw_lines(self._path), b"").decode("utf-8", "replace").split("\t")
        self._text, self._label = (find_column(column, header, self._path) for column in wanted)
        if not self._has_header:
            warn_of_header(self._path, header, (self._text, self._label), (TEXT_NAMES, LABEL_NAMES))

    def records(self) -> Iterator[Record]:
        needed = max(self._text, self._label) + 1
        for line, row in enumerate(raw_lines(self._path), start=1):
            if line == 1 and self._has_header:
                continue
            columns = row.split(b"\t")
            if len(columns) < needed:
                found = f"{len(columns)} column{'s' if len(columns) > 1 else ''}"
                raise DataError(f"{self._path}:{line}: {found} separated by tabs, but column {needed} is needed")
            yield Record(line, columns[self._text], columns[self._label], is_split=False)
