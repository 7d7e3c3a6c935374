"""Which source positions may be looked at."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nmt.config.registry import PartOptions
from nmt.model.attention.base import WINDOWS, Prepared, Score, Window, normalize


class GlobalOptions(PartOptions):
    """Every position of the sentence."""

    kind: Literal["global"] = "global"
    """Every position of the sentence."""


@WINDOWS.register("global", GlobalOptions)
class GlobalWindow(Window):
    """The whole sentence: a = softmax(score), context = sum of a_s memory_s (Bahdanau 2015, eq. 5-6)."""

    def __init__(self, options: GlobalOptions, query_size: int) -> None:
        super().__init__()

    def forward(self, score: Score, query_BQH: Tensor, prepared: Prepared, position: int) -> tuple[Tensor, Tensor]:
        memory_BSC = prepared.memory_BSC
        weights_BQS = normalize(score(query_BQH, memory_BSC, prepared.keys_BSA), prepared.bias_BS)
        return torch.bmm(weights_BQS.to(memory_BSC.dtype), memory_BSC), weights_BQS
