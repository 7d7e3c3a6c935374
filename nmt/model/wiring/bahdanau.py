"""The wiring of Bahdanau 2015: look with the state before, then update it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.config.registry import PartOptions
from nmt.model.attention import Encoded, build_attention
from nmt.model.bridge import Bridge
from nmt.model.cells import CELLS
from nmt.model.modules import module_list
from nmt.model.wiring.base import WIRINGS, DecoderState, Output, Wiring


class BahdanauOptions(PartOptions):
    """Look with the state before, then update it with the context."""

    kind: Literal["bahdanau"] = "bahdanau"
    """Look with the state before, then update it with the context."""


@WIRINGS.register("bahdanau", BahdanauOptions)
class BahdanauWiring(Wiring):
    """c_t = attend(s_{t-1});  s_t = cell([E y_{t-1}; c_t], s_{t-1})  (Bahdanau 2015, eq. 4-6 and A.2.2).

    In a stack the context enters the first layer and the top layer is the one that looks.
    """

    def __init__(self, options: BahdanauOptions, model: schema.Model, input_size: int, memory_size: int) -> None:
        super().__init__()
        decoder = model.decoder
        self.hidden_size = decoder.hidden_size
        self.dropout = model.dropout.layer
        self.cells = module_list(
            CELLS.build(decoder.cell, self.hidden_size if layer else input_size, self.hidden_size)
            for layer in range(decoder.layers)
        )
        self.parts = self.cells[0].parts
        self.attention = build_attention(model.attention, self.hidden_size, memory_size)
        self.context_size = self.attention.context_size
        if self.context_size:
            self.context = nn.Linear(self.context_size, self.cells[0].input.out_features, bias=False)
            for block in self.context.weight.chunk(self.cells[0].gates):
                nn.init.xavier_uniform_(block)
        self.bridge = Bridge(model, self.parts, memory_size)

    def start(self, encoded: Encoded) -> DecoderState:
        return DecoderState(self.attention.prepare(encoded), self.bridge(encoded))

    def project(self, inputs_BTE: Tensor) -> Tensor:
        projected_BTG: Tensor = self.cells[0].input(inputs_BTE)
        return projected_BTG

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        recurrent = state.recurrent
        query_BQH = recurrent[-self.parts]
        context_BQC, weights_BQS = self.attention(query_BQH, state.prepared, state.position)
        from_input_BQG = projected_BQG + self.context(context_BQC) if self.context_size else projected_BQG
        following: tuple[Tensor, ...] = ()
        for layer, cell in enumerate(self.cells):
            if layer:
                below_BQH = F.dropout(following[-self.parts], self.dropout, self.training)
                from_input_BQG = cell.input(below_BQH)
            following += cell(from_input_BQG, recurrent[layer * self.parts : (layer + 1) * self.parts])
        after = DecoderState(state.prepared, following, state.position + 1, weights_BQS)
        return after, Output(following[-self.parts], context_BQC)
