"""Arrow tables: Parquet files and Hugging Face data sets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nmt.data.readers.base import (
    LIST_FIELDS,
    NUMERIC_FIELDS,
    SEPARATOR,
    FieldName,
    FileOptions,
    FileReader,
    Languages,
    Record,
    RecordReader,
    SourceOptions,
)
from nmt.data.readers.files import check_file
from nmt.errors import DataError, try_each

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 4096
LOCAL_FORMATS = ("json", "csv", "parquet", "text")
"""Formats of local files. The package reads others as well, and one of them, `pandas`, is a pickle: it runs code."""
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class ParquetReader(FileReader):
    """A Parquet file. A field of a struct column is given by its dotted name."""

    def __init__(self, options: FileOptions, languages: Languages) -> None:
        super().__init__(options, languages)
        with self._open() as file:
            _check_columns(file.schema_arrow, self._columns, self.name)

    def records(self) -> Iterator[Record]:
        with self._open() as file:
            row = 1
            batches = file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(self._columns.values())))
            for batch in _checked(batches, self.name):
                yield from _batch_records(batch, self._columns, row, self.name)
                row += batch.num_rows

    @contextmanager
    def _open(self) -> Iterator[ParquetFile]:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(self.files[0]) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.files[0]}: not a Parquet file, or damaged ({error})") from error


class HuggingFaceOptions(SourceOptions):
    """A data set that the package `datasets` loads."""

    kind: Literal["huggingface"] = "huggingface"
    """Hugging Face data set."""
    dataset: str
    """Name on the hub, such as `wmt/wmt14`; or a folder; or, with `files`, their format: json, csv, parquet or text."""
    files: list[str] = Field(default_factory=list)
    """Local files to load instead of a data set of the hub."""
    name: str | None = None
    """Subset of the data set, such as `de-en`."""
    split: str = "train"
    """Part of the data set."""


class HuggingFaceReader(RecordReader):
    """A Hugging Face data set: from the hub, from a folder it was saved to, or from local files.

    It is loaded before the first record is read; one that was saved to a folder is loaded at once, because that costs
    little: it is memory-mapped.
    """

    def __init__(self, options: HuggingFaceOptions, languages: Languages) -> None:
        self._options = options
        # Columns that the options do not name are called like the languages.
        self._names = {**languages, **options.columns()}
        self.name = ", ".join([options.dataset, *options.files, *filter(None, [options.name]), options.split])
        if options.files:
            if options.dataset not in LOCAL_FORMATS:
                raise DataError(
                    f"{options.dataset}: not a format for local files; choose from {', '.join(LOCAL_FORMATS)}"
                )
            try_each(check_file, dict.fromkeys(map(Path, options.files)))
        elif os.path.isdir(options.dataset):
            _ = self._columns
        elif not HUB_NAME.fullmatch(options.dataset):
            raise DataError(f"{options.dataset}: no such folder, and not the name of a data set on the hub")

    def records(self) -> Iterator[Record]:
        row = 1
        try:
            if self._dataset._indices is not None:
                # Rows are gathered in another order, from anywhere in the table: all of it is checked first.
                for _ in _checked(self._dataset.data.to_batches(BATCH_ROWS), self.name):
                    pass
            for batch in self._dataset.with_format("arrow").iter(BATCH_ROWS):
                for part in _checked(batch.to_batches(), self.name):
                    yield from _batch_records(part, self._columns, row, self.name)
                    row += part.num_rows
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.name}: damaged at row {row} or after ({_first_line(error)})") from error

    @cached_property
    def _columns(self) -> dict[FieldName, str]:
        """The columns; those of a struct column may be named without it, where only one struct has them."""
        schema = self._dataset.data.schema
        first = next(iter(self._names.values()))
        structs = [column for column in schema.names if _column_type(schema, f"{column}.{first}") is not None]
        columns = {
            field: f"{structs[0]}.{name}" if _column_type(schema, name) is None and len(structs) == 1 else name
            for field, name in self._names.items()
        }
        _check_columns(schema, columns, self.name)
        return columns

    @cached_property
    def _dataset(self) -> datasets.Dataset:
        import datasets
        from datasets import packaged_modules

        dataset, files, split = self._options.dataset, self._options.files, self._options.split
        if not files and any(os.path.isfile(f"{dataset}/{file}") for file in ("state.json", "dataset_dict.json")):
            return self._load_saved()
        if files:
            remedy = "check the files and their format"
        elif os.path.isdir(dataset):
            remedy = "check the files and their format"
            # The name of a format would be loaded as that format, from whatever lies in the working directory.
            dataset = os.path.abspath(dataset)
        elif dataset in packaged_modules._PACKAGED_DATASETS_MODULES:
            raise DataError(f"{self.name}: {dataset} is a format, not a data set; give `files` of it")
        else:
            remedy = (
                "check the name, subset, split and network; without a network, give the folder of a copy that "
                "`save_to_disk` of the package datasets wrote elsewhere"
            )
        try:
            loaded = datasets.load_dataset(
                dataset, self._options.name, data_files={split: files} if files else None, split=split
            )
        # The package lets through whatever its formats, the hub's client and the network raise.
        except Exception as error:
            raise DataError(f"{self.name}: cannot be loaded ({_first_line(error)}); {remedy}") from error
        assert isinstance(loaded, datasets.Dataset), "a split of a data set that is not streamed is a Dataset"
        return loaded

    def _load_saved(self) -> datasets.Dataset:
        import datasets

        for path in Path(self._options.dataset).rglob("*"):
            if not path.is_dir():
                check_file(path)
        try:
            loaded = datasets.load_from_disk(self._options.dataset)
        except Exception as error:
            raise DataError(f"{self.name}: not a saved data set, or damaged ({_first_line(error)})") from error
        if isinstance(loaded, datasets.Dataset):
            return loaded
        split = self._options.split
        if split not in loaded:
            raise DataError(f"{self.name}: no split {split!r}; there are {', '.join(map(repr, loaded))}")
        dataset: datasets.Dataset = loaded[split]
        return dataset


def _first_line(error: Exception) -> str:
    """Returns the first line of the error's message, or of the error behind it."""
    cause = error.__cause__ or error
    return next(iter(str(cause).strip().split("\n")), "") or type(cause).__name__


