"""Arrow tables: Parquet files and Hugging Face data sets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nmt.data.readers import base
from nmt.data.readers.files import check_file
from nmt.errors import DataError, try_each

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 4096
LOCAL_FORMATS = ("json", "csv", "parquet", "text")
"""Formats of local files. The package reads others as well, and one of them, `pandas`, is a pickle: it runs code."""
TEXT_TYPES = frozenset({"string", "large_string", "string_view", "binary"})
LOCAL_REMEDY = "; check the files and their format"
HUB_REMEDY = (
    "; check the name, subset, split and network; without a network, give the folder of a copy that `save_to_disk` of "
    "the package datasets wrote elsewhere"
)
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class ParquetReader(base.FileReader):
    """A Parquet file. A field of a struct column is given by its dotted name."""

    def __init__(self, options: base.FileOptions, languages: base.TextOfFields) -> None:
        super().__init__(options, languages)
        with self._open() as file:
            _check_columns(file.schema_arrow, self._columns, self.name)

    def records(self) -> Iterator[base.Record]:
        with self._open() as file:
            batches = file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(self._columns.values())))
            yield from _records(batches, self._columns, self.name)

    @contextmanager
    def _open(self) -> Iterator[ParquetFile]:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(self.files[0]) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.files[0]}: not a Parquet file, or damaged ({error})") from error


class HuggingFaceOptions(base.SourceOptions):
    """A data set that the package `datasets` loads."""

    kind: Literal["huggingface"] = "huggingface"
    dataset: str
    """Name on the hub, such as `wmt/wmt14`; or a folder; or, with `files`, their format: json, csv, parquet or text."""
    files: list[str] = Field(default_factory=list)
    """Local files to load instead of a data set of the hub."""
    name: str | None = None
    """Subset of the data set, such as `de-en`."""
    split: str = "train"
    """Part of the data set."""


class HuggingFaceReader(base.RecordReader):
    """A Hugging Face data set: from the hub, from a folder it was saved to, or from local files.

    It is loaded when it is read; one that was saved to a folder at once, because that costs little: it is mapped.
    """

    def __init__(self, options: HuggingFaceOptions, languages: base.TextOfFields) -> None:
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

    def records(self) -> Iterator[base.Record]:
        row = 0
        try:
            if self._dataset._indices is not None:
                # Rows are gathered in another order, from anywhere in the table: all of it is checked first.
                for batch in self._dataset.data.to_batches(BATCH_ROWS):
                    _check_memory(batch, self.name)
            tables = self._dataset.with_format("arrow").iter(BATCH_ROWS)
            for record in _records((b for table in tables for b in table.to_batches()), self._columns, self.name):
                row = record.line
                yield record
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.name}: damaged after row {row} ({_first_line(error)})") from error

    @cached_property
    def _columns(self) -> dict[base.FieldName, str]:
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
        is_folder = not files and os.path.isdir(dataset)
        is_saved = is_folder and any(
            os.path.isfile(f"{dataset}/{file}") for file in ("state.json", "dataset_dict.json")
        )
        if not files and not is_folder and dataset in packaged_modules._PACKAGED_DATASETS_MODULES:
            raise DataError(f"{self.name}: {dataset} is a format, not a data set; give `files` of it")
        if is_saved:
            for path in Path(dataset).rglob("*"):
                if not path.is_dir():
                    check_file(path)
        try:
            if is_saved:
                loaded = datasets.load_from_disk(dataset)
            else:
                # The name of a format would be loaded as that format, from whatever lies in the working directory.
                path_or_name = os.path.abspath(dataset) if is_folder else dataset
                data_files = {split: files} if files else None
                loaded = datasets.load_dataset(path_or_name, self._options.name, data_files=data_files, split=split)
        # The package lets through whatever its formats, the hub's client and the network raise.
        except Exception as error:
            problem = "not a saved data set, or damaged" if is_saved else "cannot be loaded"
            remedy = "" if is_saved else LOCAL_REMEDY if files or is_folder else HUB_REMEDY
            raise DataError(f"{self.name}: {problem} ({_first_line(error)}){remedy}") from error
        if isinstance(loaded, datasets.Dataset):
            return loaded
        if split not in loaded:
            raise DataError(f"{self.name}: no split {split!r}; there are {', '.join(map(repr, loaded))}")
        return loaded[split]


def _first_line(error: Exception) -> str:
    """Returns the first line of the error's message, or of the error behind it."""
    cause = error.__cause__ or error
    return next(iter(str(cause).strip().split("\n")), "") or type(cause).__name__


def _column_type(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column, or of a field of a struct column by its dotted name; None where there is none."""
    import pyarrow as pa

    kind = pa.struct(list(schema))
    for key in _path(name, schema):
        if not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return kind


def _path(name: str, schema: pa.Schema) -> list[str]:
    return [name] if name in schema.names else name.split(".")


def _is_list(kind: pa.DataType) -> bool:
    return str(kind).startswith(("list<", "large_list<"))


def _check_columns(schema: pa.Schema, columns: base.TextOfFields, origin: str) -> None:
    """Raises a DataError for a column that is missing, or of another type than its field."""
    import pyarrow as pa

    for field, name in columns.items():
        kind = _column_type(schema, name)
        if kind is None:
            raise DataError(f"{origin}: no column {name!r}; there are {', '.join(map(repr, schema.names))}")
        has_values = pa.types.is_dictionary(kind) or (field in base.LIST_FIELDS and _is_list(kind))
        value = kind.value_type if has_values else kind
        if str(value) not in TEXT_TYPES and not (field in base.NUMERIC_FIELDS and pa.types.is_integer(value)):
            numbers = " or whole numbers" if field in base.NUMERIC_FIELDS else ""
            sentences = " or lists of text" if field in base.LIST_FIELDS else ""
            raise DataError(f"{origin}: column {name!r} is {kind}, not text{numbers}{sentences}")


def _check_memory(batch: pa.RecordBatch, origin: str) -> None:
    """Raises a DataError where the memory of the batch is damaged, which would crash the process when it is read."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{origin}: damaged ({_first_line(error)}); make the file again") from error


def _records(batches: Iterable[pa.RecordBatch], columns: base.TextOfFields, origin: str) -> Iterator[base.Record]:
    """Yields the records of a table's batches. Raises DataError for a missing value and for damaged memory."""
    import pyarrow.compute as pc

    row = 0
    for batch in batches:
        _check_memory(batch, origin)
        table = batch.to_struct_array()
        arrays = [pc.struct_field(table, _path(name, batch.schema)) for name in columns.values()]
        is_split = any(_is_list(array.type) for array in arrays)
        for values in zip(*map(_to_bytes, arrays), strict=True):
            row += 1
            if None in values:
                name = list(columns.values())[values.index(None)]
                raise DataError(f"{origin}:{row}: no value in column {name!r}")
            yield base.Record(row, dict(zip(columns, values, strict=True)), is_split)


def _to_bytes(array: pa.Array) -> list[Any]:
    """The values of text, whole numbers, or lists of text, joined by TAB, as bytes; None where one is missing."""
    import pyarrow as pa

    if _is_list(array.type):
        tab = base.SENTENCE_SEPARATOR.encode()
        rows = array.cast(pa.large_list(pa.large_binary())).to_pylist()
        return [None if row is None or None in row else tab.join(s.replace(tab, b" ") for s in row) for row in rows]
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    # Strings become bytes without a copy and without a check: the corpus decides about broken UTF-8.
    binary = pa.large_binary() if pa.types.is_large_string(array.type) else pa.binary()
    return list(array.cast(binary).to_pylist())
