"""The updates between two lines of the log, as sums."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

Number = float | Tensor

LOSS = "loss"
"""The term that training is judged by."""


class Window:
    """Adds up updates without waiting for the device that computes them; reading the values does."""

    def __init__(self) -> None:
        self._sums: dict[str, Number] = {LOSS: 0.0}
        self._counts: dict[str, int] = {LOSS: 0}
        self._tokens = 0
        self._gradient_norm: Number = 0.0
        self._learning_rate = 0.0
        self._updates = 0

    def add(
        self, sums: Mapping[str, tuple[Number, int]], tokens: int, learning_rate: float, gradient_norm: Number
    ) -> None:
        """Add an update: of each term the sum and what it is divided by, and the tokens that the speed counts."""
        for name, (total, count) in sums.items():
            if count:
                # Not in place: the first tensor is the caller's. Detached: with its graph it would keep a batch alive.
                self._sums[name] = self._sums.get(name, 0.0) + _detached(total)
                self._counts[name] = self._counts.get(name, 0) + count
        self._gradient_norm = self._gradient_norm + _detached(gradient_norm)
        self._tokens += tokens
        self._learning_rate = learning_rate
        self._updates += 1

    def values(self, seconds: float, *, perplexity: bool) -> dict[str, float]:
        """The mean of each term that there was something of, the loss first and where wanted its perplexity; mean norm
        of the gradient, and speed over `seconds`."""
        means = {
            name: float(total) / self._counts[name] if self._counts[name] else math.nan
            for name, total in self._sums.items()
        }
        loss = means.pop(LOSS)
        perplexities = {"perplexity": math.exp(loss) if loss < 700.0 else math.inf if loss == loss else math.nan}
        return {
            LOSS: loss,
            **(perplexities if perplexity else {}),
            **means,
            "learning_rate": self._learning_rate,
            "gradient_norm": float(self._gradient_norm) / max(self._updates, 1),
            "tokens_per_second": self._tokens / seconds if seconds > 0.0 else 0.0,
        }


def _detached(number: Number) -> Number:
    return number.detach() if isinstance(number, Tensor) else number
