"""The one place that chooses an implementation, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nmt.kernels import cross_entropy


@dataclass(frozen=True)
class Kernels:
    """The implementations of a run."""

    cross_entropy: Callable[[Tensor, Tensor, Tensor, Tensor, float], cross_entropy.Losses]
    """Readout [N, R], weight [V, R], bias [V], targets [N] and label smoothing to losses."""
    reason: str
    """One sentence for the log."""


def choose_kernels(wanted: Literal["auto", "reference", "fused"]) -> Kernels:
    """The kernels that `runtime.kernel` asks for. Both can be had on every device."""
    if wanted == "reference":
        return Kernels(cross_entropy.reference, "kernel reference, as asked: the loss holds all logits of a batch")
    why = "as asked" if wanted == "fused" else "auto"
    return Kernels(
        cross_entropy.fused, f"kernel fused, {why}: the loss makes {cross_entropy.CHUNK} rows of logits at a time, once"
    )
