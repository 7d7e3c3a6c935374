"""Draws validation text from the training text, into the cache."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from nmt.data.cache.encoding import split_description
from nmt.data.cache.store import Digests, get_or_build
from nmt.data.readers.base import SENTENCE_SEPARATOR, Counts, ExampleSource, HeldOut, SplitOptions, text_key
from nmt.data.readers.corpora import Corpus, Pair
from nmt.data.readers.labelled import Collection
from nmt.errors import ConfigError

FORMAT = 1
"""Part of every fingerprint: raise it if another text would be drawn."""
_FILE = "validation.jsonl"

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
        fingerprints = digests.of_texts(f"split, format {FORMAT}", texts)
        split = {"split": options.model_dump(), "format": FORMAT, "texts": fingerprints, "broken_utf8": broken_utf8}
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

    path, _, fingerprint = get_or_build(cache, describe, _FILE, build, SplitReport)
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
