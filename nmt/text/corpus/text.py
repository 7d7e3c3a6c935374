"""Two text files, aligned line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nmt.config.schema import Data
from nmt.errors import DataError
from nmt.text.corpus.base import CORPORA, Corpus, CorpusOptions, Record, Side
from nmt.text.corpus.files import check_files, raw_lines


class TextOptions(CorpusOptions):
    """Two text files, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["text"] = "text"
    """Two aligned text files."""
    source: str
    """File in the source language, one sentence a line."""
    target: str
    """File in the target language, line by line the translation of `source`."""


@CORPORA.register("text", TextOptions)
class TextCorpus(Corpus):
    """Two text files, aligned line by line."""

    def __init__(self, options: TextOptions, data: Data) -> None:
        super().__init__(options, data)
        self._paths: dict[Side, Path] = {"source": Path(options.source), "target": Path(options.target)}
        self.name = f"{options.source} / {options.target}"
        check_files(self._paths.values())

    def place(self, line: int, side: Side) -> str:
        return f"{self._paths[side]}:{line}"

    def records(self) -> Iterator[Record]:
        sources, targets = raw_lines(self._paths["source"]), raw_lines(self._paths["target"])
        line = 0
        while True:
            source, target = next(sources, None), next(targets, None)
            if source is None or target is None:
                break
            line += 1
            yield Record(line, source, target)
        source_lines = line + (source is not None) + sum(1 for _ in sources)
        target_lines = line + (target is not None) + sum(1 for _ in targets)
        if source_lines != target_lines:
            raise DataError(
                f"{self._paths['source']} has {source_lines} lines and {self._paths['target']} has {target_lines}; "
                "line n of one must translate line n of the other"
            )
