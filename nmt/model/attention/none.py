"""No attention: the plain encoder-decoder (Sutskever 2014; Cho 2014)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, Attention, AttentionOutput, Carried, Encoded, Prepared, ScoreOptions
from nmt.model.modules import initialize


class NoneOptions(ScoreOptions):
    """No attention: the decoder gets the encoder's last state only."""

    kind: Literal["none"] = "none"
    context: Literal["first_state", "every_step"] = "every_step"
    """Where it goes: only into the decoder's first state (Sutskever 2014), or also into every step (Cho 2014)."""
    mapped: bool = False
    """Whether the context is tanh(V h + b) of the last state h (Cho 2014, A.1), or h itself."""
    has_weights: ClassVar[bool] = False

    @property
    def gives_context(self) -> bool:
        """The encoder's last state is the context of every step, or there is none."""
        return self.context == "every_step"

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Without a context there is nothing to map."""
        if self.mapped and not self.gives_context:
            yield "mapped", "is true, but with context: first_state there is no context; leave it out"

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """Without attention weights there are no heads, windows, normalizers or coverage, and no weights to drop."""
        attention = model.attention
        if attention.heads > 1:
            yield (
                "model.attention.heads",
                f"is {attention.heads}, but score none has no attention weights; leave it out",
            )
        if attention.window.kind != "global":
            yield (
                "model.attention.window",
                f"is {attention.window.kind}, but score none has no attention weights; leave it out",
            )
        if attention.normalizer.kind != "softmax":
            yield (
                "model.attention.normalizer",
                f"is {attention.normalizer.kind}, but score none has no attention weights; leave it out",
            )
        if attention.alignment != "soft":
            yield (
                "model.attention.alignment",
                f"is {attention.alignment}, but score none has no attention weights; leave it out",
            )
        if model.dropout.attention:
            yield (
                "model.dropout.attention",
                f"is {model.dropout.attention:g}, but score none has no attention weights; leave it out",
            )


@SCORES.register("none", NoneOptions)
class FixedContext(Attention):
    """No score: the context is the encoder's last state, or there is none.

    The context is the same at every position: the last state h of the encoder's top layer, or c = tanh(V h + b) of it
    (Cho 2014, eq. 7-8 and A.1).
    """

    def __init__(self, options: NoneOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.context_size = memory_size if options.gives_context else 0
        self.map = nn.Linear(self.context_size, self.context_size) if options.mapped else None
        initialize(self.map)

    def prepare(self, encoded: Encoded) -> Prepared:
        summary_B1C = encoded.final_LBF[-1][0].unsqueeze(1)[..., : self.context_size]
        if self.map is not None:
            summary_B1C = torch.tanh(self.map(summary_B1C))
        bias_B1 = summary_B1C.new_zeros(summary_B1C.shape[:2])
        return Prepared(summary_B1C, None, bias_B1, bias_B1.squeeze(1) + 1.0)

    def forward(self, query_BQH: Tensor, prepared: Prepared, carried: Carried, position: int | None) -> AttentionOutput:
        return AttentionOutput(prepared.memory.expand(-1, query_BQH.shape[1], -1), None)
