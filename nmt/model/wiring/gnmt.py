"""Wiring of GNMT (Wu 2016): the first layer attends, its context goes into every layer above."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nmt.config import schema
from nmt.kernels.packed import State
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Tape, Term, Value
from nmt.model.attention import AttentionOutput, AttentionWeights, Encoded, build_attention
from nmt.model.cells import CELLS, Stack, rows_after, rows_before
from nmt.model.wiring.base import WIRINGS, Bridge, DecoderState, Output, Wiring, gate_input


class GnmtOptions(schema.NetworkPartOptions):
    """The first layer attends, its context goes into every layer above."""

    kind: Literal["gnmt"] = "gnmt"
    query: Literal["current", "previous"] = "current"
    """State of the first layer that is the query: after this step (GNMT v2), or after the one before (Wu 2016)."""
    context_feeding: bool = False
    """The context also enters the first layer's next step (Chen 2018); without it all target positions are computed
    at once."""


@WIRINGS.register("gnmt", GnmtOptions)
class GnmtWiring(Wiring):
    """h1_t = cell(E y_{t-1}, h1_{t-1});  c_t = attend(h1_t);  hl_t = cell([hl-1_t; c_t], hl_{t-1}), l > 1.

    With `query: previous` c_t = attend(h1_{t-1}) (Wu 2016, section 3); with `context_feeding` c_{t-1} enters h1_t as
    well (Chen 2018: the context goes into all layers), c_0 = 0. The readout sees c_t, as in Chen 2018.
    """

    def __init__(
        self, options: GnmtOptions, model: schema.ModelConfig, input_size: int, memory_size: int, kernels: Kernels
    ) -> None:
        super().__init__(kernels)
        self.hidden_size = model.decoder.hidden_size
        self.queries_previous = options.query == "previous"
        self.attention = build_attention(
            model.attention, self.hidden_size, memory_size, kernels, model.dropout.attention
        )
        transitions = model.decoder.transitions_by_layer[0]
        self.lowest = CELLS.build(model.decoder.cell, input_size, self.hidden_size, kernels, transitions)
        self.above = Stack(model, self.hidden_size, kernels, first=1, context_size=self.attention.context_size)
        self.parts = self.lowest.parts
        if options.context_feeding and self.attention.context_size:
            self.feed = gate_input(self.attention.context_size, self.lowest.projected_size, self.lowest.gates)
        self.bridge = Bridge(model, self.parts, memory_size, kernels)

    def project(self, inputs_BTE: Tensor) -> Tensor:
        return self.lowest.project(inputs_BTE)

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        lowest, above, attended = self._attend(projected_BQG, state)
        top_BQH, above = self.above.step(above, below=lowest[0], context=attended.context_BQC)
        return state.after(self._joined(lowest, above, attended), attended), Output(top_BQH, attended.context_BQC)

    def scan(self, inputs_BTE: Tensor, encoded: Encoded) -> tuple[Output, AttentionWeights | None]:
        state = self.start(encoded)
        above = state.recurrent[self.parts : None if self.feed is None else -1]
        if self.feed is None and not encoded.has_step_term:
            # No recurrence has attention in it: all positions at once.
            before = state.recurrent[: self.parts]
            lowest_BTH = self.lowest.scan(inputs_BTE, before)
            query_BTH = torch.cat([before[0], lowest_BTH[:, :-1]], 1) if self.queries_previous else lowest_BTH
            attended = self.attention.scan(query_BTH, state.prepared)
        elif self.can_record(encoded):
            output, weights = self.scan_recorded(inputs_BTE, state)
            lowest_BTH, attended = output.hidden, AttentionOutput(output.context, weights)
        else:
            lowest_BTH, attended = self._step_lowest(inputs_BTE, state)
        return Output(self.above.scan(above, lowest_BTH, attended.context_BQC), attended.context_BQC), attended.weights

    def _attend(self, projected_BQG: Tensor, state: DecoderState) -> tuple[State, State, AttentionOutput]:
        """Returns the first layer's state after a step, the states above before it, and the attention."""
        before, above = state.recurrent[: self.parts], state.recurrent[self.parts :]
        if self.feed is not None:
            above = above[:-1]
        after = self.lowest(self.enter(projected_BQG, state), before)
        query_BQH = before[0] if self.queries_previous else after[0]
        return after, above, self.attention(query_BQH, state.prepared, state.carried, state.position)

    def _joined(self, lowest: State, above: State, attended: AttentionOutput) -> State:
        return lowest + above + (() if self.feed is None else (attended.context_BQC,))

    def unsupported_reason(self) -> str:
        # Without context feeding there is no recurrence with attention in it.
        return "" if self.feed is None else self.attention.unsupported_reason() or self.lowest.unsupported_reason()

    def record(self, tape: Tape, projected: Term, state: DecoderState) -> tuple[Value, Value]:
        assert self.feed is not None, "without context feeding the first layer is computed at all positions at once"
        layer = self.lowest.carry(tape, state.recurrent[: self.parts])
        context = tape.carried(state.recurrent[-1], "operand")
        before, after = rows_before(layer), rows_after(layer)
        self.lowest.record(tape, (projected, tape.product(context.before, self.feed.weight)), before, after)
        self.attention.record(tape, before[0] if self.queries_previous else after[0], state.prepared, context)
        return layer[0], context

    def _step_lowest(self, inputs_BTE: Tensor, state: DecoderState) -> tuple[Tensor, AttentionOutput]:
        """Computes the first layer and its attention position by position."""
        outputs, attended_steps = [], []
        for projected_BG in self.project(inputs_BTE).unbind(1):
            lowest, above, attended = self._attend(projected_BG.unsqueeze(1), state)
            state = state.after(self._joined(lowest, above, attended), attended)
            outputs.append(lowest[0])
            attended_steps.append(attended)
        return torch.cat(outputs, 1), AttentionOutput.join(attended_steps)
