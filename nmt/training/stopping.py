"""Why training ends: it no longer improves, or somebody asks it to."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from nmt.config import schema

LOWER_IS_BETTER = frozenset({"loss"})


@dataclass
class EarlyStopping:
    """The best validation so far, and how many there were since."""

    options: schema.StoppingConfig
    best: float = -math.inf
    """Larger is better: a metric for which less is better is kept with its sign turned."""
    best_loss: float = math.inf
    """Decides between validations of the same value: a BLEU of 0 says nothing of progress, the loss does."""
    best_step: int = 0
    waited: int = 0

    def value(self, metrics: dict[str, float]) -> float:
        """The metric that decides, turned so that larger is better; a value that is no number is the worst."""
        value = metrics[self.options.metric]
        if math.isnan(value):
            return -math.inf
        return -value if self.options.metric in LOWER_IS_BETTER else value

    def observe(self, step: int, metrics: dict[str, float]) -> bool:
        """Take note of a validation; True where it is the best so far."""
        value, loss = self.value(metrics), metrics["loss"]
        better = not self.best_step or value > self.best + self.options.min_delta
        self.waited = 0 if better else self.waited + 1
        if not (better or (value == self.best and loss < self.best_loss)):
            return False
        self.best, self.best_loss, self.best_step = value, loss, step
        return True

    @property
    def is_over(self) -> bool:
        """There were as many validations without improvement as patience allows."""
        return 0 < self.options.patience <= self.waited

    def state(self) -> dict[str, float]:
        """What must be saved to go on."""
        return {
            "best": self.best,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "waited": self.waited,
        }

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self.best, self.best_loss = state["best"], state["best_loss"]
        self.best_step, self.waited = int(state["best_step"]), int(state["waited"])


class Interrupts:
    """While entered, SIGINT and SIGTERM are noted instead of acted on; a second SIGINT acts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
