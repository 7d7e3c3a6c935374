"""What training and its surroundings say to each other: where it stands, what was measured, how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from nmt.data.batching import Position
from nmt.training.journal import Sample


@dataclass(frozen=True)
class Measured:
    """What a validation found."""

    metrics: dict[str, float]
    """`loss` (without smoothing), and what else is measured: for a translator `perplexity`, `bleu` and `chrf`, for a
    classifier `accuracy` and `macro_f1`."""
    samples: list[Sample]


Validate = Callable[[Any], Measured]
"""Measures a network; called on every rank, with the same result on all."""


@dataclass
class Progress:
    """Where training stands."""

    step: int = 0
    """Updates done, the skipped ones included."""
    epoch: int = 0
    update: int = 0
    """Updates done in this window of the epoch."""
    tokens: int = 0
    """Tokens read, as the objective counts them."""
    skipped: int = 0
    """Updates skipped for a non-finite loss or gradient."""
    skipped_in_row: int = 0
    validated_step: int = 0
    """Updates done at the last validation."""
    validation_due: bool = False
    """A validation was put off, because somebody asked training to stop."""
    window: int = 0
    """Windows of the epoch that are done."""

    @property
    def position(self) -> Position:
        """Where in the data training stands."""
        return Position(epoch=self.epoch, window=self.window, update=self.update)

    def move(self, position: Position) -> None:
        """Stand somewhere else in the data."""
        self.epoch, self.window, self.update = position.epoch, position.window, position.update


class Save(Protocol):
    """Writes a checkpoint; called on rank 0 alone."""

    def __call__(
        self,
        progress: Progress,
        weights: Mapping[str, Tensor],
        state: dict[str, Any],
        metrics: dict[str, float],
        is_best: bool,
    ) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    reason: str
    interrupted: bool
    progress: Progress
    best_step: int
