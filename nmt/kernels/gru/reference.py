"""The equation of a gated recurrent unit.

Shapes: both halves of the gates' pre-activations are [..., 3 x H], states [..., H]. The gates have PyTorch's order, so
that the weights are those of `torch.nn.GRU`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gru_step(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gated recurrent unit (Cho 2014, eq. 5-8), its reset gate behind the recurrent product as in cuDNN.

    r, z = sigmoid(a_r + b_r), sigmoid(a_z + b_z);  n = tanh(a_n + r * b_n);  h' = (1 - z) * n + z * h
    """
    (before,) = state
    hidden = before.shape[-1]
    reset, update = torch.sigmoid(from_input[..., : 2 * hidden] + from_state[..., : 2 * hidden]).chunk(2, dim=-1)
    candidate = torch.tanh(torch.addcmul(from_input[..., 2 * hidden :], reset, from_state[..., 2 * hidden :]))
    return (torch.lerp(candidate.to(before.dtype), before, update.to(before.dtype)),)
