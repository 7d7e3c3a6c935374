"""Conditional recurrent unit of Nematus (Sennrich 2017): update, attend, update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Tape, Term, Value
from nmt.model.attention import AttentionWeights, build_attention
from nmt.model.attention.base import ScoreOptions
from nmt.model.cells import CELLS, DropoutMasks, Stack, rows_after, rows_before
from nmt.model.wiring.base import WIRINGS, Bridge, DecoderState, Output, Wiring


class ConditionalOptions(schema.NetworkPartOptions):
    """Update with the word, attend, update with the context."""

    kind: Literal["conditional"] = "conditional"

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """There is a second update, and it is with the context."""
        if model.decoder.first_transitions == 1:
            yield (
                "model.decoder.first_transitions",
                "is 1, but wiring conditional has a cell before attention and one behind it; set it to 2 or more",
            )
        score = model.attention.score
        if isinstance(score, ScoreOptions) and not score.gives_context:
            yield (
                "model.attention.wiring",
                f"conditional updates its state with a context, and score {score.kind} gives none; choose another "
                "wiring, or set model.attention.score.context to every_step",
            )


@WIRINGS.register("conditional", ConditionalOptions)
class ConditionalWiring(Wiring):
    """s'_t = cell_1(E y_{t-1}, s_{t-1});  c_t = attend(s'_t);  s_t = cell_2(c_t, s'_t)  (Sennrich 2017, section 2).

    With L transitions of the lowest layer, further cells follow without an input, s_tk = cell_k(0, s_t{k-1}) for
    k = 3 .. L, and s_t = s_tL (Miceli Barone 2017, section 2.3). The layers above read s_t.
    """

    def __init__(
        self,
        options: ConditionalOptions,
        model: schema.ModelConfig,
        input_size: int,
        memory_size: int,
        kernels: Kernels,
    ) -> None:
        super().__init__(kernels)
        decoder = model.decoder
        self.hidden_size = decoder.hidden_size
        self.attention = build_attention(
            model.attention, self.hidden_size, memory_size, kernels, model.dropout.attention
        )
        self.before = CELLS.build(decoder.cell, input_size, self.hidden_size, kernels)
        behind = max(decoder.transitions_by_layer[0] - 1, 1)
        self.behind = CELLS.build(decoder.cell, self.attention.context_size, self.hidden_size, kernels, behind)
        self.above = Stack(model, self.hidden_size, kernels, first=1)
        self.parts = self.before.parts
        self.bridge = Bridge(model, self.parts, memory_size, kernels)

    def project(self, inputs_BTE: Tensor) -> Tensor:
        return self.before.project(inputs_BTE)

    def draw(self, batch: int, positions: int) -> DropoutMasks:
        return self.above.draw(batch, positions)

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        between = self.before(self.enter(projected_BQG, state), state.recurrent[: self.parts])
        attended = self.attention(between[0], state.prepared, state.carried, state.position)
        lowest = self.behind(self.behind.project(attended.context_BQC), between)
        top_BQH, above = self.above.step(state.recurrent[self.parts :], below=lowest[0], masks=state.step_masks)
        return state.after(lowest + above, attended), Output(top_BQH, attended.context_BQC)

    def unsupported_reason(self) -> str:
        return self.attention.unsupported_reason() or self.before.unsupported_reason()

    def record(self, tape: Tape, projected: Term, state: DecoderState) -> tuple[Value, Value]:
        carried = self.before.carry(tape, state.recurrent[: self.parts])
        between = rows_after(self.before.intermediate(tape))
        self.before.record(tape, (projected,), rows_before(carried), between)
        context = self.attention.record(tape, between[0], state.prepared)
        inputs = (tape.product(context.after, *self.behind.input_weights),)
        self.behind.record(tape, inputs, between, rows_after(carried))
        return carried[0], context

    def scan_recorded(self, inputs_BTE: Tensor, state: DecoderState) -> tuple[Output, AttentionWeights]:
        # The layers above have no attention in their recurrence: PyTorch's layers run them over all positions.
        output, weights = super().scan_recorded(inputs_BTE, state)
        top_BTH = self.above.scan(state.recurrent[self.parts :], output.hidden, masks=state.dropout_masks)
        return Output(top_BTH, output.context), weights
