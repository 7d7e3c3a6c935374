"""Plans of windows: which rows make a batch, and which batches make an update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.data.cache.columns import Lengths, Mask, Offsets, Rows, packed_buckets, row_blocks

JITTER = 0.1
"""By how much of its mean length, at most, a document is moved among the others."""


@dataclass(frozen=True)
class Plan:
    """The batches of a window. Memory: 8 bytes a row, and about 40 a row while it is made.

    Each batch is a bucket: consecutive rows in order of length, or document by document.
    """

    rows: Rows
    """In the order of the buckets."""
    bounds: Offsets
    """Of the buckets in `rows`, [batches + 1]."""
    order: npt.NDArray[np.int64]
    """Numbers of the buckets in the order of training."""
    largest: int
    """Number of the bucket that needs the most memory: the most padded elements, both sides together, or words."""

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, position: int) -> Rows:
        """Returns the rows of the batch at this position of the window."""
        return self.rows_of(int(self.order[position]))

    def rows_of(self, number: int) -> Rows:
        return self.rows[self.bounds[number] : self.bounds[number + 1]]


SOURCE_STEPS, TARGET_STEPS = 4, 8
"""Widths of each side between two powers of two, where batches have few shapes."""
FEW_ROWS = 8
"""The sentences of such a batch are a multiple of it."""


def few_widths(lengths: Any, steps: int) -> npt.NDArray[np.int64]:
    """Returns the next widths of few: so many equally far apart between two powers of two."""
    below = 1 << np.maximum(np.ceil(np.log2(np.maximum(lengths, 2))).astype(np.int64) - 1, 0)
    unit = np.maximum(below // steps, 1)
    return np.asarray(-(-lengths // unit) * unit, np.int64)


def plan_pairs(
    rows: Rows,
    source_lengths: Lengths,
    target_lengths: Lengths,
    batch_tokens: int,
    group: int,
    rng: np.random.Generator,
    in_few_shapes: bool = False,
) -> Plan:
    """Plans a window of pairs. The result depends on the arguments alone.

    Args:
        source_lengths, target_lengths: of the rows' padded tensors, end symbol included.
        batch_tokens: most sentences x longest side of a batch.
        group: number of batches in a global update. They are neighbours in length, so that no rank waits long for
            another.
        in_few_shapes: whether shapes are equal in every window of equal lengths. Pairs of the same two `few_widths` are
            in a random order, and only they change places.
    """
    source, target = source_lengths, target_lengths
    order: npt.NDArray[Any]
    if in_few_shapes:
        source, target = few_widths(source, SOURCE_STEPS), few_widths(target, TARGET_STEPS)
        # The source length rises and falls in turn from one target width to the next.
        falls = np.unique(target, return_inverse=True)[1] % 2 == 1
        order = np.lexsort((rng.random(len(rows)), np.where(falls, -source, source), target))
    else:
        order = _sort_by_length(source, target, rng)
    source, target = source[order], target[order]
    bounds = padded_buckets(np.maximum(source, target), batch_tokens, FEW_ROWS if in_few_shapes else 1)
    widths = [np.maximum.reduceat(lengths, bounds[:-1]).astype(np.int64) for lengths in (source, target)]
    return _plan(rows[order], bounds, np.diff(bounds) * (widths[0] + widths[1]), group, rng)


def plan_pairs_with_context(
    rows: Rows,
    is_pair: Mask,
    positions: Lengths,
    source_lengths: Lengths,
    target_lengths: Lengths,
    reach: int,
    reads_targets: bool,
    batch_tokens: int,
    group: int,
    rng: np.random.Generator,
) -> Plan:
    """Plans a window of whole documents. The result depends on the arguments alone.

    Documents with sentences of similar length are neighbours. Their sentences stay together.

    Args:
        rows: all of the window.
        is_pair: marks the rows to train on; the others are context.
        positions: of each row in its document.
        reach: most sentences that are read before each pair.
        reads_targets: whether the targets of context are read as well.
        source_lengths, target_lengths, batch_tokens, group, rng: as for `plan_pairs`.
    """
    longest = np.maximum(source_lengths, target_lengths).astype(np.int64)
    order = documents_by_length(longest, positions, rng)
    longest, is_pair = longest[order], is_pair[order]
    bounds, reads = document_buckets(longest, is_pair, positions[order], reach, batch_tokens)
    source, target = source_lengths[order], target_lengths[order]
    translated = np.full(len(order), True) if reads_targets else is_pair
    sides = [(source[read], target[read][translated[read]]) for read in reads]
    elements = [sum(len(lengths) * int(lengths.max()) for lengths in each) for each in sides]
    return _plan(rows[order[is_pair]], bounds, elements, group, rng)


def plan_documents(
    rows: Rows, words: Lengths, longest: Lengths, batch_tokens: int, group: int, rng: np.random.Generator
) -> Plan:
    """Plans a window of labelled documents, in order of words, then of words of the longest sentence.

    Nothing is padded, so a batch is as many words as fit. Similar documents keep the steps of the recurrent layers few:
    there are as many as the longest sentence has words, and the longest document sentences.
    """
    order = _sort_by_length(longest, words, rng)
    words = words[order].astype(np.int64)
    bounds = packed_buckets(words, batch_tokens)
    return _plan(rows[order], bounds, np.add.reduceat(words, bounds[:-1]), group, rng)


def _plan(rows: Rows, bounds: Offsets, sizes: Iterable[int], group: int, rng: np.random.Generator) -> Plan:
    return Plan(rows, bounds, _shuffled_groups(len(bounds) - 1, group, rng), int(np.argmax([*sizes, 0])))


def length_batches(
    lengths: Sequence[int], batch_tokens: int, rank: int = 0, world: int = 1, *, packed: bool = False
) -> Iterator[list[int]]:
    """Yields rows of similar length, the longest first, every `world`-th batch; empty rows are left out.

    Rows x longest row, its end included, is `batch_tokens` or less; of `packed` rows, which have no padding, the sum of
    their lengths. A longer row is a batch alone. The same batches whatever the number of processes.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    buckets = packed_buckets(sizes[order], batch_tokens) if packed else padded_buckets(sizes[order] + 1, batch_tokens)
    for start, stop in islice(pairwise(buckets), rank, None, world):
        yield order[start:stop].tolist()


