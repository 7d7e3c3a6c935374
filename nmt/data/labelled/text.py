"""A file of documents and a file of their labels, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nmt.config.schema import ColumnNumber, LabelledDataConfig
from nmt.data.labelled.base import COLLECTIONS, Collection, CollectionOptions, Part, Record
from nmt.data.readers.files import check_files, raw_lines
from nmt.errors import DataError


class TextOptions(CollectionOptions):
    """A file of documents and a file of labels, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["text"] = "text"
    """A file of documents and a file of labels."""
    docs: str
    """File with a document a line, its sentences separated by TAB."""
    labels: str
    """File with, line by line, the label of each document; further columns may follow behind TAB."""
    label_column: ColumnNumber = 1
    """Number of the column of `labels` that holds the label, from 1."""
    split: bool = False
    """Take each line for running text and split it into sentences, instead of at TAB."""


@COLLECTIONS.register("text", TextOptions)
class TextCollection(Collection):
    """A file of documents, their sentences separated by TAB, and a file of labels."""

    def __init__(self, options: TextOptions, data: LabelledDataConfig) -> None:
        super().__init__(options, data)
        self._paths: dict[Part, Path] = {"text": Path(options.docs), "label": Path(options.labels)}
        self._column = options.label_column
        self.may_split = options.split
        self.name = f"{options.docs} / {options.labels}"
        self.files = tuple(self._paths.values())
        check_files(self.files)

    def place(self, line: int, part: Part) -> str:
        return f"{self._paths[part]}:{line}"

    def records(self) -> Iterator[Record]:
        texts, labels = (raw_lines(self._paths[part]) for part in ("text", "label"))
        line = 0
        while True:
            text, label = next(texts, None), next(labels, None)
            if text is None or label is None:
                break
            line += 1
            columns = label.split(b"\t")
            if len(columns) < self._column:
                found = f"{len(columns)} column{'s' if len(columns) > 1 else ''}"
                raise DataError(
                    f"{self.place(line, 'label')}: {found} separated by TAB, but column {self._column} is needed"
                )
            yield Record(line, text, columns[self._column - 1], not self.may_split)
        if text is not None or label is not None:
            counts = [
                line + (last is not None) + sum(1 for _ in rest) for last, rest in ((text, texts), (label, labels))
            ]
            raise DataError(
                f"{self._paths['text']} has {counts[0]} lines and {self._paths['label']} has {counts[1]}; line n of "
                "the labels must belong to line n of the documents"
            )
