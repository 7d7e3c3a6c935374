"""IBM model 1 (Brown 1993, section 4.1) over encoded pairs: p(target piece | source piece) by expectation-maximisation.

Every target piece of a pair is a translation of one of its source pieces, or of the empty piece that every source has
besides, all with the same prior:

    count(t | s) = sum over pairs and positions of t in them of w p(t | s) / sum over s' of the source of p(t | s')
    p(t | s)     = count(t | s) / sum over t' of count(t' | s)

A pair counts w times, as often as it occurs in an epoch on average: the weight of its corpus.

Model 1 has a single optimum but for ties, so that nothing is drawn: the result is a function of the pairs.

Memory is bounded whatever the corpus: pairs are read in blocks, and the table is a sorted array of the pairs of pieces
that occur together, of which the rarest are forgotten where there are too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nmt.data.cache import Offsets, WeightedRows

Numbers = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]

BLOCK = 1 << 21
"""Links between pieces that are looked at together: 200 MB. A pair with more of them is left out."""
LARGEST = 1 << 24
"""Pairs of pieces that a table has at most: 16 bytes each, five times as much while it grows."""
MOST_ROWS = 1_000_000
"""Pairs of sentences that are read; of a larger corpus every n-th one."""


class Pairs(Protocol):
    """Encoded pairs of sentences by row number."""

    def __len__(self) -> int: ...

    def lengths(self, rows: Numbers) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...

    def source(self, rows: Numbers) -> tuple[npt.NDArray[np.int32], Offsets]: ...

    def target(self, rows: Numbers) -> tuple[npt.NDArray[np.int32], Offsets]: ...

    def is_pair(self, rows: Numbers) -> npt.NDArray[np.bool_]: ...


@dataclass(frozen=True)
class Table:
    """What the pairs say of pieces."""

    source: Numbers
    """Source pieces in ascending order; the empty piece is the number after the last one."""
    target: Numbers
    """The target piece of each entry, ascending for one source piece."""
    probability: Weights
    """p(target | source) of each entry."""
    occurrences: Weights
    """How often each target piece occurs in an epoch, [target pieces]."""


@dataclass(frozen=True)
class _Links:
    """All pairs of a source and a target piece that may be translations of each other in some pairs of sentences."""

    keys: Numbers
    """source * target_size + target of each link; those of a position of a target follow each other."""
    starts: Numbers
    """The first link of each position of a target."""
    sources: Numbers
    """How many links each position has."""
    weights: Weights
    """How often each position counts."""


@dataclass(frozen=True)
class _Reading:
    """What is read of the pairs, as often as it is asked for."""

    pairs: Pairs
    rows: Numbers
    weights: Weights
    """Of each row."""
    source_size: int
    target_size: int
    block: int

    def __iter__(self) -> Iterator[_Links]:
        """The links of all pairs of these rows, a bounded number at a time."""
        for start in range(0, len(self.rows), self.block // 16):
            block = slice(start, start + self.block // 16)
            some, weights = self.rows[block], self.weights[block]
            source_lengths, target_lengths = (lengths.astype(np.int64) for lengths in self.pairs.lengths(some))
            sizes = (source_lengths + 1) * target_lengths
            fits = self.pairs.is_pair(some) & (sizes > 0) & (sizes <= self.block)
            some, weights, ends = some[fits], weights[fits], np.cumsum(sizes[fits])
            first = 0
            while first < len(some):
                before = int(ends[first - 1]) if first else 0
                last = int(np.searchsorted(ends, before + self.block, side="right"))
                yield self._links(some[first:last], weights[first:last])
                first = last

    def _links(self, rows: Numbers, weights: Weights) -> _Links:
        source, source_offsets = self.pairs.source(rows)
        target, target_offsets = self.pairs.target(rows)
        # The empty piece before each source.
        source = np.insert(source.astype(np.int64), source_offsets[:-1], self.source_size)
        first_source = source_offsets[:-1] + np.arange(len(rows))
        row = np.repeat(np.arange(len(rows)), np.diff(target_offsets))
        sources = (np.diff(source_offsets) + 1)[row]
        ends = np.cumsum(sources)
        starts = ends - sources
        places = np.arange(ends[-1]) + np.repeat(first_source[row] - starts, sources)
        keys = source[places] * self.target_size + np.repeat(target.astype(np.int64), sources)
        return _Links(keys, starts, sources, weights[row])


def estimate(
    pairs: Pairs,
    source_size: int,
    target_size: int,
    *,
    iterations: int,
    parts: Sequence[WeightedRows] = (),
    most_rows: int = MOST_ROWS,
    largest: int = LARGEST,
    block: int = BLOCK,
) -> Table:
    """The table after so many iterations, of which the first begins with equal probabilities.

    `parts` says which of the pairs count how often; without it each counts once.
    """
    assert iterations >= 1
    rows = np.arange(min(len(pairs), most_rows), dtype=np.int64) * len(pairs) // max(min(len(pairs), most_rows), 1)
    reading = _Reading(pairs, rows, _weights(rows, parts), source_size, target_size, block)
    keys, counts, occurrences = _begin(reading, largest)
    probability = _normalized(keys, counts, target_size)
    for _ in range(iterations - 1):
        counts = np.zeros(len(keys))
        for links in reading:
            places = np.searchsorted(keys, links.keys)
            places[places == len(keys)] = 0
            shares = np.where(keys[places] == links.keys, probability[places], 0.0)
            totals = np.add.reduceat(shares, links.starts)
            # Nothing is known of a position all of whose links were forgotten: 0 / 1 counts nothing.
            shares /= np.repeat(np.where(totals > 0.0, totals, 1.0) / links.weights, links.sources)
            counts += np.bincount(places, shares, len(keys))
        probability = _normalized(keys, counts, target_size)
    return Table(keys // target_size, keys % target_size, probability, occurrences)


def _weights(rows: Numbers, parts: Sequence[WeightedRows]) -> Weights:
    """How often each row counts."""
    if not parts:
        return np.ones(len(rows))
    owner = np.searchsorted([part.stop for part in parts], rows, side="right")
    return np.asarray([part.weight for part in parts])[owner]


def _begin(reading: _Reading, largest: int) -> tuple[Numbers, Weights, Weights]:
    """The pairs of pieces that occur together, sorted, their counts after the first iteration, and the occurrences of
    the target pieces."""
    keys, counts = np.empty(0, np.int64), np.empty(0)
    occurrences = np.zeros(reading.target_size)
    waiting: list[tuple[Numbers, Weights]] = []
    for links in reading:
        targets = links.keys[links.starts] % reading.target_size
        occurrences += np.bincount(targets, links.weights, reading.target_size)
        waiting.append(_summed(links.keys, np.repeat(links.weights / links.sources, links.sources)))
        # Merged when there is as much as was merged before: each entry is sorted a few times, not once a block.
        if sum(len(each) for each, _ in waiting) > max(len(keys), reading.block):
            keys, counts = _merged([(keys, counts), *waiting], largest)
            waiting.clear()
    return *_merged([(keys, counts), *waiting], largest), occurrences


def _merged(parts: list[tuple[Numbers, Weights]], largest: int) -> tuple[Numbers, Weights]:
    """The sum of the parts; of more than `largest` entries about half are kept, those that count most."""
    keys, counts = _summed(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    if len(keys) > largest:
        bound = np.partition(counts, len(counts) - largest // 2)[len(counts) - largest // 2]
        kept = counts >= bound
        if np.count_nonzero(kept) > largest:  # Many that count the same.
            kept = counts > bound
        keys, counts = keys[kept], counts[kept]
    return keys, counts


def _summed(keys: Numbers, weights: Weights) -> tuple[Numbers, Weights]:
    """Each key once, in ascending order, with the sum of its weights."""
    unique, places = np.unique(keys, return_inverse=True)
    return unique, np.bincount(places, weights, len(unique)).astype(np.float64, copy=False)


def _normalized(keys: Numbers, counts: Weights, target_size: int) -> Weights:
    sources = keys // target_size
    totals = np.bincount(sources, counts)
    return counts / np.where(totals > 0.0, totals, 1.0)[sources] if len(keys) else counts
