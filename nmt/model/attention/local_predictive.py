"""Local attention that predicts where to look (Luong 2015, section 3.2, local-p)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nmt.model.attention.base import WINDOWS, Prepared
from nmt.model.attention.local import LocalOptions, LocalWindow, Place


class LocalPredictiveOptions(LocalOptions):
    """Around a position that the query predicts."""

    kind: Literal["local_predictive"] = "local_predictive"
    """Around a position that the query predicts, with a Gaussian about it (Luong 2015)."""


@WINDOWS.register("local_predictive", LocalPredictiveOptions)
class LocalPredictiveWindow(LocalWindow):
    """p_t = S sigmoid(v' tanh(W q)); weights times exp(-(s - p_t)^2 / (2 (D/2)^2)) (Luong 2015, section 3.2).

    The weights of the window no longer add up to 1; through the Gaussian p_t learns.
    """

    def __init__(self, options: LocalPredictiveOptions, query_size: int) -> None:
        super().__init__()
        self.half_width = options.half_width
        self.hidden = nn.Linear(query_size, query_size, bias=False)
        self.position = nn.Parameter(torch.empty(1, query_size))
        nn.init.xavier_uniform_(self.hidden.weight)
        nn.init.xavier_uniform_(self.position)

    def place(self, query: Tensor, prepared: Prepared, position: int | None) -> Place:
        dtype = prepared.bias.dtype
        # Not as a product that autocast shortens: 8 bits do not tell the positions of a long sentence apart.
        logits = (torch.tanh(self.hidden(query)).to(dtype) * self.position.squeeze(0)).sum(-1)
        # The paper counts positions from 1.
        centers = prepared.lengths.unsqueeze(-1) * torch.sigmoid(logits) - 1.0
        last = prepared.memory.shape[-2] - self.width(prepared)
        return Place((centers.detach() - self.half_width).ceil().long().clamp(0, last), centers)

    def emphasis(self, distance: Tensor) -> Tensor:
        deviation = self.half_width / 2
        return torch.exp(-distance.square() / (2 * deviation**2))
