"""The equation of a long short-term memory.

Shapes: both halves of the gates' pre-activations are [..., 4 x H], outputs and cells [..., H]. The gates have PyTorch's
order, so that the weights are those of `torch.nn.LSTM`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def lstm_step(
    from_input: Tensor,
    from_state: Tensor,
    state: tuple[Tensor, ...],
    normalize: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Long short-term memory (Hochreiter 1997 with the forget gate of Gers 2000): output and cell.

    i, f, o = sigmoid(..);  g = tanh(..);  c' = f * c + i * g;  h' = o * tanh(c')

    With `normalize` h' = o * tanh(normalize(c')) (Ba 2016, supplement).
    """
    _, cell = state
    entry, forget, candidate, output = (from_input + from_state).to(cell.dtype).chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(entry) * torch.tanh(candidate)
    read = cell if normalize is None else normalize(cell)
    return torch.sigmoid(output) * torch.tanh(read), cell
