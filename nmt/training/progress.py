"""The progress of a run: its position, its validations, and why it ends."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor

from nmt.config import schema
from nmt.data.batching import Position

Sample = Mapping[str, str]
"""An example that is logged at a validation, such as a source, its reference and its hypothesis, by name."""


@dataclass(frozen=True)
class ValidationResult:
    """Metrics and samples of a validation. All samples have the same names."""

    metrics: dict[str, float]
    """`loss` (without smoothing), and the metrics of the task: for a translator `perplexity`, `bleu` and `chrf`, for a
    classifier `accuracy` and `macro_f1`."""
    samples: list[Sample]


@dataclass(frozen=True)
class Validation:
    """A validation of a training run, after its checkpoint is saved."""

    step: int
    """Updates done."""
    epoch: int
    """Counted from 1."""
    metrics: dict[str, float]
    """As those of `ValidationResult`."""
    samples: list[Sample]
    is_best: bool
    """Whether it is the best one so far."""


OnValidation = Callable[[Validation], object]
"""Is called after each validation, on rank 0 alone. An error that it raises ends the training."""
Validate = Callable[[Any], ValidationResult]
"""Measures a network. Called on every rank, with the same result on all."""


@dataclass
class Progress:
    """Position of the training in the data, and its counts."""

    step: int = 0
    """Updates done, skipped ones included."""
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
    """A validation was postponed, because the run was interrupted."""
    window: int = 0
    """Windows of the epoch that are done."""

    @property
    def position(self) -> Position:
        return Position(epoch=self.epoch, window=self.window, update=self.update)

    def move(self, position: Position) -> None:
        """Sets the position in the data."""
        self.epoch, self.window, self.update = position.epoch, position.window, position.update


SaveCheckpoint = Callable[[Progress, Mapping[str, Tensor], dict[str, Any], dict[str, float], bool], None]
"""Writes a checkpoint of (progress, weights, state, metrics, whether it is the best). Called on rank 0 alone."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended."""

    reason: str
    interrupted: bool
    progress: Progress
    best_step: int


@dataclass
class EarlyStopping:
    """Keeps the best validation, and ends the training after `patience` validations without improvement."""

    options: schema.StoppingConfig
    best: float = -math.inf
    """Larger is better: the value of a metric for which lower is better is negated."""
    best_loss: float = math.inf
    """Breaks ties of the metric: a BLEU of 0 shows no progress, the loss does."""
    best_step: int = 0
    waited: int = 0
    """Validations since the best one."""

    def value(self, metrics: dict[str, float]) -> float:
        """Returns the deciding metric, signed so that larger is better; NaN is the worst value."""
        value = metrics[self.options.metric]
        if math.isnan(value):
            return -math.inf
        return -value if self.options.metric == "loss" else value

    def observe(self, step: int, metrics: dict[str, float]) -> bool:
        """Records a validation. Returns whether it is the best so far."""
        value, loss = self.value(metrics), metrics["loss"]
        better = not self.best_step or value > self.best + self.options.min_delta
        self.waited = 0 if better else self.waited + 1
        if not (better or (value == self.best and loss < self.best_loss)):
            return False
        self.best, self.best_loss, self.best_step = value, loss, step
        return True

    @property
    def is_over(self) -> bool:
        return 0 < self.options.patience <= self.waited

    def state(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("best", "best_loss", "best_step", "waited")}

    def restore(self, state: dict[str, float]) -> None:
        self.best, self.best_loss = state["best"], state["best_loss"]
        self.best_step, self.waited = int(state["best_step"]), int(state["waited"])


class Interrupts:
    """While entered, records SIGINT and SIGTERM instead of acting on them. A second SIGINT acts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python handles signals in the main thread alone.
        self._handlers = {number: signal.signal(number, self._record) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
