"""Two text files, aligned line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nmt.config.schema import DataConfig
from nmt.data.readers.base import CORPORA, Corpus, CorpusOptions, Record, Text, of_record
from nmt.data.readers.files import check_files, raw_lines
from nmt.errors import DataError

BLANK_LINES = "blank_lines"


class TextOptions(CorpusOptions):
    """Two text files, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["text"] = "text"
    """Two aligned text files."""
    source: str
    """File in the source language, one sentence a line."""
    target: str
    """File in the target language, line by line the translation of `source`."""
    alignments: str | None = None
    """File of word alignments in the Pharaoh format, line by line those of the pair, for `training.guided_alignment`:
    `0-0 2-1` links the first words and the third source word with the second target word, words being what spaces
    separate in the files as they stand; a blank line links nothing."""
    documents: str | None = None
    """Where documents end: `blank_lines`, at lines that are blank in both files, which are no pairs; or a file that
    names the document of each line, up to the first tab: lines of one document follow each other, in order."""

    @property
    def has_alignments(self) -> bool:
        return self.alignments is not None

    @property
    def has_documents(self) -> bool:
        return self.documents is not None


@CORPORA.register("text", TextOptions)
class TextCorpus(Corpus):
    """Two text files, aligned line by line."""

    def __init__(self, options: TextOptions, data: DataConfig) -> None:
        super().__init__(options, data)
        self._splits_at_blank_lines = options.documents == BLANK_LINES
        document = None if self._splits_at_blank_lines else options.documents
        paths = of_record(options.source, options.target, options.alignments, document)
        self._paths: dict[Text, Path] = {text: Path(path) for text, path in paths.items()}
        self.name = f"{options.source} / {options.target}"
        self.files = tuple(self._paths.values())
        check_files(self.files)

    def place(self, line: int, text: Text) -> str:
        return f"{self._paths[text]}:{line}"

    def records(self) -> Iterator[Record]:
        if self._splits_at_blank_lines:
            return self._split(self._aligned())
        return map(self._named, self._aligned()) if "document" in self._paths else self._aligned()

    def _aligned(self) -> Iterator[Record]:
        files = [raw_lines(path) for path in self._paths.values()]
        line = 0
        while True:
            texts = [next(file, None) for file in files]
            present = [text for text in texts if text is not None]
            if len(present) < len(files):
                break
            line += 1
            yield Record(line, **dict(zip(self._paths, present, strict=True)))
        counts = [line + (text is not None) + sum(1 for _ in file) for text, file in zip(texts, files, strict=True)]
        if len(set(counts)) > 1:
            first, *others = (f"{path} has {count}" for path, count in zip(self._paths.values(), counts, strict=True))
            raise DataError(f"{first} lines and {' and '.join(others)}; line n of each must belong to the same pair")

    def _named(self, record: Record) -> Record:
        """The record with what stands before the first tab as the name of its document."""
        assert record.document is not None
        name = record.document.partition(b"\t")[0].strip()
        if not name:
            raise DataError(f"{self.place(record.line, 'document')}: names no document; every line names its own")
        return record._replace(document=name)

    def _split(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records between blank lines, named by the number of the line before them."""
        before = 0
        for record in records:
            blank = {text: not getattr(record, text).strip() for text in self._paths}
            if blank["source"] and all(blank.values()):
                before = record.line
            elif blank["source"] != blank["target"]:
                here: Text = "source" if blank["source"] else "target"
                there: Text = "target" if blank["source"] else "source"
                raise DataError(
                    f"{self.place(record.line, here)}: is blank, which ends a document, but the {there} is not; "
                    "blank lines stand at the same lines of both files"
                )
            elif blank["source"]:
                raise DataError(
                    f"{self.place(record.line, 'alignment')}: links words where the text is blank, which ends a "
                    "document; leave the line blank"
                )
            else:
                yield record._replace(document=b"%d" % before)
