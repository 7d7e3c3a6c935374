"""The order of an epoch: which rows make a batch, and which batches make an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochPlan:
    """The batches of an epoch. Memory: 8 bytes a row, and about 30 a row while it is made.

    `rows` holds the rows in order of length, cut into batches at `bounds`; `order` holds the numbers of the batches
    in the order in which they are trained on.
    """

    rows: Rows
    bounds: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, position: int) -> Rows:
        """The rows of the batch at this position of the epoch."""
        number = self.order[position]
        return self.rows[self.bounds[number] : self.bounds[number + 1]]


def plan_epoch(
    source_lengths: npt.NDArray[Any],
    target_lengths: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    batch_tokens: int,
    group: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Plan an epoch; the result depends on the arguments alone.

    Lengths are those of the padded tensors, end symbol included. A pair of weight w occurs floor(w) times, and once
    more with probability w - floor(w). `group` is the number of batches in a global update: such batches are
    neighbours in length, so that no rank waits long for another.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    rows = _drawn(weights, rng)
    rows = rows[np.argsort(_sort_key(source_lengths[rows], target_lengths[rows], rng))]
    bounds = cut(np.maximum(source_lengths[rows], target_lengths[rows]), batch_tokens)
    return EpochPlan(rows, bounds, _shuffled(len(bounds) - 1, group, rng))


def plan_documents(
    words: npt.NDArray[Any],
    longest: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    batch_tokens: int,
    group: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """The same for documents: neighbours are alike in their words and, next, in the words of their longest sentence.

    Nothing is padded, so a batch is as many words as fit. That its documents are alike keeps the steps of the recurrent
    layers few: there are as many as the longest sentence has words, and the longest document sentences.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    rows = _drawn(weights, rng)
    rows = rows[np.argsort(_sort_key(longest[rows], words[rows], rng))]
    bounds = fill(words[rows], batch_tokens)
    return EpochPlan(rows, bounds, _shuffled(len(bounds) - 1, group, rng))


def fill(sizes: npt.NDArray[Any], batch_tokens: int) -> npt.NDArray[np.int64]:
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


def cut(longest: npt.NDArray[Any], batch_tokens: int) -> npt.NDArray[np.int64]:
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


def _drawn(weights: npt.NDArray[Any], rng: np.random.Generator) -> Rows:
    certain = np.floor(weights)
    times = certain.astype(np.int64) + (rng.random(len(weights)) < weights - certain)
    return np.repeat(np.arange(len(weights)), times)


def _sort_key(source: npt.NDArray[Any], target: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Target length, then source length, then chance, packed into 16, 16 and 32 bits: one sort of integers.

    Lengths are disturbed by up to 2% (target) and 1 piece (source), so that long pairs, which are few and would
    otherwise always meet the same neighbours, change company. The source length rises and falls in turn
    from one target length to the next: a batch across the border then has sources of one length, too.
    """
    target = np.rint(target * rng.uniform(0.98, 1.02, len(target))).clip(0, 0xFFFF).astype(np.uint64)
    source = np.rint(source + rng.uniform(-1.0, 1.0, len(source))).clip(0, 0xFFFF).astype(np.uint64)
    source = np.where(target % 2 == 0, source, 0xFFFF - source)
    chance = rng.integers(0, 1 << 32, len(target), dtype=np.uint64)
    return (target << np.uint64(48)) | (source << np.uint64(32)) | chance


def _shuffled(batches: int, group: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Whole groups of neighbours in a random order, each shuffled within; an incomplete group comes last."""
    order = np.arange(batches)
    whole, rest = divmod(batches, group)
    # The incomplete group is taken from a random place: it would always be the longest batches otherwise.
    start = int(rng.integers(whole + 1)) * group
    groups = np.delete(order, slice(start, start + rest)).reshape(whole, group)
    groups = rng.permuted(rng.permutation(groups), axis=1)
    return np.concatenate([groups.reshape(-1), rng.permutation(order[start : start + rest])])
