"""The equation of a simple recurrence.

Shapes: both halves of the pre-activations, and states, are [..., H].
"""

from __future__ import annotations

import torch
from torch import Tensor


def rnn_step(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Simple recurrence (Elman 1990): h' = tanh(a + b)."""
    return (torch.tanh(from_input + from_state),)
