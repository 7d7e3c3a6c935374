"""Two text files, aligned line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nmt.config.schema import Data
from nmt.errors import DataError
from nmt.text.corpus.base import CORPORA, Corpus, CorpusOptions, Record, Text
from nmt.text.corpus.files import check_files, raw_lines


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

    @property
    def has_alignments(self) -> bool:
        return self.alignments is not None


@CORPORA.register("text", TextOptions)
class TextCorpus(Corpus):
    """Two text files, aligned line by line."""

    def __init__(self, options: TextOptions, data: Data) -> None:
        super().__init__(options, data)
        self._paths: dict[Text, Path] = {"source": Path(options.source), "target": Path(options.target)}
        if options.alignments is not None:
            self._paths["alignment"] = Path(options.alignments)
        self.name = f"{options.source} / {options.target}"
        self.files = tuple(self._paths.values())
        check_files(self.files)

    def place(self, line: int, text: Text) -> str:
        return f"{self._paths[text]}:{line}"

    def records(self) -> Iterator[Record]:
        files = [raw_lines(path) for path in self._paths.values()]
        line = 0
        while True:
            texts = [next(file, None) for file in files]
            present = [text for text in texts if text is not None]
            if len(present) < len(files):
                break
            line += 1
            yield Record(line, *present)
        counts = [line + (text is not None) + sum(1 for _ in file) for text, file in zip(texts, files, strict=True)]
        if len(set(counts)) > 1:
            first, *others = (f"{path} has {count}" for path, count in zip(self._paths.values(), counts, strict=True))
            raise DataError(f"{first} lines and {' and '.join(others)}; line n of each must belong to the same pair")