def _column_type(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column, or of a field of a struct column by its dotted name; None where there is none."""
    import pyarrow as pa

    if name in schema.names:
        return schema.field(name).type
    outer, *inner = name.split(".")
    kind = schema.field(outer).type if outer in schema.names else None
    for key in inner:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return kind


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _check_columns(schema: pa.Schema, columns: Mapping[FieldName, str], origin: str) -> None:
    """Raises a DataError for a column that is missing, or of another type than its field."""
    import pyarrow as pa

    text = [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary]
    for field, name in columns.items():
        kind = _column_type(schema, name)
        if kind is None:
            raise DataError(f"{origin}: no column {name!r}; there are {', '.join(map(repr, schema.names))}")
        has_values = pa.types.is_dictionary(kind) or (field in LIST_FIELDS and _is_list(kind))
        value = kind.value_type if has_values else kind
        if not any(check(value) for check in (text + [pa.types.is_integer] * (field in NUMERIC_FIELDS))):
            numbers = " or whole numbers" if field in NUMERIC_FIELDS else ""
            sentences = " or lists of text" if field in LIST_FIELDS else ""
            raise DataError(f"{origin}: column {name!r} is {kind}, not text{numbers}{sentences}")


def _checked(batches: Iterable[pa.RecordBatch], origin: str) -> Iterator[pa.RecordBatch]:
    """Yields the batches after a check of their memory. A damaged one would crash the process when it is read.

    Raises DataError for a damaged batch.
    """
    import pyarrow as pa

    for batch in batches:
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise DataError(f"{origin}: damaged ({_first_line(error)}); make the file again") from error
        yield batch


def _batch_records(
    batch: pa.RecordBatch, columns: Mapping[FieldName, str], first: int, origin: str
) -> Iterator[Record]:
    """Yields the records of a batch whose first row is row `first` of the table, counted from 1.

    Raises DataError for a missing value.
    """
    import pyarrow.compute as pc

    arrays = []
    for name in columns.values():
        outer, *inner = (name,) if name in batch.schema.names else name.split(".")
        arrays.append(pc.struct_field(batch.column(outer), inner) if inner else batch.column(outer))
    is_split = any(_is_list(array.type) for array in arrays)
    for row, values in enumerate(zip(*map(_to_bytes, arrays), strict=True), start=first):
        if None in values:
            name = list(columns.values())[values.index(None)]
            raise DataError(f"{origin}:{row}: no value in column {name!r}")
        yield Record(row, dict(zip(columns, values, strict=True)), is_split)


def _to_bytes(array: pa.Array) -> list[Any]:
    """The values of text, whole numbers, or lists of text, which TAB separates then, as bytes; None where one is
    missing."""
    import pyarrow as pa

    if _is_list(array.type):
        tab = SEPARATOR.encode()
        rows = array.cast(pa.large_list(pa.large_binary())).to_pylist()
        return [None if row is None or None in row else tab.join(s.replace(tab, b" ") for s in row) for row in rows]
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    # Strings become bytes without a copy and without a check: the corpus decides about broken UTF-8.
    values: list[Any] = array.cast(
        pa.large_binary() if pa.types.is_large_string(array.type) else pa.binary()
    ).to_pylist()
    return values
