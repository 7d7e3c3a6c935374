"""The moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class MovingAverage:
    """Exponential moving average of weights (Polyak 1992), in their own format or float32.

    The decay grows with the updates, min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters)
        # On the device, because that is where it is known whether an update counts.
        self._updates = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @property
    def updates(self) -> int:
        """How many have been taken in; reading it waits for the device."""
        return int(self._updates)

    @torch.no_grad()
    def update(self, is_finite: Tensor) -> None:
        """Take the weights of now into the average, unless the update was skipped; nothing waits for the device."""
        self._updates += is_finite
        decay = ((1 + self._updates) / (10 + self._updates)).clamp(max=self.decay)
        share = ((1.0 - decay) * is_finite).to(self.averages[0].dtype)
        differences = torch._foreach_sub(self.parameters, self.averages)
        torch._foreach_mul_(differences, share)
        torch._foreach_add_(self.averages, differences)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages; a second call exchanges them back."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            held = parameter.clone()
            parameter.copy_(average)
            average.copy_(held)

    def state(self) -> dict[str, Any]:
        """What must be saved to go on; copies, which a later `swap` does not touch."""
        return {"updates": self.updates, "averages": [average.clone() for average in self.averages]}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._updates.fill_(state["updates"])
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)
