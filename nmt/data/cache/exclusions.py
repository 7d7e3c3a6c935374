"""Text that training skips, found once and kept in the cache: the validation split, and pairs that rules leave out."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from nmt.data.cache.encoding import Chunk, encode_chunks, read_chunks, refuse_empty, split_description
from nmt.data.cache.pair_encoding import CHUNK_PAIRS
from nmt.data.cache.store import Digests, get_or_build
from nmt.data.cleaning import PairRules
from nmt.data.readers.base import SENTENCE_SEPARATOR, Counts, ExampleSource, HeldOut, LeftOut, SplitOptions, text_key
from nmt.data.readers.corpora import Corpus, Pair
from nmt.data.readers.labelled import Collection
from nmt.errors import ConfigError

SPLIT_FORMAT = 1
"""Part of every fingerprint: raise it if another text would be drawn."""
_SPLIT_FILE = "validation.jsonl"
LEFT_OUT_FORMAT = 1
"""Part of every fingerprint: raise it if other pairs would be left out."""
SHOWN = 3
"""Pairs of each reason in the log."""
SHOWN_CHARACTERS = 100
_LEFT_OUT_FILE = "left_out.jsonl"

SplitRow = dict[str, Any]
"""A pair or a document as it is written into the file."""
Units = Callable[[int, Counts], Iterator[tuple[int, Iterable[SplitRow]]]]
"""Rows that are held out together (the pairs of a document, or one row), each unit with a random number of the seed."""


@dataclass(frozen=True)
class SplitReport:
    """Numbers of rows held out, and of rows read."""

    held_out: int
    read: int


def hold_out_pairs(corpora: Sequence[Corpus], options: SplitOptions, broken_utf8: str, cache: Path) -> Path:
    """Draws pairs, and holds them out of the corpora. Returns a file of JSON lines with the pairs.

    Each has `source`, `target`, and a `document`, which is its own where the corpus has no documents. Reads the text
    twice the first time; then the cache has the file. Raises ConfigError where there are too few pairs, and DataError
    where a corpus cannot be read.
    """

    def units(seed: int, counts: Counts) -> Iterator[tuple[int, Iterable[SplitRow]]]:
        for index, corpus in enumerate(corpora):
            if corpus.has_documents:
                for number, pairs in groupby(corpus.read(counts), key=lambda pair: pair.document):
                    rows = (_pair_row(pair, index, str(number)) for pair in pairs if pair.left_out is None)
                    yield text_key(f"document {index} {number}", seed), rows
                continue
            for pair in corpus.read(counts):
                if pair.source.strip() and pair.target.strip():
                    row = _pair_row(pair, index, f"line {pair.line}")
                    yield text_key(pair.source, seed), [row]

    return _hold_out(corpora, units, options, broken_utf8, cache)


def _pair_row(pair: Pair, corpus: int, document: str) -> SplitRow:
    return {"source": pair.source, "target": pair.target, "corpus": corpus, "document": f"{corpus} {document}"}


def hold_out_documents(collections: Sequence[Collection], options: SplitOptions, broken_utf8: str, cache: Path) -> Path:
    """The same for labelled documents, each with `text` and `label`; a text given as sentences is a list of them."""

    def units(seed: int, counts: Counts) -> Iterator[tuple[int, Iterable[SplitRow]]]:
        for collection in collections:
            for document in collection.read(counts):
                if document.text.strip():
                    text = document.text.split(SENTENCE_SEPARATOR) if document.is_split else document.text
                    yield text_key(document.text, seed), [{"text": text, "label": document.label}]

    return _hold_out(collections, units, options, broken_utf8, cache)


def draw_units(units: Iterable[tuple[int, Iterable[SplitRow]]], count: int) -> list[SplitRow]:
    """Returns the rows of the units with the smallest numbers, in this order, until there are `count` rows or more.

    Of units with the same number the first counts; units of more than `count` rows are never taken. The result does not
    depend on the order of different units. At most twice `count` rows are held in memory.
    """
    drawn: dict[int, list[SplitRow]] = {}
    largest: list[int] = []
    total = 0
    for number, unit in units:
        if number in drawn or (total >= count and number > -largest[0]):
            continue
        rows = list(islice(unit, count + 1))
        if not rows or len(rows) > count:
            continue
        drawn[number] = rows
        heapq.heappush(largest, -number)
        total += len(rows)
        while total - len(drawn[-largest[0]]) >= count:
            total -= len(drawn.pop(-heapq.heappop(largest)))
    return [row for number in sorted(drawn) for row in drawn[number]]


def _hold_out(
    texts: Sequence[ExampleSource[Any]], units: Units, options: SplitOptions, broken_utf8: str, cache: Path
) -> Path:
    """Returns the file of the split, which is held out of the texts."""

    def describe(digests: Digests) -> dict[str, Any]:
        fingerprints = digests.of_texts(f"split, format {SPLIT_FORMAT}", texts)
        split = {
            "split": options.model_dump(),
            "format": SPLIT_FORMAT,
            "texts": fingerprints,
            "broken_utf8": broken_utf8,
        }
        return split | split_description(texts)

    def build(_: Path, file: Path) -> SplitReport:
        counts = Counts()
        rows = draw_units(units(options.seed, counts), options.split)
        if len(rows) < options.split or 2 * len(rows) > counts.read:
            raise ConfigError(
                f"data.validation.split: {options.split:,} cannot be taken from the {counts.read:,} of data.train; at "
                "most half of them, with different sources and within documents of no more than these, can be"
            )
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return SplitReport(len(rows), counts.read)

    path, _, fingerprint = get_or_build(cache, describe, _SPLIT_FILE, build, SplitReport)
    with path.open(encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file]
    held_out = (row["source"] if "source" in row else row["text"] for row in rows)
    joined = (text if isinstance(text, str) else SENTENCE_SEPARATOR.join(text) for text in held_out)
    keys = frozenset(text_key(text, options.seed) for text in joined)
    for index, text in enumerate(texts):
        # Where a corpus has no documents, the name says `line` instead of a number.
        names = (row["document"].split()[1] for row in rows if row.get("corpus") == index)
        numbers = frozenset(int(name) for name in names if name != "line")
        text.held_out = HeldOut(fingerprint, options.seed, keys, numbers)
    return path


# Pairs that rules on the text leave out


@dataclass(frozen=True)
class LeftOutPair:
    """A pair that is left out, as an example."""

    corpus: int
    """Number of the corpus, from 0."""
    line: int
    reason: str
    source: str
    target: str


@dataclass(frozen=True)
class LeftOutReport:
    """Positions of the pairs in the file, and examples."""

    starts: tuple[int, ...]
    """Position of the first pair of each corpus in the file, in bytes."""
    counts: tuple[int, ...]
    """Pairs of each corpus in the file."""
    examples: tuple[LeftOutPair, ...]
    """The first pairs of each reason."""


def leave_out(corpora: Sequence[Corpus], rules: PairRules, cache: Path, workers: int) -> Iterator[str]:
    """Leaves pairs out of the corpora by the rules. Returns lines for the log with examples.

    Reads the text once the first time; then the cache has a file of JSON lines with all pairs that are left out: their
    `reason`, `corpus` (from 0), `line`, `source` and `target`, and the `number` of the pair in its corpus. Sentences of
    documents stay as context of others. `workers` is the number of processes; 0 for one per core.

    Raises DataError if a corpus cannot be read, nothing of it is left, or the cache cannot be written.
    """

    def describe(digests: Digests) -> dict[str, Any]:
        texts = digests.of_texts(f"left out, format {LEFT_OUT_FORMAT}", corpora)
        broken_utf8 = rules.filters.broken_utf8
        return {"format": LEFT_OUT_FORMAT, "texts": texts, "broken_utf8": broken_utf8, "left out": rules.description}

    def build(_: Path, file: Path) -> LeftOutReport:
        return _build(corpora, rules, workers, file)

    path, report, fingerprint = get_or_build(cache, describe, _LEFT_OUT_FILE, build, LeftOutReport)
    for corpus, start, count in zip(corpora, report.starts, report.counts, strict=True):
        corpus.left_out = LeftOut(fingerprint, path, start, count)
    return (
        f"left out as {each.reason}: {corpora[each.corpus].location(each.line, 'source')}: "
        f"{each.source[:SHOWN_CHARACTERS]} ||| {each.target[:SHOWN_CHARACTERS]}"
        for each in report.examples
    )


def _build(corpora: Sequence[Corpus], rules: PairRules, workers: int, file: Path) -> LeftOutReport:
    counts = [Counts(corpus.name) for corpus in corpora]
    read, left_out, starts = ([0] * len(corpora) for _ in range(3))
    examples: dict[str, list[LeftOutPair]] = {}
    chunks = read_chunks(corpora, counts, CHUNK_PAIRS, lambda pair: len(pair.source) + len(pair.target))
    encoded = encode_chunks(chunks, _reasons, rules, workers, " pairs", "cleaning")
    with file.open("wb") as rows, closing(encoded):
        for chunk, reasons in encoded:
            index = chunk.text
            if not read[index]:
                starts[index] = rows.tell()
            for number, (pair, reason) in enumerate(zip(chunk.rows, reasons, strict=True), start=read[index]):
                if reason is None:
                    counts[index].kept += 1
                    continue
                counts[index].drop(reason, (pair.line,))
                left_out[index] += 1
                some = examples.setdefault(reason, [])
                if len(some) < SHOWN:
                    some.append(LeftOutPair(index, pair.line, reason, pair.source, pair.target))
                row = {"reason": reason, "corpus": index, "line": pair.line, "number": number}
                row |= {"source": pair.source, "target": pair.target}
                rows.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            read[index] += len(chunk.rows)
    refuse_empty(counts, "pair")
    return LeftOutReport(tuple(starts), tuple(left_out), tuple(chain.from_iterable(examples.values())))


def _reasons(chunk: Chunk[Pair], rules: PairRules) -> list[str | None]:
    return [rules.reason(pair.source, pair.target) for pair in chunk.rows]
