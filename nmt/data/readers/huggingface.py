"""A Hugging Face data set: from the hub, from a folder it was saved to, or from local files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nmt.config.schema import DataConfig
from nmt.data.readers.arrow import BATCH_ROWS, batch_records, check_columns, check_values, first_line, has_column
from nmt.data.readers.base import CORPORA, Corpus, CorpusOptions, Record, Text, of_record
from nmt.data.readers.files import check_file, check_files
from nmt.errors import DataError

if TYPE_CHECKING:
    import datasets

FORMATS = ("json", "csv", "parquet", "text")
"""Formats of local files. The package reads others as well, and one of them, `pandas`, is a pickle: it runs code."""
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class HuggingFaceOptions(CorpusOptions):
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
    source: str | None = None
    """Column of the source sentence, or its dotted name inside a column; by default the source language's code."""
    target: str | None = None
    """Column of the target sentence, or its dotted name inside a column; by default the target language's code."""
    alignments: str | None = None
    """Column of the word alignment, such as `0-0 2-1`, for `training.guided_alignment`."""

    documents: str | None = None
    """Column that names the document, of text or whole numbers, or its dotted name: rows of one document follow each
    other, in order, and have the same."""

    @property
    def has_alignments(self) -> bool:
        return self.alignments is not None

    @property
    def has_documents(self) -> bool:
        return self.documents is not None


@CORPORA.register("huggingface", HuggingFaceOptions)
class HuggingFaceCorpus(Corpus):
    """A Hugging Face data set: from the hub, from a folder it was saved to, or from local files."""

    def __init__(self, options: HuggingFaceOptions, data: DataConfig) -> None:
        super().__init__(options, data)
        self._options = options
        self._wanted = of_record(
            options.source or data.source_language,
            options.target or data.target_language,
            options.alignments,
            options.documents,
        )
        self.name = ", ".join([options.dataset, *options.files, *filter(None, [options.name]), options.split])
        if options.files:
            if options.dataset not in FORMATS:
                raise DataError(f"{options.dataset}: not a format for local files; choose from {', '.join(FORMATS)}")
            check_files(map(Path, options.files))
        elif os.path.isdir(options.dataset):
            # A saved data set is memory-mapped: loading it reads its description only.
            _ = self._columns
        elif not HUB_NAME.fullmatch(options.dataset):
            raise DataError(f"{options.dataset}: no such folder, and not the name of a data set on the hub")

    @cached_property
    def _dataset(self) -> datasets.Dataset:
        folder = self._options.dataset
        saved = any(os.path.isfile(f"{folder}/{file}") for file in ("state.json", "dataset_dict.json"))
        return self._load_saved(folder) if saved and not self._options.files else self._load()

    @cached_property
    def _columns(self) -> dict[Text, str]:
        schema = self._dataset.data.schema
        nested = [column for column in schema.names if has_column(schema, f"{column}.{self._wanted['source']}")]
        columns: dict[Text, str] = {
            text: f"{nested[0]}.{name}" if not has_column(schema, name) and len(nested) == 1 else name
            for text, name in self._wanted.items()
        }
        check_columns(schema, columns, self.name)
        return columns

    def records(self) -> Iterator[Record]:
        row = 1
        try:
            if self._dataset._indices is not None:
                # Rows are gathered in another order, from anywhere in the table: all of it is checked first.
                for _ in check_values(self._dataset.data.to_batches(BATCH_ROWS), self.name):
                    pass
            for batch in self._dataset.with_format("arrow").iter(BATCH_ROWS):
                for part in check_values(batch.to_batches(), self.name):
                    yield from batch_records(part, self._columns, row, self.name)
                    row += part.num_rows
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.name}: damaged at row {row} or after ({first_line(error)})") from error

    def _load_saved(self, folder: str) -> datasets.Dataset:
        import datasets

        for path in Path(folder).rglob("*"):
            if not path.is_dir():
                check_file(path)
        try:
            loaded = datasets.load_from_disk(folder)
        except Exception as error:
            raise DataError(f"{self.name}: not a saved data set, or damaged ({first_line(error)})") from error
        if isinstance(loaded, datasets.Dataset):
            return loaded
        if self._options.split not in loaded:
            raise DataError(f"{self.name}: no split {self._options.split!r}; there are {', '.join(map(repr, loaded))}")
        split: datasets.Dataset = loaded[self._options.split]
        return split

    def _load(self) -> datasets.Dataset:
        import datasets
        from datasets import packaged_modules

        options = self._options
        files = {options.split: options.files} if options.files else None
        dataset = options.dataset
        if not files and os.path.isdir(dataset):
            # A path cannot be taken for the name of a format, which would read whatever lies in the working directory.
            dataset = os.path.abspath(dataset)
        elif not files and dataset in packaged_modules._PACKAGED_DATASETS_MODULES:
            raise DataError(f"{self.name}: {dataset} is a format, not a data set; give `files` of it")
        try:
            loaded = datasets.load_dataset(dataset, options.name, data_files=files, split=options.split)
        # The package lets through whatever its formats, the hub's client and the network raise.
        except Exception as error:
            raise DataError(f"{self.name}: cannot be loaded ({first_line(error)}); {self._remedy()}") from error
        assert isinstance(loaded, datasets.Dataset), "a split of a data set that is not streamed is a Dataset"
        return loaded

    def _remedy(self) -> str:
        if self._options.files or os.path.isdir(self._options.dataset):
            return "check the files and their format"
        return (
            "check the name, subset, split and network; without a network, give the folder of a copy that "
            "`save_to_disk` of the package datasets wrote elsewhere"
        )
