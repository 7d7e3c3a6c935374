"""The updates between two lines of the log, as sums."""

from __future__ import annotations

import math

from torch import Tensor

Number = float | Tensor


class Window:
    """Adds up updates without waiting for the device that computes them; reading the values does."""

    def __init__(self) -> None:
        self._loss_sum: Number = 0.0
        self._tokens = 0
        self._gradient_norm: Number = 0.0
        self._learning_rate = 0.0
        self._updates = 0
        self._alignment_sum: Number = 0.0
        self._linked = 0

    def add(
        self,
        loss_sum: Number,
        tokens: int,
        learning_rate: float,
        gradient_norm: Number,
        alignment_sum: Number,
        linked: int,
    ) -> None:
        """Add an update: sums over its target tokens and its target pieces with links, and their numbers."""
        # Not in place: the first tensor is the caller's. Detached: a sum with a graph would keep every batch alive.
        self._loss_sum = self._loss_sum + _detached(loss_sum)
        self._gradient_norm = self._gradient_norm + _detached(gradient_norm)
        self._tokens += tokens
        self._learning_rate = learning_rate
        self._updates += 1
        if linked:
            self._alignment_sum = self._alignment_sum + _detached(alignment_sum)
            self._linked += linked

    def values(self, seconds: float) -> dict[str, float]:
        """Loss per target token, alignment loss per linked piece (where there were any), mean norm of the gradient,
        and speed over `seconds`."""
        loss = float(self._loss_sum) / self._tokens if self._tokens else math.nan
        alignment = {"alignment": float(self._alignment_sum) / self._linked} if self._linked else {}
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700.0 else math.inf if loss == loss else math.nan,
            **alignment,
            "learning_rate": self._learning_rate,
            "gradient_norm": float(self._gradient_norm) / max(self._updates, 1),
            "tokens_per_second": self._tokens / seconds if seconds > 0.0 else 0.0,
        }


def _detached(number: Number) -> Number:
    return number.detach() if isinstance(number, Tensor) else number
