"""A Parquet file, two columns of which are the sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nmt.config.schema import DataConfig
from nmt.data.readers.arrow import BATCH_ROWS, batch_records, check_columns, check_values
from nmt.data.readers.base import CORPORA, Corpus, CorpusOptions, Record, of_record
from nmt.data.readers.files import check_file
from nmt.errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


class ParquetOptions(CorpusOptions):
    """A Parquet file."""

    kind: Literal["parquet"] = "parquet"
    """Parquet."""
    path: str
    """The file."""
    source: str
    """Column of the source sentence; a field of a struct column by its dotted name, such as `translation.de`."""
    target: str
    """Column of the target sentence, or its dotted name."""
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


@CORPORA.register("parquet", ParquetOptions)
class ParquetCorpus(Corpus):
    """A Parquet file, two columns of which are the sides."""

    def __init__(self, options: ParquetOptions, data: DataConfig) -> None:
        super().__init__(options, data)
        self.name = options.path
        self._path = Path(options.path)
        self.files = (self._path,)
        self._columns = of_record(options.source, options.target, options.alignments, options.documents)
        check_file(self._path)
        with self._open() as file:
            check_columns(file.schema_arrow, self._columns, self.name)

    def records(self) -> Iterator[Record]:
        with self._open() as file:
            row = 1
            batches = file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(self._columns.values())))
            for batch in check_values(batches, self.name):
                yield from batch_records(batch, self._columns, row, self.name)
                row += batch.num_rows

    @contextmanager
    def _open(self) -> Iterator[ParquetFile]:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(self._path) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path}: not a Parquet file, or damaged ({error})") from error
