"""Formats with one record a line: aligned text files, tab-separated columns, JSON lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nmt.config.schema import ColumnNumber
from nmt.data.readers import base
from nmt.data.readers.files import check_file, raw_lines
from nmt.errors import DataError, counted, try_each

_log = logging.getLogger(__name__)

TableColumn = ColumnNumber | str
"""A column's number, from 1, or its name in the header."""
HEADER_NAMES: Mapping[base.FieldName, frozenset[str]] = {
    "source": frozenset({"source", "src", "source_text", "source_sentence", "source sentence", "original"}),
    "target": frozenset({"target", "tgt", "trg", "target_text", "target_sentence", "target sentence", "translation"}),
    "text": frozenset({"text", "document", "sentence", "review", "content"}),
    "label": frozenset({"label", "class", "category", "sentiment", "target"}),
}
"""Usual names of columns in headers, besides the codes of the languages."""


class AlignedReader(base.RecordReader):
    """Text files that are aligned line by line, one for each field."""

    def __init__(self, names: base.TextOfFields, unit: str, files: Sequence[Path] | None = None) -> None:
        """`names` are the paths of the files, unless they are inside of `files`; `unit` is a record's in messages."""
        self._names = names
        self._unit = unit
        self.name = " / ".join(list(names.values())[:2])
        self.files = tuple(map(Path, names.values())) if files is None else tuple(files)
        try_each(check_file, dict.fromkeys(self.files))

    def location(self, line: int, field: base.FieldName) -> str:
        return f"{self._names[field]}:{line}"

    def records(self) -> Iterator[base.Record]:
        try:
            for number, lines in enumerate(zip(*map(self._lines, self._names), strict=True), start=1):
                yield base.Record(number, dict(zip(self._names, lines, strict=True)))
        except ValueError as error:
            first, *others = (f"{name} has {sum(1 for _ in self._lines(field))}" for field, name in self._names.items())
            raise DataError(
                f"{first} lines and {' and '.join(others)}; line n of each must belong to the same {self._unit}"
            ) from error

    def _lines(self, field: base.FieldName) -> Iterator[bytes]:
        return raw_lines(Path(self._names[field]))


class TsvReader(base.FileReader):
    """Tab-separated columns. A column that is given by its name makes the first line a header."""

    def __init__(self, options: base.FileOptions, languages: base.TextOfFields) -> None:
        super().__init__(options, languages)
        (path,) = self.files
        self._has_header = any(isinstance(column, str) for column in self._columns.values())
        header = next(raw_lines(path), b"").decode("utf-8", "replace").split("\t")
        self._indices = {field: _column_index(column, header, path) for field, column in self._columns.items()}
        columns = {field: index for field, index in self._indices.items() if field in HEADER_NAMES}
        names = {field: header[index].strip() if index < len(header) else "" for field, index in columns.items()}
        if not self._has_header and all(
            name.casefold() in HEADER_NAMES[field] | {languages.get(field)} for field, name in names.items()
        ):
            _log.warning(
                "%s:1: looks like a header (%s), but is read as text; give columns by these names instead of numbers",
                path,
                ", ".join(map(repr, names.values())),
            )

    def records(self) -> Iterator[base.Record]:
        for number, line in enumerate(raw_lines(self.files[0]), start=1):
            if number > 1 or not self._has_header:
                yield base.Record(number, split_columns(line, self._indices, f"{self.files[0]}:{number}"))


def _column_index(column: TableColumn, header: list[str], path: Path) -> int:
    """The index of a column, from 0; raises DataError where the header has no such name, or several."""
    if isinstance(column, int):
        return column - 1
    if header.count(column) != 1:
        problem = "no column" if column not in header else "more than one column"
        raise DataError(f"{path}:1: {problem} {column!r}; the header has {', '.join(map(repr, header))}")
    return header.index(column)


def split_columns(line: bytes, indices: Mapping[base.FieldName, int], location: str) -> dict[base.FieldName, bytes]:
    """Returns the columns of a line that TAB separates, by index. Raises DataError where one is missing."""
    cells = line.split(b"\t")
    needed = max(indices.values()) + 1
    if len(cells) < needed:
        raise DataError(f"{location}: {counted(len(cells), 'column')} separated by tabs, but column {needed} is needed")
    return {field: cells[index] for field, index in indices.items()}


class JsonLinesReader(base.FileReader):
    """One JSON object a line. A field inside a field is given by its dotted name."""

    def records(self) -> Iterator[base.Record]:
        for number, line in enumerate(raw_lines(self.files[0]), start=1):
            location = f"{self.files[0]}:{number}"
            try:
                # Bytes that are not UTF-8 become surrogates here and bytes again below, so that the policy for broken
                # UTF-8 applies to the fields that are read and not to the rest of the object.
                row = json.loads(line.decode("utf-8", "surrogateescape"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{location}: not JSON ({error})") from error
            objects = {field: _json_field(row, name, location) for field, name in self._columns.items()}
            values = {field: self._encode(value, field, location) for field, value in objects.items()}
            yield base.Record(number, values, isinstance(objects.get("text"), list))

    def _encode(self, value: object, field: base.FieldName, location: str) -> bytes:
        if field in base.NUMERIC_FIELDS and type(value) is int:
            value = str(value)
        is_list = field in base.LIST_FIELDS and isinstance(value, list)
        if isinstance(value, list) and is_list and all(isinstance(sentence, str) for sentence in value):
            value = base.SENTENCE_SEPARATOR.join(sentence.replace(base.SENTENCE_SEPARATOR, " ") for sentence in value)
        if not isinstance(value, str):
            kind = "null" if value is None else "a list of other things" if is_list else type(value).__name__
            number = " or a whole number" if field in base.NUMERIC_FIELDS else ""
            sentences = " or a list of strings" if field in base.LIST_FIELDS else ""
            raise DataError(f"{location}: field {self._columns[field]!r} is {kind}, not a string{number}{sentences}")
        # JSON can spell a lone surrogate, which no UTF-8 text holds: as bytes it counts as broken UTF-8.
        return value.encode("utf-8", "surrogatepass")


def _json_field(row: object, name: str, location: str) -> object:
    """The field of a JSON object by its name or its dotted name; raises DataError where there is none."""
    value = row
    for key in (name,) if isinstance(row, dict) and name in row else name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise DataError(f"{location}: no field {name!r}")
        value = value[key]
    return value
