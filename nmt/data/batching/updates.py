"""A stream of updates: seeded, planned window by window, shared out to ranks, resumable at any update.

What a batch holds is its own affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from nmt.data.batching.plan import Plan, Rows
from nmt.data.batching.prefetch import prefetch
from nmt.data.batching.windows import Windows

_UPDATES_AHEAD = 2


class AnyBatch(Protocol):
    """What training knows of a batch, whatever is in it."""

    @property
    def weight(self) -> float:
        """Factor of the batch's loss: 1, or 0 for the stand-in of a rank without a batch in a window's last update."""

    def to(self, device: torch.device) -> AnyBatch:
        """The same on a device."""

    def describe(self, with_rows: bool = False) -> str:
        """For messages."""


BatchT = TypeVar("BatchT", bound=AnyBatch)


@dataclass(frozen=True)
class Position:
    """Where training stands: the next update is update `update` of window `window` of epoch `epoch`, counted from 0.

    The end of an epoch is the position after the last update of its last window.
    """

    epoch: int = 0
    update: int = 0
    window: int = 0


class UpdateStream(ABC, Generic[BatchT]):
    """Batches in an order that depends on the seed and the epoch.

    A global update is `world * accumulation` consecutive batches of that order, so that two ranks with accumulation 1
    train on the same batches as one rank with accumulation 2.
    """

    def __init__(self, windows: Windows, rank: int, world: int, accumulation: int) -> None:
        assert 0 <= rank < world
        self.windows = windows
        self.rank = rank
        self.world = world
        self.accumulation = accumulation
        self._planned: tuple[tuple[int, int], Plan] | None = None
        self._counted: dict[tuple[int, int], int] = {}

    @abstractmethod
    def plan(self, rows: Rows, rng: np.random.Generator) -> Plan:
        """The batches of the rows of a window; they depend on the arguments alone."""

    @abstractmethod
    def batch(self, rows: Rows, seeds: np.random.SeedSequence) -> BatchT:
        """The batch of these rows; `seeds` are for what is random in it."""

    @abstractmethod
    def stand_in(self) -> BatchT:
        """A batch of weight 0: gives a rank the same forward and backward pass, and no gradient."""

    @abstractmethod
    def largest_batch(self) -> BatchT:
        """The batch of the first window that takes the most memory; if it fits, so do the others, nearly."""

    def updates_per_epoch(self, epoch: int) -> int:
        """Updates of an epoch, the same on every rank; of several windows all count as the first one does."""
        return len(self.windows) * self._updates_of(epoch, 0)

    def following(self, position: Position) -> Position:
        """The position after one more update; its epoch is the same, since the end of an epoch is a position too."""
        done = position.update + 1
        if done < self._updates_of(position.epoch, position.window) or position.window == len(self.windows) - 1:
            return replace(position, update=done)
        return Position(position.epoch, window=position.window + 1)

    def ends_epoch(self, position: Position) -> bool:
        """Whether no update of its epoch is left at this position."""
        last = position.window == len(self.windows) - 1
        return last and position.update >= self._updates_of(position.epoch, position.window)

    def updates(self, position: Position) -> Iterator[list[BatchT]]:
        """The updates of this rank, from the position to the end of its epoch.

        In the last update of a window a rank may have fewer batches than the others; stand-ins of weight 0 fill its
        list. Batches are made ahead in a thread, which ends when the iterator is closed or dropped.
        """
        return prefetch(self._updates(position), _UPDATES_AHEAD)

    @property
    def group(self) -> int:
        """Batches of a global update."""
        return self.world * self.accumulation

    def planned(self, epoch: int, window: int) -> Plan:
        """The plan of a window, made once while it lasts."""
        planned = self._planned
        if planned is None or planned[0] != (epoch, window):
            rng = np.random.default_rng(np.random.SeedSequence(self.windows.seed, spawn_key=(epoch, window, 0)))
            plan = self.plan(self.windows.rows(epoch, window), rng)
            self._counted[epoch, window] = -(-len(plan) // self.group)
            self._planned = planned = (epoch, window), plan
        return planned[1]

    def _updates(self, position: Position) -> Iterator[list[BatchT]]:
        for window, plan in self._plans(position.epoch, position.window):
            done = position.update if window == position.window else 0
            for first in range(done * self.group, len(plan), self.group):
                # Every world-th batch: an incomplete update is spread over the ranks instead of filling the first ones.
                mine = range(first + self.rank, min(first + self.group, len(plan)), self.world)
                update = [self._batch(plan, position.epoch, window, number) for number in mine]
                missing = self.accumulation - len(update)
                yield update + [self.stand_in() for _ in range(missing)]

    def _plans(self, epoch: int, first: int) -> Iterator[tuple[int, Plan]]:
        """The windows of an epoch from this one on; each is planned while the one before it is in use."""
        with ThreadPoolExecutor(1, "plan") as ahead:
            plan = self.planned(epoch, first)
            for window in range(first + 1, len(self.windows)):
                following = ahead.submit(self.planned, epoch, window)
                yield window - 1, plan
                plan = following.result()
            yield len(self.windows) - 1, plan

    def _batch(self, plan: Plan, epoch: int, window: int, number: int) -> BatchT:
        # As many numbers as nothing else has keep these seeds apart from those of the plan.
        seeds = np.random.SeedSequence(self.windows.seed, spawn_key=(epoch, window, number, 1))
        return self.batch(plan.batch(number), seeds)

    def _updates_of(self, epoch: int, window: int) -> int:
        """Updates of a window; the last one may be incomplete."""
        if (epoch, window) not in self._counted:
            self.planned(epoch, window)
        return self._counted[epoch, window]
