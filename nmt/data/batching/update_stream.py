"""Streams of updates: seeded, planned window by window, distributed over ranks, resumable at any update.

An epoch is a sequence of windows, each a random part of the corpus that is planned at a time. So the memory of a plan
does not grow with the corpus, and training reads consecutive rows from the disk: a window consists of whole blocks of
rows. A corpus of up to `WINDOW_ROWS` rows is one window.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from nmt.data.batching.plan import Plan
from nmt.data.cache import EncodedCollection, EncodedCorpus, Rows, WeightedRows

BLOCK_ROWS = 1 << 12
"""At 14 pieces of 16 bits a sentence, 115 kB a side are read from the disk at a time. A window is made of a thousand
blocks from anywhere in the corpus, so that a sorted corpus is not learned in its order."""
WINDOW_ROWS = 1 << 22
"""About 15,000 batches of 4,096 tokens: enough of each length, planned in half a second and 170 MB."""

_UPDATES_AHEAD = 2
_SHOWN_ROWS = 8


class AnyBatch(Protocol):
    """The interface of all batches to training."""

    @property
    def weight(self) -> float:
        """Factor of the batch's loss: 1, or 0 for the dummy batch of a rank without one in a window's last update."""

    def to(self, device: torch.device) -> AnyBatch: ...

    def describe(self, with_rows: bool = False) -> str:
        """Returns the size of the batch, for messages."""


BatchT = TypeVar("BatchT", bound=AnyBatch)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Position:
    """Position of training: the next update is update `update` of window `window` of epoch `epoch`, from 0.

    The end of an epoch is the position after the last update of its last window.
    """

    epoch: int = 0
    update: int = 0
    window: int = 0


@dataclass(frozen=True)
class Windows:
    """The windows of all epochs. A row of weight w occurs floor(w) times in an epoch, and once more with probability
    w - floor(w); its occurrences are spread over the windows."""

    parts: Sequence[WeightedRows]
    seed: int
    window_rows: int = WINDOW_ROWS
    block_rows: int = BLOCK_ROWS
    document_positions: npt.NDArray[np.int32] | None = None
    """Position of each row in its document, so that documents stay whole; None to draw single rows."""

    def __len__(self) -> int:
        """Windows of an epoch, all about equally large."""
        expected = sum((part.stop - part.start) * part.weight for part in self.parts)
        return max(math.ceil(expected / self.window_rows), 1)

    def rows(self, epoch: int, window: int) -> Rows:
        """Returns the rows of a window in the order of the corpus. They depend on the seed and the arguments alone."""
        starts, stops, shares = (np.concatenate(each) for each in zip(*map(self._blocks, self.parts), strict=True))
        order = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,))).permutation(len(starts))
        first, last = (len(order) * number // len(self) for number in (window, window + 1))
        mine = order[first:last]
        mine = mine[np.lexsort((mine, starts[mine]))]
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, window)))
        blocks = zip(starts[mine].tolist(), stops[mine].tolist(), shares[mine].tolist(), strict=True)
        return np.concatenate([np.empty(0, np.int64), *(self._draw_rows(*block, rng) for block in blocks)])

    def _blocks(self, part: WeightedRows) -> tuple[Rows, Rows, npt.NDArray[np.float64]]:
        """First row, end and share of each block, as often as it occurs in an epoch."""
        starts = np.arange(part.start, part.stop, self.block_rows)
        whole = int(part.weight)
        shares = [1.0] * whole + ([part.weight - whole] if part.weight > whole else [])
        occurring = np.tile(starts, len(shares))
        stops = np.minimum(occurring + self.block_rows, part.stop)
        return occurring, stops, np.repeat(shares, len(starts))

    def _draw_rows(self, start: int, stop: int, share: float, rng: np.random.Generator) -> Rows:
        """The rows of a block, or a random share of them; of documents, those that begin in the block."""
        if self.document_positions is None:
            rows = np.arange(start, stop)
            return rows if share == 1.0 else rows[rng.random(len(rows)) < share]
        rows = np.arange(_next_document(self.document_positions, start), _next_document(self.document_positions, stop))
        if share == 1.0:
            return rows
        document = np.cumsum(self.document_positions[rows] == 0)
        return rows[(rng.random(document[-1] + 1) < share)[document]] if len(rows) else rows


def _next_document(positions: npt.NDArray[np.int32], row: int) -> int:
    """The first row from this one on that begins a document."""
    while row < len(positions):
        begins = np.flatnonzero(positions[row : row + BLOCK_ROWS] == 0)
        if len(begins):
            return row + int(begins[0])
        row += BLOCK_ROWS
    return len(positions)


@dataclass(eq=False)
class UpdateStream(ABC, Generic[BatchT]):
    """Batches in an order that depends on the seed and the epoch.

    A global update is `world * accumulation` consecutive batches of that order, so that two ranks with accumulation 1
    train on the same batches as one rank with accumulation 2.
    """

    text: EncodedCorpus | EncodedCollection
    batch_tokens: int
    """Bound of the size of a batch. A longer pair or document is a batch alone."""
    seed: int
    rank: int
    world: int
    accumulation: int
    window_rows: int = field(default=WINDOW_ROWS, kw_only=True)
    block_rows: int = field(default=BLOCK_ROWS, kw_only=True)

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world
        self.windows = Windows(self.text.parts, self.seed, self.window_rows, self.block_rows)
        self._planned: tuple[tuple[int, int], Plan] | None = None
        self._counted: dict[tuple[int, int], int] = {}

    @abstractmethod
    def plan(self, rows: Rows, rng: np.random.Generator) -> Plan:
        """Returns the plan of a window of these rows. It depends on the arguments alone."""

    @abstractmethod
    def batch(self, rows: Rows, seeds: np.random.SeedSequence | None) -> BatchT:
        """Returns the batch of these rows; `seeds` determine random parts, None leaves them out."""

    @abstractmethod
    def dummy_batch(self) -> BatchT:
        """Returns a batch of weight 0: a rank makes the same forward and backward pass, without a gradient."""

    def largest_batch(self) -> BatchT:
        """Returns the batch of the first window that needs the most memory, without random parts.

        If it fits, nearly all others do: windows differ a little, and sampling can add pieces.
        """
        plan = self.planned(0, 0)
        return self.batch(plan.rows_of(plan.largest), None)

    def updates_per_epoch(self, epoch: int) -> int:
        """Returns the updates of an epoch, the same on every rank; all windows are counted like the first."""
        return len(self.windows) * self._updates_of(epoch, 0)

    def following(self, position: Position) -> Position:
        """Returns the position after one more update, in the same epoch: the end of an epoch is a position too."""
        done = position.update + 1
        if done < self._updates_of(position.epoch, position.window) or position.window == len(self.windows) - 1:
            return replace(position, update=done)
        return Position(position.epoch, window=position.window + 1)

    def ends_epoch(self, position: Position) -> bool:
        """Whether no update of its epoch is left at this position."""
        last = position.window == len(self.windows) - 1
        return last and position.update >= self._updates_of(position.epoch, position.window)

    def updates(self, position: Position) -> Iterator[list[BatchT]]:
        """Yields the updates of this rank, from the position to the end of its epoch.

        In the last update of a window a rank may have fewer batches than the others; dummy batches of weight 0 fill its
        list. Batches are prepared ahead in a thread, which ends when the iterator is closed or dropped.
        """
        return prefetch(self._updates(position), _UPDATES_AHEAD)

    @property
    def group(self) -> int:
        return self.world * self.accumulation

    def planned(self, epoch: int, window: int) -> Plan:
        """Returns the plan of a window. The last one is kept."""
        planned = self._planned
        if planned is None or planned[0] != (epoch, window):
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, window, 0)))
            plan = self.plan(self.windows.rows(epoch, window), rng)
            self._counted[epoch, window] = -(-len(plan) // self.group)
            self._planned = planned = (epoch, window), plan
        return planned[1]

    def _updates(self, position: Position) -> Iterator[list[BatchT]]:
        windows = range(position.window, len(self.windows))
        plans = ((window, self.planned(position.epoch, window)) for window in windows)
        # Each window is planned while the one before is in use.
        for window, plan in prefetch(plans, 0, "plan"):
            done = position.update if window == position.window else 0
            for first in range(done * self.group, len(plan), self.group):
                # Every world-th batch: an incomplete update is spread over the ranks instead of filling the first ones.
                mine = range(first + self.rank, min(first + self.group, len(plan)), self.world)
                update = [self._batch(plan, position.epoch, window, number) for number in mine]
                missing = self.accumulation - len(update)
                yield update + [self.dummy_batch() for _ in range(missing)]

    def _batch(self, plan: Plan, epoch: int, window: int, number: int) -> BatchT:
        # Four numbers keep these seeds apart from those of windows and plans.
        seeds = np.random.SeedSequence(self.seed, spawn_key=(epoch, window, number, 1))
        return self.batch(plan.batch(number), seeds)

    def _updates_of(self, epoch: int, window: int) -> int:
        """Updates of a window; the last one may be incomplete."""
        if (epoch, window) not in self._counted:
            self.planned(epoch, window)
        return self._counted[epoch, window]


def prefetch(items: Iterator[Item], ahead: int, thread: str = "prefetch") -> Iterator[Item]:
    """Yields the same items, none of which is None. A thread prepares one, while up to `ahead` others are ready.

    An exception of `items` is raised here, after the items before it. The thread starts with the first request and has
    ended when this iterator is exhausted or closed, as on leaving a `for` loop.
    """
    with ThreadPoolExecutor(1, thread) as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(ahead + 1))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(pool.submit(next, items, None))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def describe_rows(rows: npt.NDArray[np.int64]) -> str:
    """Returns the first row numbers, for messages: `rows 12, 7, 903, ...`."""
    return "rows " + ", ".join(map(str, rows[:_SHOWN_ROWS])) + (", ..." if len(rows) > _SHOWN_ROWS else "")
