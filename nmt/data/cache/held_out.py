"""Draws the validation text from the training text and keeps it in the cache."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from nmt.data.cache.digests import Digests
from nmt.data.cache.keeping import kept
from nmt.data.readers.base import SEPARATOR, Counts, HeldOut, SplitOptions, text_key
from nmt.data.readers.labelled import Collection
from nmt.data.readers.pairs import Corpus, Pair
from nmt.errors import ConfigError

FORMAT = 1
"""Part of every key: raise it when another text would be drawn."""
_FILE = "validation.jsonl"

Row = dict[str, Any]
"""A pair or a document as it is written into the file."""
Units = Callable[[int, Counts], Iterator[tuple[int, Iterable[Row]]]]
"""What is held out together (the pairs of a document, or one row), each with a random number made of a seed."""


@dataclass(frozen=True)
class SplitReport:
    """How much was drawn, and how much there was."""

    held_out: int
    read: int

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return json.dumps({"held_out": self.held_out, "read": self.read})

    @classmethod
    def from_json(cls, text: str) -> SplitReport:
        """The report that `to_json` wrote."""
        return cls(**json.loads(text))


def hold_out_pairs(corpora: Sequence[Corpus], options: SplitOptions, broken_utf8: str, cache: Path) -> Path:
    """Draws pairs, and holds them out of the corpora. Returns a file of JSON lines with the pairs.

    Each has `source`, `target`, and a `document`, which is its own where the corpus has no documents. Reads the text
    twice the first time; then the cache has the file. Raises ConfigError where there are too few pairs, and DataError
    where a corpus cannot be read.
    """

    def units(seed: int, counts: Counts) -> Iterator[tuple[int, Iterable[Row]]]:
        for index, corpus in enumerate(corpora):
            if corpus.has_documents:
                for number, pairs in groupby(corpus.read(counts), key=lambda pair: pair.document):
                    rows = ({**_pair(pair), "corpus": index, "document": f"{index} {number}"} for pair in pairs)
                    yield text_key(f"document {index} {number}", seed), rows
                continue
            for pair in corpus.read(counts):
                if pair.source.strip() and pair.target.strip():
                    row = {**_pair(pair), "corpus": index, "document": f"{index} line {pair.line}"}
                    yield text_key(pair.source, seed), [row]

    path, key = _kept_split(corpora, units, options, broken_utf8, cache)
    rows = _rows(path)
    texts = frozenset(text_key(row["source"], options.seed) for row in rows)
    for index, corpus in enumerate(corpora):
        numbers = (int(row["document"].split()[1]) for row in rows if corpus.has_documents and row["corpus"] == index)
        corpus.held_out = HeldOut(key, options.seed, texts, frozenset(numbers))
    return path


def hold_out_documents(collections: Sequence[Collection], options: SplitOptions, broken_utf8: str, cache: Path) -> Path:
    """The same for labelled documents, each with `text` and `label`; a text given as sentences is a list of them."""

    def units(seed: int, counts: Counts) -> Iterator[tuple[int, Iterable[Row]]]:
        for collection in collections:
            for document in collection.read(counts):
                if document.text.strip():
                    text = document.text.split(SEPARATOR) if document.is_split else document.text
                    yield text_key(document.text, seed), [{"text": text, "label": document.label}]

    path, key = _kept_split(collections, units, options, broken_utf8, cache)
    texts = frozenset(
        text_key(text if isinstance(text, str) else SEPARATOR.join(text), options.seed)
        for text in (row["text"] for row in _rows(path))
    )
    for collection in collections:
        collection.held_out = HeldOut(key, options.seed, texts)
    return path


def draw(units: Iterable[tuple[int, Iterable[Row]]], count: int) -> list[Row]:
    """Returns the rows of the units with the smallest numbers, in this order, until there are `count` rows or more.

    Of units with the same number the first counts; units of more than `count` rows are never taken. What is drawn does
    not depend on the order of different units. No more than twice `count` rows are held in memory.
    """
    drawn: dict[int, list[Row]] = {}
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


def _kept_split(
    texts: Sequence[Corpus] | Sequence[Collection], units: Units, options: SplitOptions, broken_utf8: str, cache: Path
) -> tuple[Path, str]:
    """The file of the split in the cache, and what identifies the split."""

    def describe(digests: Digests) -> dict[str, Any]:
        prints = [digests.of(f"split, format {FORMAT} {text.reading}", text.files, text.fingerprint) for text in texts]
        return {"split": options.model_dump(), "format": FORMAT, "texts": prints, "broken_utf8": broken_utf8}

    def make(_: Path, file: Path) -> SplitReport:
        counts = Counts()
        rows = draw(units(options.seed, counts), options.split)
        if len(rows) < options.split or 2 * len(rows) > counts.read:
            raise ConfigError(
                f"data.validation.split: {options.split:,} cannot be taken from the {counts.read:,} of data.train; at "
                "most half of them, with different sources and within documents of no more than these, can be"
            )
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return SplitReport(len(rows), counts.read)

    path, _, key = kept(cache, describe, _FILE, make, SplitReport.from_json)
    return path, key


def _pair(pair: Pair) -> Row:
    return {"source": pair.source, "target": pair.target}


def _rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]
