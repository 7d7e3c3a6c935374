"""Columns of Arrow tables, which Parquet files and Hugging Face data sets share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from nmt.data.readers.base import Record, Text
from nmt.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096


def check_columns(schema: pa.Schema, columns: Mapping[Text, str], origin: str) -> None:
    """Raise a DataError unless the columns, or the fields of struct columns by their dotted names, hold what they
    should: text, and of documents text or whole numbers."""
    for text, name in columns.items():
        _check_column(schema, name, origin, or_whole=text == "document")


def _check_column(schema: pa.Schema, name: str, origin: str, *, or_whole: bool) -> None:
    import pyarrow as pa

    try:
        kind = _resolve(schema, name)
    except KeyError:
        raise DataError(f"{origin}: no column {name!r}; there are {', '.join(map(repr, schema.names))}") from None
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary]
    if or_whole:
        checks.append(pa.types.is_integer)
    if not any(check(value) for check in checks):
        raise DataError(f"{origin}: column {name!r} is {kind}, not text{' or whole numbers' if or_whole else ''}")


def has_column(schema: pa.Schema, name: str) -> bool:
    """Whether there is such a column, or such a field of a struct column."""
    try:
        _resolve(schema, name)
    except KeyError:
        return False
    return True


def _resolve(schema: pa.Schema, name: str) -> pa.DataType:
    import pyarrow as pa

    if name in schema.names:
        return schema.field(name).type
    outer, *inner = name.split(".")
    if outer not in schema.names:
        raise KeyError(name)
    kind = schema.field(outer).type
    for key in inner:
        if not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            raise KeyError(name)
        kind = kind.field(key).type
    return kind


def check_values(batches: Iterable[pa.RecordBatch], origin: str) -> Iterator[pa.RecordBatch]:
    """Yields the batches after a check of their memory. A damaged one would crash the process when it is read.

    Raises DataError for a damaged batch.
    """
    import pyarrow as pa

    for batch in batches:
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise DataError(f"{origin}: damaged ({first_line(error)}); make the file again") from error
        yield batch


def first_line(error: Exception) -> str:
    """Returns the first line of the error's message, or of the error behind it."""
    cause = error.__cause__ or error
    return next(iter(str(cause).strip().split("\n")), "") or type(cause).__name__


def batch_records(batch: pa.RecordBatch, columns: Mapping[Text, str], first: int, origin: str) -> Iterator[Record]:
    """The records of a batch whose first row is row `first` of the table, counted from 1.

    Raises DataError for a missing value.
    """
    names = list(columns.values())
    for row, texts in enumerate(zip(*(_bytes(batch, name) for name in names), strict=True), start=first):
        present = [text for text in texts if text is not None]
        if len(present) < len(names):
            raise DataError(f"{origin}:{row}: no value in column {names[texts.index(None)]!r}")
        yield Record(row, **dict(zip(columns, present, strict=True)))


def _bytes(batch: pa.RecordBatch, name: str) -> list[bytes | None]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if name in batch.schema.names:
        column = batch.column(name)
    else:
        outer, *inner = name.split(".")
        column = pc.struct_field(batch.column(outer), inner)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    # Strings become bytes without a copy or a look at them: whether they are UTF-8 is for the corpus to say.
    kind = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    values: list[bytes | None] = column.cast(kind).to_pylist()
    return values
