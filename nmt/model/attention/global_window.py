"""The whole sentence may be looked at (Bahdanau 2015, section 3.1; Luong 2015, section 3.1)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from nmt.config.schema import NetworkPartOptions
from nmt.model.attention.base import WINDOWS, Covered, Mixed, Prepared, Score, View, Window, normalize


class GlobalOptions(NetworkPartOptions):
    """Every position of the sentence."""

    kind: Literal["global"] = "global"
    """Every position of the sentence."""


@WINDOWS.register("global", GlobalOptions)
class GlobalWindow(Window):
    """The whole sentence: a = softmax(score), context = sum of a_s memory_s (Bahdanau 2015, eq. 5-6)."""

    is_whole = True

    def __init__(self, options: GlobalOptions, query_size: int) -> None:
        super().__init__()

    def forward(self, score: Score, query: Tensor, prepared: Prepared, covered: Covered, position: int | None) -> Mixed:
        memory = prepared.memory
        width, keys, exponentials = memory.shape[-2], prepared.keys, prepared.exponentials
        view = View(keys, own=False, width=width, positions=None, covered=covered(None), exponentials=exponentials)
        weights = normalize(score(query, view), prepared.bias)
        return Mixed(weights.to(memory.dtype) @ memory, weights)
