"""No attention: the plain encoder-decoder (Sutskever 2014; Cho 2014)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from nmt.config.registry import PartOptions
from nmt.model.attention.base import SCORES, Attention, Encoded, Prepared, Score, Window


class NoneOptions(PartOptions):
    """No attention: the decoder knows the sentence from the encoder's last state alone."""

    kind: Literal["none"] = "none"
    """No attention: the decoder knows the sentence from the encoder's last state alone."""
    context: Literal["first_state", "every_step"] = "every_step"
    """Where it goes: only into the decoder's first state (Sutskever 2014), or also into every step (Cho 2014)."""


@SCORES.register("none", NoneOptions)
class NoScore(Score):
    """Nothing is compared: the context is the encoder's last state, or there is none."""

    def __init__(self, options: NoneOptions, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.context = options.context

    def attention(self, window: Window, memory_size: int) -> Attention:
        return FixedContext(memory_size if self.context == "every_step" else 0)


class FixedContext(Attention):
    """The same context at every position: the last state of the encoder's top layer (Cho 2014, eq. 7-8)."""

    def __init__(self, context_size: int) -> None:
        super().__init__()
        self.context_size = context_size

    def prepare(self, encoded: Encoded) -> Prepared:
        summary_B1C = encoded.final_LBF[-1][0].unsqueeze(1)[..., : self.context_size]
        return Prepared(summary_B1C, None, summary_B1C.new_zeros(summary_B1C.shape[:2]))

    def forward(self, query_BQH: Tensor, prepared: Prepared, position: int) -> tuple[Tensor, None]:
        return prepared.memory_BSC.expand(-1, query_BQH.shape[1], -1), None
