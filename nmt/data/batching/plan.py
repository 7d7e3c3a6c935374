"""The order of a window: which rows make a batch, and which batches make an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Lengths = npt.NDArray[Any]

_BLOCK = 1 << 18
_SHOWN_ROWS = 8


@dataclass(frozen=True)
class Plan:
    """The batches of a window. Memory: 8 bytes a row, and about 40 a row while it is made.

    `rows` holds the rows in order of length, or document by document, cut into batches at `bounds`; `order` holds the
    numbers of the batches in the order in which they are trained on.
    """

    rows: Rows
    bounds: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    largest: int
    """Number of the batch that takes the most memory: with the most padded elements, both sides together, or words."""

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, position: int) -> Rows:
        """The rows of the batch at this position of the window."""
        return self.rows_of(int(self.order[position]))

    def rows_of(self, number: int) -> Rows:
        """The rows of the batch of this number."""
        return self.rows[self.bounds[number] : self.bounds[number + 1]]


def plan_window(
    rows: Rows,
    source_lengths: Lengths,
    target_lengths: Lengths,
    batch_tokens: int,
    group: int,
    rng: np.random.Generator,
) -> Plan:
    """Plan a window of these rows; the result depends on the arguments alone.

    Lengths are those of the rows' padded tensors, end symbol included. `group` is the number of batches in a global
    update: such batches are neighbours in length, so that no rank waits long for another.
    """
    order = _by_length(source_lengths, target_lengths, rng)
    bounds = cut(np.maximum(source_lengths, target_lengths)[order], batch_tokens)
    widths = [np.maximum.reduceat(lengths[order], bounds[:-1]) for lengths in (source_lengths, target_lengths)]
    elements = np.diff(bounds) * (widths[0].astype(np.int64) + widths[1])
    largest = int(np.argmax(np.append(elements, 0)))
    return Plan(rows[order], bounds, shuffled(len(bounds) - 1, group, rng), largest)


def plan_documents(
    rows: Rows, words: Lengths, longest: Lengths, batch_tokens: int, group: int, rng: np.random.Generator
) -> Plan:
    """The same for documents: neighbours are alike in their words and, next, in the words of their longest sentence.

    Nothing is padded, so a batch is as many words as fit. That its documents are alike keeps the steps of the recurrent
    layers few: there are as many as the longest sentence has words, and the longest document sentences.
    """
    order = _by_length(longest, words, rng)
    words = words[order].astype(np.int64)
    bounds = fill(words, batch_tokens)
    largest = int(np.argmax([*np.add.reduceat(words, bounds[:-1]), 0]))
    return Plan(rows[order], bounds, shuffled(len(bounds) - 1, group, rng), largest)


def fill(sizes: Lengths, batch_tokens: int) -> npt.NDArray[np.int64]:
    """Bounds [batches + 1] of consecutive rows, each batch as large as fits: sum of its sizes <= batch_tokens.

    A row that is larger than that is a batch alone. Python runs once a batch, not once a row.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    bounds = [0]
    while bounds[-1] < len(ends):
        start = bounds[-1]
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + batch_tokens, side="right"))
        bounds.append(max(fitting, start + 1))
    return np.asarray(bounds, np.int64)


def cut(longest: Lengths, batch_tokens: int) -> npt.NDArray[np.int64]:
    """Bounds [batches + 1] of consecutive rows, each batch as large as fits: rows x longest side <= batch_tokens.

    A row that is longer than that is a batch alone. Python runs once a batch, not once a row.
    """
    bounds = [0]
    while bounds[-1] < len(longest):
        start = bounds[-1]
        most = max(batch_tokens // int(longest[start]), 1)
        widths = np.maximum.accumulate(longest[start : start + most].astype(np.int64))
        fitting = int(np.searchsorted(widths * np.arange(1, len(widths) + 1), batch_tokens, side="right"))
        bounds.append(start + max(fitting, 1))
    return np.asarray(bounds, np.int64)


def _by_length(source: Lengths, target: Lengths, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Places in order of target length, then source length, then chance.

    All of it and the place itself are packed into one integer, 16 bits each for the lengths and 32 for the rest, and
    sorted in place: five times as fast as sorting places by a key, in half the memory.
    """
    place_bits = np.uint64(max(len(source) - 1, 0).bit_length())
    assert place_bits < 32, "a window has fewer rows"
    packed = np.empty(len(source), np.uint64)
    for start in range(0, len(source), _BLOCK):
        block = slice(start, start + _BLOCK)
        packed[block] = _sort_key(source[block], target[block], rng) >> place_bits << place_bits
    packed |= np.arange(len(source), dtype=np.uint64)
    packed.sort()
    packed &= (np.uint64(1) << place_bits) - np.uint64(1)
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


def shuffled(batches: int, group: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Whole groups of neighbours in a random order, each shuffled within; an incomplete group comes last."""
    order = np.arange(batches)
    whole, rest = divmod(batches, group)
    # The incomplete group is taken from a random place: it would always be the longest batches otherwise.
    start = int(rng.integers(whole + 1)) * group
    groups = np.delete(order, slice(start, start + rest)).reshape(whole, group)
    groups = rng.permuted(rng.permutation(groups), axis=1)
    return np.concatenate([groups.reshape(-1), rng.permutation(order[start : start + rest])])


def describe_rows(rows: Rows) -> str:
    """Returns the first row numbers, for messages: `rows 12, 7, 903, ...`."""
    return "rows " + ", ".join(map(str, rows[:_SHOWN_ROWS])) + (", ..." if len(rows) > _SHOWN_ROWS else "")
