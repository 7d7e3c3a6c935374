"""One JSON object a line, one field of which is the text and another the label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nmt.config.schema import LabelledDataConfig
from nmt.data.labelled.base import COLLECTIONS, Collection, CollectionOptions, Record
from nmt.data.labelled.sentences import SEPARATOR
from nmt.data.readers.files import check_file, raw_lines
from nmt.data.readers.jsonlines import field_of
from nmt.errors import DataError


class JsonLinesOptions(CollectionOptions):
    """A file with one JSON object a line, plain or compressed."""

    kind: Literal["jsonl"] = "jsonl"
    """JSON lines."""
    path: str
    """The file."""
    text: str = "text"
    """Field of the text: a string, which is split into sentences, or a list of sentences; a field inside a field by
    its dotted name."""
    label: str = "label"
    """Field of the label, a string or a whole number; or its dotted name."""


@COLLECTIONS.register("jsonl", JsonLinesOptions)
class JsonLinesCollection(Collection):
    """One JSON object a line, one field of which is the text and another the label."""

    def __init__(self, options: JsonLinesOptions, data: LabelledDataConfig) -> None:
        super().__init__(options, data)
        self.name = options.path
        self._path = Path(options.path)
        self.files = (self._path,)
        self._text = options.text
        self._label = options.label
        check_file(self._path)
        # Files are of one kind as a rule: what the first line needs is asked for before anything is read.
        first = next(self.records(), None)
        self.may_split = first is not None and not first.is_split

    def records(self) -> Iterator[Record]:
        for line, row in enumerate(raw_lines(self._path), start=1):
            place = f"{self._path}:{line}"
            try:
                # Bytes that are not UTF-8 travel as surrogates, so that the policy for them looks at the fields alone.
                value = json.loads(row.decode("utf-8", "surrogateescape"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not JSON ({error})") from error
            text, label = field_of(value, self._text, place), field_of(value, self._label, place)
            if isinstance(label, int) and not isinstance(label, bool):
                label = str(label)
            if not isinstance(label, str):
                raise DataError(f"{place}: field {self._label!r} is {_kind(label)}, not a string or a whole number")
            is_split = isinstance(text, list)
            if isinstance(text, list) and all(isinstance(sentence, str) for sentence in text):
                text = SEPARATOR.join(sentence.replace(SEPARATOR, " ") for sentence in text)
            if not isinstance(text, str):
                raise DataError(f"{place}: field {self._text!r} is {_kind(text)}, not a string or a list of strings")
            yield Record(line, _bytes(text), _bytes(label), is_split)


def _bytes(text: str) -> bytes:
    # JSON can spell a lone surrogate, which no UTF-8 text holds: as bytes it counts as broken UTF-8.
    return text.encode("utf-8", "surrogatepass")


def _kind(value: object) -> str:
    return "null" if value is None else "a list of other things" if isinstance(value, list) else type(value).__name__
