"""Leaves pairs out of the training text by rules on the text, once, into the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nmt.data.cache.encoding import Chunk, encode_chunks, read_chunks, refuse_empty
from nmt.data.cache.pair_encoding import CHUNK_PAIRS
from nmt.data.cache.store import Digests, get_or_build
from nmt.data.cleaning import PairRules
from nmt.data.readers.base import Counts, LeftOut
from nmt.data.readers.corpora import Corpus, Pair

FORMAT = 1
"""Part of every fingerprint: raise it if other pairs would be left out."""
SHOWN = 3
"""Pairs of each reason in the log."""
SHOWN_CHARACTERS = 100
_FILE = "left_out.jsonl"


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
        texts = digests.of_texts(f"left out, format {FORMAT}", corpora)
        broken_utf8 = rules.filters.broken_utf8
        return {"format": FORMAT, "texts": texts, "broken_utf8": broken_utf8, "left out": rules.description}

    def build(_: Path, file: Path) -> LeftOutReport:
        return _build(corpora, rules, workers, file)

    path, report, fingerprint = get_or_build(cache, describe, _FILE, build, LeftOutReport)
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
