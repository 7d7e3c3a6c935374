"""Recurrent layers of the decoder, one above the other.

Shapes: B sentences, Q queries, T target positions, H hidden, C context, G gates x H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.dropout import dropout
from nmt.model.cells import CELLS, State
from nmt.model.modules import module_list


class Stack(nn.Module):
    """Layers from `first` (counted from 0) to the top of the decoder: each reads the output of the one below.

    With `context_size` each also reads the context. From `residual_from` on a layer's input is added to its output
    (He 2016; Wu 2016, section 3.1). There may be no layer at all.
    """

    def __init__(self, model: schema.Model, input_size: int, *, first: int = 0, context_size: int = 0) -> None:
        super().__init__()
        decoder = model.decoder
        self.first = first
        self.dropout = model.dropout.layer
        self.residual_from = decoder.residual_from
        self.cells = module_list(
            CELLS.build(
                decoder.cell,
                (input_size if layer == first else decoder.hidden_size) + context_size,
                decoder.hidden_size,
            )
            for layer in range(first, decoder.layers)
        )

    def step(
        self,
        state: State,
        *,
        below: Tensor | None = None,
        projected: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """The output [B, Q, H] of the top and the states after one step.

        The lowest layer reads `below` [B, Q, ..], or is given `projected` [B, Q, G] in place of it.
        """
        following: State = ()
        for number, cell in enumerate(self.cells):
            if number or projected is None:
                assert below is not None, "the lowest layer reads something"
                projected = cell.project(self._input(number, below, context))
            after = cell(projected, self._part(state, number))
            following += after
            below = self._output(number, after[0], below)
        assert below is not None, "a stack without layers hands on what is below"
        return below, following

    def obstacle(self) -> str:
        """What keeps a step of the whole stack from being recorded, with its path in the YAML."""
        return self.cells[0].obstacle() if len(self.cells) == 1 else "model.decoder.layers is not 1"

    def scan(self, state: State, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """The outputs [B, T, H] of the top for inputs [B, T, ..] of all positions."""
        for number, cell in enumerate(self.cells):
            outputs = cell.scan(self._input(number, inputs, context), self._part(state, number))
            inputs = self._output(number, outputs, inputs)
        return inputs

    def _part(self, state: State, number: int) -> State:
        parts = self.cells[0].parts
        return state[number * parts : (number + 1) * parts]

    def _input(self, number: int, below: Tensor, context: Tensor | None) -> Tensor:
        if self.first + number:
            below = dropout(below, self.dropout, self.training)
        return below if context is None else torch.cat([below, context.to(below.dtype)], -1)

    def _output(self, number: int, output: Tensor, below: Tensor | None) -> Tensor:
        layer = self.first + number + 1
        if below is None or self.residual_from is None or layer < self.residual_from:
            return output
        return output + below
