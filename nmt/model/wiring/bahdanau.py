"""The wiring of Bahdanau 2015: look with the state before, then update it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from nmt.config import schema
from nmt.kernels.recurrence import Loop, Term, Value
from nmt.model.attention import build_attention
from nmt.model.bridge import Bridge
from nmt.model.readout import Output
from nmt.model.stack import Factors, Stack
from nmt.model.wiring.base import WIRINGS, DecoderState, Wiring, gate_input


class BahdanauOptions(schema.NetworkPart):
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
        self.hidden_size = model.decoder.hidden_size
        self.stack = Stack(model, input_size)
        cell = self.stack.cells[0]
        self.parts = cell.parts
        self.attention = build_attention(model.attention, self.hidden_size, memory_size)
        self.context_size = self.attention.context_size
        if self.context_size:
            self.context = gate_input(self.context_size, cell.projected_size, cell.gates)
        self.bridge = Bridge(model, self.parts, memory_size)

    def project(self, inputs_BTE: Tensor) -> Tensor:
        return self.stack.cells[0].project(inputs_BTE)

    def draw(self, batch: int, positions: int) -> Factors:
        return self.stack.draw(batch, positions)

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        look = self.attention(state.recurrent[-self.parts], state.prepared, state.carried, state.position)
        if self.context_size:
            projected_BQG = projected_BQG + self.context(look.context_BQC)
        projected_BQG = state.enter(projected_BQG, state.recurrent[0])
        top_BQH, recurrent = self.stack.step(state.recurrent, projected=projected_BQG, factors=state.factors)
        return state.after(recurrent, look), Output(top_BQH, look.context_BQC)

    def obstacle(self) -> str:
        return self.attention.obstacle() or self.stack.obstacle()

    def record(self, loop: Loop, projected: Term, state: DecoderState) -> tuple[Value, Value]:
        layers = self.stack.carry(loop, state.recurrent)
        context = self.attention.record(loop, layers[-1][0].before, state.prepared)
        inputs = (projected, loop.product(context.after, self.context.weight))
        return self.stack.record(loop, inputs, layers, state.dropped), context