def padded_buckets(longest: Lengths, batch_tokens: int, multiple: int = 1) -> Offsets:
    """Returns the bounds [buckets + 1] of consecutive rows, as many in each as fit: rows x longest <= batch_tokens.

    A longer row is a bucket alone. Buckets of more rows than `multiple` have a multiple of it, except the last. Python
    runs once a bucket, not once a row.
    """
    bounds = [0]
    while bounds[-1] < len(longest):
        start = bounds[-1]
        fitting = max(_fitting(longest[start:], int(longest[start]), batch_tokens, 1), 1)
        if start + fitting < len(longest) and fitting > multiple:
            fitting -= fitting % multiple
        bounds.append(start + fitting)
    return np.asarray(bounds, np.int64)


def _fitting(longest: Lengths, width: int, batch_tokens: int, least: int) -> int:
    """The number of first rows that fit into a bucket; `width` is the length of a row that it contains for certain."""
    most = max(batch_tokens // width, least)
    widths = np.maximum.accumulate(longest[:most].astype(np.int64))
    return int(np.searchsorted(widths * np.arange(1, len(widths) + 1), batch_tokens, side="right"))


def _sort_by_length(source: Lengths, target: Lengths, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Returns the indices in order of target length, then source length, then chance.

    All of it and the index itself are packed into one integer, 16 bits each for the lengths and 32 for the rest, and
    sorted in place: five times as fast as sorting indices by a key, in half the memory.
    """
    index_bits = np.uint64(max(len(source) - 1, 0).bit_length())
    assert index_bits < 32, "a window has fewer rows"
    packed = np.empty(len(source), np.uint64)
    for block in row_blocks(len(source)):
        packed[block] = _sort_key(source[block], target[block], rng) >> index_bits << index_bits
    packed |= np.arange(len(source), dtype=np.uint64)
    packed.sort()
    packed &= (np.uint64(1) << index_bits) - np.uint64(1)
    return packed


def _sort_key(source: Lengths, target: Lengths, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Target length, then source length, then chance, in 16, 16 and 32 bits.

    Lengths are disturbed by up to 2% (target) and 1 piece (source), so that long pairs, which are few and would
    otherwise always meet the same neighbours, change company. The source length rises and falls in turn
    from one target length to the next: a batch across the border then has sources of one length, too.
    """
    target = np.rint(target * rng.uniform(0.98, 1.02, len(target))).clip(0, 0xFFFF).astype(np.uint64)
    source = np.rint(source + rng.uniform(-1.0, 1.0, len(source))).clip(0, 0xFFFF).astype(np.uint64)
    source = np.where(target % 2 == 0, source, 0xFFFF - source)
    chance = rng.integers(0, 1 << 32, len(target), dtype=np.uint64)
    return (target << np.uint64(48)) | (source << np.uint64(32)) | chance


def _shuffled_groups(batches: int, group: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Whole groups of neighbours in a random order, each shuffled within; an incomplete group comes last."""
    order = np.arange(batches)
    whole, rest = divmod(batches, group)
    # The incomplete group is taken from a random place: it would always be the longest batches otherwise.
    start = int(rng.integers(whole + 1)) * group
    groups = np.delete(order, slice(start, start + rest)).reshape(whole, group)
    groups = rng.permuted(rng.permutation(groups), axis=1)
    return np.concatenate([groups.reshape(-1), rng.permutation(order[start : start + rest])])


def document_buckets(
    longest: Lengths, is_pair: Mask, positions: Lengths, reach: int, batch_tokens: int
) -> tuple[Offsets, list[slice]]:
    """Forms buckets of consecutive sentences, as many in each as fit: sentences x longest side <= batch_tokens.

    A document may continue in the next bucket, where up to `reach` of its sentences are read again. They count, like
    sentences that are no pairs. The context of a single pair is read even if it does not fit.

    Returns the bounds [buckets + 1] of the buckets among all pairs, and the indices of the sentences of each: pairs and
    their context. The last sentence is a pair.
    """
    pairs, bounds = np.flatnonzero(is_pair), [0]
    reads: list[slice] = []
    while bounds[-1] < len(pairs):
        pair = int(pairs[bounds[-1]])
        context = int(min(positions[pair], reach))
        start = pair - context
        fitting = _fitting(longest[start:], int(longest[pair]), batch_tokens, context + 1)
        bounds.append(int(np.searchsorted(pairs, start + max(fitting, context + 1))))
        reads.append(slice(start, int(pairs[bounds[-1] - 1]) + 1))
    return np.asarray(bounds, np.int64), reads


def documents_by_length(longest: Lengths, positions: Lengths, rng: np.random.Generator | None = None) -> Rows:
    """Returns the indices of sentences in order of their documents' mean lengths, disturbed by chance with `rng`."""
    begins = np.flatnonzero(positions == 0)
    if not len(begins):
        return begins
    sizes = np.diff(begins, append=len(positions))
    means = np.add.reduceat(longest, begins) / sizes
    if rng is not None:
        means *= rng.uniform(1 - JITTER, 1 + JITTER, len(means))
    order = np.argsort(means, kind="stable")
    begins, sizes = begins[order], sizes[order]
    indices: Rows = np.arange(len(positions)) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
    return indices
