"""Wiring of Bahdanau 2015: attend with the previous state, then update it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Tape, Term, Value
from nmt.model.attention import AttentionWeights, build_attention
from nmt.model.attention.base import ScoreOptions
from nmt.model.cells import DropoutMasks, Stack
from nmt.model.wiring.base import WIRINGS, Bridge, DecoderState, Output, Wiring, gate_input


class BahdanauOptions(schema.NetworkPartOptions):
    """Attend with the previous state, then update it with the context."""

    kind: Literal["bahdanau"] = "bahdanau"
    readout_state: Literal["current", "previous"] = "current"
    """State of the top layer that the readout sees: after this step (Bahdanau 2015, eq. 4), or after the step before
    (A.2.2 of the same paper)."""
    reset_context: bool = False
    """Whether the reset gate of a GRU multiplies the context's part of the new state as well (Cho 2014, A.1). Other
    cells have no reset gate: there it makes no difference."""

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """The reset gate needs a context to multiply."""
        score = model.attention.score
        if self.reset_context and isinstance(score, ScoreOptions) and not score.gives_context:
            yield (
                "model.attention.wiring.reset_context",
                f"is true, but score {score.kind} gives no context; leave it out, or set "
                "model.attention.score.context to every_step",
            )


@WIRINGS.register("bahdanau", BahdanauOptions)
class BahdanauWiring(Wiring):
    """c_t = attend(s_{t-1});  s_t = cell([E y_{t-1}; c_t], s_{t-1})  (Bahdanau 2015, eq. 4-6 and A.2.2).

    With several layers the context enters the first layer, and the state of the top layer is the query. With
    `reset_context` the new state of a GRU is tanh(W E y_{t-1} + r * (U s_{t-1} + C c_t)) (Cho 2014, A.1).
    """

    def __init__(
        self, options: BahdanauOptions, model: schema.ModelConfig, input_size: int, memory_size: int, kernels: Kernels
    ) -> None:
        super().__init__(kernels)
        self.hidden_size = model.decoder.hidden_size
        self.reads_before = options.readout_state == "previous"
        self.resets_context = options.reset_context
        self.stack = Stack(model, input_size, kernels)
        cell = self.stack.cells[0]
        self.parts = cell.parts
        self.attention = build_attention(
            model.attention, self.hidden_size, memory_size, kernels, model.dropout.attention
        )
        self.context: nn.Linear | None = None
        if self.attention.context_size:
            self.context = gate_input(self.attention.context_size, cell.projected_size, cell.gates)
        self.bridge = Bridge(model, self.parts, memory_size, kernels)

    def project(self, inputs_BTE: Tensor) -> Tensor:
        return self.stack.cells[0].project(inputs_BTE)

    def draw(self, batch: int, positions: int) -> DropoutMasks:
        return self.stack.draw(batch, positions)

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        query_BQH = state.recurrent[-self.parts]
        attended = self.attention(query_BQH, state.prepared, state.carried, state.position)
        beside_BQG = None
        if self.context is not None:
            context_BQG = self.context(attended.context_BQC)
            if self.resets_context:
                beside_BQG = context_BQG
            else:
                projected_BQG = projected_BQG + context_BQG
        projected_BQG = self.enter(projected_BQG, state)
        top_BQH, recurrent = self.stack.step(
            state.recurrent, projected=projected_BQG, beside=beside_BQG, masks=state.step_masks
        )
        hidden_BQH = query_BQH if self.reads_before else top_BQH
        return state.after(recurrent, attended), Output(hidden_BQH, attended.context_BQC)

    def unsupported_reason(self) -> str:
        if self.resets_context:
            return "model.attention.wiring.reset_context has no native or Triton kernel"
        return self.attention.unsupported_reason() or self.stack.unsupported_reason()

    def record(self, tape: Tape, projected: Term, state: DecoderState) -> tuple[Value, Value]:
        layers = self.stack.carry(tape, state.recurrent)
        assert self.context is not None, "without a context no attention is recorded"
        context = self.attention.record(tape, layers[-1][0].before, state.prepared)
        inputs = (projected, tape.product(context.after, self.context.weight))
        top = self.stack.record(tape, inputs, layers, state.dropout_masks)
        return layers[-1][0] if self.reads_before else top, context

    def scan_recorded(self, inputs_BTE: Tensor, state: DecoderState) -> tuple[Output, AttentionWeights]:
        output, weights = super().scan_recorded(inputs_BTE, state)
        if not self.reads_before:
            return output, weights
        first_B1H = state.recurrent[-self.parts].to(output.hidden.dtype)
        return output._replace(hidden=torch.cat([first_B1H, output.hidden[:, :-1]], 1)), weights
