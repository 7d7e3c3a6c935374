"""Recurrent layers of the decoder, one above the other.

Shapes: B sentences, Q queries, T target positions, H hidden, C context, G gates x H.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Tape, Term, Value
from nmt.model.cells import CELLS, State, Values, rows_after, rows_before
from nmt.model.modules import module_list

Factors = tuple[Tensor, ...]
"""Of dropout, [B, Q, H] or of all positions [B, T, H] for each layer that reads another one's output: zero, or what
keeps the expectation. Nothing where nothing is dropped, or where they are drawn when they are wanted."""


class Stack(nn.Module):
    """Layers from `first` (counted from 0) to the top of the decoder: each reads the output of the one below.

    With `context_size` each also reads the context. From `residual_from` on a layer's input is added to its output
    (He 2016; Wu 2016, section 3.1). There may be no layer at all.
    """

    def __init__(
        self, model: schema.ModelConfig, input_size: int, kernels: Kernels, *, first: int = 0, context_size: int = 0
    ) -> None:
        super().__init__()
        decoder = model.decoder
        self.first = first
        self.dropout = model.dropout.layer
        self.drop = kernels.dropout
        self.residual_from = decoder.residual_from
        self.cells = module_list(
            CELLS.build(
                decoder.cell,
                (input_size if layer == first else decoder.hidden_size) + context_size,
                decoder.hidden_size,
                kernels,
            )
            for layer in range(first, decoder.layers)
        )

    def step(
        self,
        state: State,
        *,
        below: Tensor | None = None,
        projected: Tensor | None = None,
        beside: Tensor | None = None,
        context: Tensor | None = None,
        factors: Factors = (),
    ) -> tuple[Tensor, State]:
        """The output [B, Q, H] of the top and the states after one step.

        The lowest layer reads `below` [B, Q, ..], or is given `projected` [B, Q, G] in place of it; `beside` is added
        to its recurrent half. `factors` are those of dropout for this step; without them they are drawn.
        """
        following: State = ()
        for number, cell in enumerate(self.cells):
            if number or projected is None:
                assert below is not None, "the lowest layer reads something"
                projected = cell.project(self._input(number, below, context, factors))
            after = cell(projected, self._part(state, number), None if number else beside)
            following += after
            below = self._output(number, after[0], below)
        assert below is not None, "a stack without layers hands on what is below"
        return below, following

    def draw(self, batch: int, positions: int) -> Factors:
        """Factors of dropout for all positions, as `scan` draws them; none where nothing is dropped."""
        if not self.training or not self.dropout:
            return ()
        readers = list(self.cells)[not self.first :]
        ones = [cell.recurrent_weights[0].new_ones(batch, positions, cell.hidden_size) for cell in readers]
        return tuple(self.drop(each, self.dropout, True) for each in ones)

    def unsupported_reason(self) -> str:
        """What keeps a step of the whole stack from being recorded, with its path in the YAML."""
        return self.cells[0].unsupported_reason()

    def carry(self, tape: Tape, state: State) -> list[Values]:
        """What a tape carries of each layer, from a state with one query."""
        return [cell.carry(tape, self._part(state, number)) for number, cell in enumerate(self.cells)]

    def record(self, tape: Tape, inputs: Sequence[Term], carried: Sequence[Values], factors: Factors) -> Value:
        """Record a step, the lowest layer's input half of the gates being the sum of `inputs`; the top's output."""
        assert not self.first, "the lowest layer of the decoder is part of the recurrence"
        below: Value | None = None
        for number, (cell, values) in enumerate(zip(self.cells, carried, strict=True)):
            if below is not None:
                entered = tape.scale(below.after, factors[number - 1]) if factors else below
                inputs = (tape.product(entered.after, *cell.input_weights),)
            cell.record(tape, inputs, rows_before(values), rows_after(values))
            output = values[0]
            if below is not None and self._is_residual(number):
                output = tape.sum(output.after, below.after)
            below = output
        assert below is not None, "a recurrence has a layer"
        return below

    def scan(self, state: State, inputs: Tensor, context: Tensor | None = None, factors: Factors = ()) -> Tensor:
        """The outputs [B, T, H] of the top for inputs [B, T, ..] of all positions; `factors` as for `step`."""
        for number, cell in enumerate(self.cells):
            outputs = cell.scan(self._input(number, inputs, context, factors), self._part(state, number))
            inputs = self._output(number, outputs, inputs)
        return inputs

    def _part(self, state: State, number: int) -> State:
        parts = self.cells[0].parts
        return state[number * parts : (number + 1) * parts]

    def _input(self, number: int, below: Tensor, context: Tensor | None, factors: Factors = ()) -> Tensor:
        if self.first + number:
            if factors:
                below = below * factors[number - (not self.first)]
            else:
                below = self.drop(below, self.dropout, self.training)
        return below if context is None else torch.cat([below, context.to(below.dtype)], -1)

    def _output(self, number: int, output: Tensor, below: Tensor | None) -> Tensor:
        return output if below is None or not self._is_residual(number) else output + below

    def _is_residual(self, number: int) -> bool:
        return self.residual_from is not None and self.first + number + 1 >= self.residual_from
