"""A stream of updates: seeded, shared out to ranks, resumable at any update; what a batch holds is its own affair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from nmt.batching.plan import EpochPlan
from nmt.batching.prefetch import prefetch

_UPDATES_AHEAD = 2


class AnyBatch(Protocol):
    """What training knows of a batch, whatever is in it."""

    @property
    def weight(self) -> float:
        """Factor of the batch's loss: 1, or 0 for the stand-in of a rank without a batch in an epoch's last update."""

    def to(self, device: torch.device) -> AnyBatch:
        """The same on a device."""

    def describe(self) -> str:
        """For messages."""


BatchT = TypeVar("BatchT", bound=AnyBatch)


@dataclass(frozen=True)
class Position:
    """Where training stands: the next update is update `update` of epoch `epoch`, both counted from 0."""

    epoch: int = 0
    update: int = 0


class UpdateStream(ABC, Generic[BatchT]):
    """Batches in an order that depends on the seed and the epoch.

    A global update is `world * accumulation` consecutive batches of that order, so that two ranks with accumulation 1
    train on the same batches as one rank with accumulation 2.
    """

    def __init__(self, rank: int, world: int, accumulation: int) -> None:
        assert 0 <= rank < world
        self.rank = rank
        self.world = world
        self.accumulation = accumulation
        self._planned: tuple[int, EpochPlan] | None = None

    @abstractmethod
    def plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch; the same on every rank."""

    @abstractmethod
    def batch(self, plan: EpochPlan, epoch: int, number: int) -> BatchT:
        """The batch at a position of an epoch."""

    @abstractmethod
    def stand_in(self) -> BatchT:
        """A batch of weight 0: gives a rank the same forward and backward pass, and no gradient."""

    @abstractmethod
    def largest_batch(self) -> BatchT:
        """The batch of the first epoch that takes the most memory; if it fits, so do the others, nearly."""

    def updates_per_epoch(self, epoch: int) -> int:
        """Updates of an epoch, the same on every rank; the last one may be incomplete."""
        return -(-len(self.planned(epoch)) // self.group)

    def updates(self, position: Position) -> Iterator[list[BatchT]]:
        """The updates of this rank, from the position to the end of its epoch.

        In the last update a rank may have fewer batches than the others; stand-ins of weight 0 fill its list.
        Batches are made ahead in a thread, which ends when the iterator is closed or dropped.
        """
        return prefetch(self._updates(position), _UPDATES_AHEAD)

    @property
    def group(self) -> int:
        """Batches of a global update."""
        return self.world * self.accumulation

    def planned(self, epoch: int) -> EpochPlan:
        """The plan of an epoch, made once while it lasts."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self.plan(epoch))
        return self._planned[1]

    def _updates(self, position: Position) -> Iterator[list[BatchT]]:
        plan = self.planned(position.epoch)
        for first in range(position.update * self.group, len(plan), self.group):
            # Every world-th batch: an incomplete update is spread over the ranks instead of filling the first ones.
            mine = range(first + self.rank, min(first + self.group, len(plan)), self.world)
            update = [self.batch(plan, position.epoch, number) for number in mine]
            missing = self.accumulation - len(update)
            yield update + [self.stand_in() for _ in range(missing)]
