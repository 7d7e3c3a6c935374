"""Wiring of Luong 2015: update, attend with the new state, and combine both in an attentional state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Tape, Term, Value
from nmt.model.attention import AttentionOutput, AttentionWeights, Encoded, build_attention
from nmt.model.cells import DropoutMasks, Stack
from nmt.model.modules import Linear, initialize
from nmt.model.wiring.base import (
    WIRINGS,
    Bridge,
    DecoderState,
    LatentReadout,
    Output,
    Readout,
    Wiring,
    gate_input,
    readout_size,
)


class LuongOptions(schema.NetworkPartOptions):
    """Update, attend, and combine state and context in an attentional state."""

    kind: Literal["luong"] = "luong"
    input_feeding: bool = False
    """The attentional state enters the next step (3.3); without it all target positions are computed at once."""

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """The attentional state is a tanh already, and one for each source position of a latent alignment."""
        if self.input_feeding and model.attention.alignment == "latent":
            yield (
                "model.attention.wiring.input_feeding",
                "is true, but with alignment: latent there is an attentional state for each source position; set it to "
                "false (Wu 2018), or choose another wiring",
            )
        kind = model.decoder.readout.kind
        if kind != "tanh":
            yield (
                "model.decoder.readout.kind",
                f"is {kind}, but the attentional state of wiring luong, which is a tanh, takes the readout's place; "
                "leave it out, or choose another wiring",
            )


@WIRINGS.register("luong", LuongOptions)
class LuongWiring(Wiring):
    """h_t = cells([E y_{t-1}; a_{t-1}], h_{t-1});  c_t = attend(h_t);  a_t = tanh(W [c_t; h_t])  (Luong 2015, eq. 5).

    The attentional state a_t is as wide as the readout and goes into the vocabulary projection as it is (eq. 6);
    it enters the next step where there is input feeding (section 3.3), a_0 = 0. With a latent alignment the readout
    computes it, one for each source position: a_ts = tanh(W [m_s; h_t] + b) (Wu 2018, section 3).
    """

    def __init__(
        self, options: LuongOptions, model: schema.ModelConfig, input_size: int, memory_size: int, kernels: Kernels
    ) -> None:
        super().__init__(kernels)
        decoder_size = model.decoder.hidden_size
        self.is_latent = model.attention.alignment == "latent"
        self.hidden_size = decoder_size if self.is_latent else readout_size(model)
        self.stack = Stack(model, input_size, kernels)
        cell = self.stack.cells[0]
        self.attention = build_attention(model.attention, decoder_size, memory_size, kernels, model.dropout.attention)
        self.mix: Linear | None = None
        if not self.is_latent:
            self.mix = Linear(self.attention.context_size + decoder_size, self.hidden_size, kernels, bias=False)
            initialize(self.mix)
        self.feed = gate_input(self.hidden_size, cell.projected_size, cell.gates) if options.input_feeding else None
        self.bridge = Bridge(model, cell.parts, memory_size, kernels)

    def build_readout(self, model: schema.ModelConfig, input_size: int, kernels: Kernels) -> Readout:
        if self.is_latent:
            return LatentReadout(model, self.hidden_size, self.attention.context_size, 0, kernels)
        return Readout(model, kernels)

    def project(self, inputs_BTE: Tensor) -> Tensor:
        return self.stack.cells[0].project(inputs_BTE)

    def draw(self, batch: int, positions: int) -> DropoutMasks:
        return self.stack.draw(batch, positions)

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        projected_BQG = self.enter(projected_BQG, state)
        top_BQH, recurrent = self.stack.step(state.recurrent, projected=projected_BQG, masks=state.step_masks)
        attended = self.attention(top_BQH, state.prepared, state.carried, state.position)
        output = self._attentional(top_BQH, attended)
        if self.feed is not None:
            recurrent += (output.hidden,)
        return state.after(recurrent, attended), output

    def scan(self, inputs_BTE: Tensor, encoded: Encoded) -> tuple[Output, AttentionWeights | None]:
        if self.feed is not None or encoded.has_step_term:
            return super().scan(inputs_BTE, encoded)
        state = self.start(encoded)
        top_BTH = self.stack.scan(state.recurrent, inputs_BTE)
        attended = self.attention.scan(top_BTH, state.prepared)
        return self._attentional(top_BTH, attended), attended.weights

    def unsupported_reason(self) -> str:
        # Without input feeding there is no recurrence with attention in it.
        return "" if self.feed is None else self.attention.unsupported_reason() or self.stack.unsupported_reason()

    def record(self, tape: Tape, projected: Term, state: DecoderState) -> tuple[Value, Value]:
        assert self.feed is not None, "without input feeding all positions are computed at once"
        assert self.mix is not None, "the attentional state is fed"
        *states, fed = state.recurrent
        attentional = tape.carried(fed, "operand")
        inputs = (projected, tape.product(attentional.before, self.feed.weight))
        top = self.stack.record(tape, inputs, self.stack.carry(tape, tuple(states)), state.dropout_masks)
        context = self.attention.record(tape, top.after, state.prepared)
        from_context, from_top = self.mix.weight.tensor_split((self.attention.context_size,), 1)
        tape.tanh((tape.product(context.after, from_context),), tape.product(top.after, from_top), attentional.after)
        return attentional, context

    def _attentional(self, top: Tensor, attended: AttentionOutput) -> Output:
        context = attended.context_BQC
        if self.mix is None:
            return Output(top, context)
        return Output(torch.tanh(self.mix(torch.cat([context.to(top.dtype), top], -1))), context)
