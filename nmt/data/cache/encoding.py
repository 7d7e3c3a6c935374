"""Text -> columns, chunk by chunk and in order, here or in worker processes; reports on the text that was encoded.

Memory does not grow with the text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice, pairwise
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from nmt.concurrency import Workers, cores
from nmt.data.cache.columns import Ragged, flatten, row_blocks
from nmt.data.readers.base import Counts, ExampleSource
from nmt.data.tokenizer import Tokenizer
from nmt.errors import DataError, counted

CHUNK_CHARACTERS = 1 << 20
CHUNKS_BEFORE_WORKERS = 32
"""Encoded in this process. A worker costs a second or two to start; smaller corpora are done by then."""

_log = logging.getLogger(__name__)

Row = TypeVar("Row")
Tools = TypeVar("Tools")
Encoded = TypeVar("Encoded")


@dataclass(frozen=True)
class Chunk(Generic[Row]):
    """Consecutive rows of one text."""

    text: int
    """Number of the text, from 0."""
    rows: list[Row]


@dataclass(frozen=True)
class WeightedRows:
    """The rows of one text, and how often each occurs in an epoch."""

    start: int
    stop: int
    weight: float


def weighted_rows(sizes: Iterable[int], weights: Iterable[float]) -> list[WeightedRows]:
    """Returns the rows of texts of these sizes, one after the other."""
    bounds = pairwise(accumulate(sizes, initial=0))
    return [WeightedRows(start, stop, weight) for (start, stop), weight in zip(bounds, weights, strict=True)]


def encode_ids(rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> Ragged:
    """Returns rows of ids of a tokenizer in the narrowest type for them."""
    return flatten(rows, np.uint16 if tokenizer.size <= 1 << 16 else np.int32)


def read_chunks(
    texts: Sequence[ExampleSource[Row]], counts: Sequence[Counts], most_rows: int, characters: Callable[[Row], int]
) -> Iterator[Chunk[Row]]:
    """Yields the rows of texts in order and counts them, in chunks of bounded size that never span two texts."""
    for number, (text, count) in enumerate(zip(texts, counts, strict=True)):
        rows: list[Row] = []
        size = 0
        for row in text.read(count):
            rows.append(row)
            size += characters(row)
            if len(rows) == most_rows or size >= CHUNK_CHARACTERS:
                yield Chunk(number, rows)
                rows, size = [], 0
        if rows:
            yield Chunk(number, rows)


def encode_chunks(
    chunks: Iterable[Chunk[Row]],
    encode: Callable[[Chunk[Row], Tools], Encoded],
    tools: Tools,
    workers: int,
    unit: str,
    verb: str = "tokenizing",
) -> Generator[tuple[Chunk[Row], Encoded], None, None]:
    """Yields each chunk with `encode(chunk, tools)`, in order. The result does not depend on `workers`.

    Close the generator if it is left early, because worker processes depend on it.

    Args:
        chunks: read in this process, so that the DataError of a reader is raised here. A bounded number is in memory.
        encode: a function of a module.
        tools: sent to each process once.
        workers: number of processes; 0 for one per core.
        unit: name of the rows, in the plural, on the progress bar of a terminal.
        verb: name of the work there.
    """
    chunks = iter(chunks)
    workers = workers or cores()
    # `disable=None` shows the bar on a terminal only.
    with tqdm(desc=verb, unit=unit, unit_scale=True, disable=None, leave=False) as bar:
        for chunk in islice(chunks, None if workers == 1 else CHUNKS_BEFORE_WORKERS):
            yield chunk, encode(chunk, tools)
            bar.update(len(chunk.rows))
        first = next(chunks, None)
        if first is None:
            return
        _log.info("%s with %d processes", verb, workers)
        killed = DataError(
            f"data.workers: a process ({verb}) was killed, probably for want of memory; set fewer workers"
        )
        with closing(Workers(encode, _same, (tools,), workers, killed)) as pool:
            for chunk, encoded in pool.in_order(chain([first], chunks)):
                yield chunk, encoded
                bar.update(len(chunk.rows))


def _same(tools: Tools) -> Tools:
    return tools


def refuse_empty(counts: Sequence[Counts], unit: str) -> None:
    """Raises DataError if nothing is left of a text; `unit` names a row in the singular."""
    assert all(each.read == each.kept + each.dropped_total for each in counts)
    problems = [
        f"{each.name}: nothing is left of {counted(each.read, unit)}, see data.filters: {each.dropped_text()}"
        if each.read
        else f"{each.name}: has no {unit}s"
        for each in counts
        if not each.kept
    ]
    if problems:
        raise DataError(*problems)


def split_description(texts: Sequence[ExampleSource[Any]]) -> dict[str, Any]:
    """Returns the part of a fingerprint that names what is held out for validation or left out, of all texts."""
    # Without either, fingerprints are those of before there were splits and rules on text.
    parts = {"held_out": texts[0].held_out, "left_out": texts[0].left_out}
    return {name: part.fingerprint for name, part in parts.items() if part is not None}


def side_report(ids: Ragged, unknown: int, include: npt.NDArray[Any] | None = None) -> SideReport:
    """Counts pieces, the unknown ones, and those of the longest row, of all rows or those with a 1 in `include`."""
    pieces = unknowns = longest = 0
    for rows in row_blocks(len(ids.offsets) - 1):
        values, offsets = ids.block(rows)
        lengths = np.diff(offsets)
        if include is not None:
            keep = include[rows].astype(np.bool_)
            lengths, values = lengths[keep], values[np.repeat(keep, lengths)]
        pieces += len(values)
        unknowns += int(np.count_nonzero(values == unknown))
        longest = max(longest, int(lengths.max(initial=0)))
    return SideReport(pieces, unknowns, longest)


# Reports: rows read, kept, dropped and why, pieces, unknown ones, duplicates


def named(counts: Sequence[Counts], texts: Sequence[ExampleSource[Any]]) -> tuple[Counts, ...]:
    """Returns the counts of the same contents under other file names."""
    return tuple(replace(count, name=text.name) for count, text in zip(counts, texts, strict=True))


@dataclass(frozen=True)
class SideReport:
    """One side of all pairs that were kept."""

    pieces: int
    unknown: int
    longest: int


@dataclass(frozen=True)
class DocumentsReport:
    """The documents that sentences belong to; a sentence of a corpus without documents is a document by itself."""

    count: int
    sentences: int
    longest: int
    """Sentences of the longest one."""
    context_alone: int
    """Sentences that are dropped as pairs and stay as context."""

    def line(self) -> str:
        mean = self.sentences / max(self.count, 1)
        alone = f"; {counted(self.context_alone, 'sentence')} of context alone" if self.context_alone else ""
        return f"documents: {self.count:,}, {mean:.1f} sentences each, longest {self.longest:,}{alone}"


@dataclass(frozen=True)
class EncodingReport:
    """All corpora of an `EncodedCorpus`. Stored in the cache, so that a later run reports the same."""

    corpora: tuple[Counts, ...]
    duplicates: int
    """Pairs, both sides alike, that occurred before in any corpus; only pairs that pass the other filters count."""
    source: SideReport
    target: SideReport
    aligned: int | None = None
    """Pairs that were kept and have links; None if no corpus has alignments."""
    documents: DocumentsReport | None = None
    """None if no corpus has documents."""

    @property
    def read(self) -> int:
        return sum(corpus.read for corpus in self.corpora)

    @property
    def kept(self) -> int:
        return sum(corpus.kept for corpus in self.corpora)

    @property
    def dropped(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for corpus in self.corpora:
            for reason, dropped in corpus.dropped.items():
                total[reason] = total.get(reason, 0) + dropped.count
        return total

    def lines(self) -> list[str]:
        lines = [corpus.line("pair") for corpus in self.corpora]
        for name, side in (("source", self.source), ("target", self.target)):
            mean = side.pieces / max(self.kept, 1)
            lines.append(
                f"{name}: {counted(side.pieces, 'piece')}, {mean:.1f} a sentence, longest {side.longest}, "
                f"{side.unknown / max(side.pieces, 1):.3%} unknown"
            )
        if self.aligned is not None:
            lines.append(f"alignments: {self.aligned:,} of {self.kept:,} pairs have links")
        if self.documents is not None:
            lines.append(self.documents.line())
        fate = "dropped" if "duplicate" in self.dropped else "kept"
        lines.append(f"duplicate pairs: {self.duplicates:,}" + (f" ({fate})" if self.duplicates else ""))
        return lines


@dataclass(frozen=True)
class CollectionReport:
    """All collections of an `EncodedCollection`. Stored in the cache, so that a later run reports the same."""

    collections: tuple[Counts, ...]
    labels: Mapping[str, int]
    """Documents that were kept, by label."""
    sentences: int
    pieces: int
    unknown: int
    longest: int
    """Pieces of the longest document."""

    def lines(self) -> list[str]:
        lines = [collection.line("document") for collection in self.collections]
        kept = max(sum(collection.kept for collection in self.collections), 1)
        lines.append(
            f"documents: {self.pieces:,} pieces, {self.pieces / kept:.1f} in {self.sentences / kept:.1f} sentences "
            f"each, longest {self.longest:,}, {self.unknown / max(self.pieces, 1):.3%} unknown"
        )
        lines.append("labels: " + ", ".join(f"{label} {count:,}" for label, count in self.labels.items()))
        return lines
