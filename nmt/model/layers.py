"""Recurrent layers over packed rows: those of the encoder, and of each level of a document.

Shapes: N rows, R rows that are not empty, P elements in packed order, L layers, D directions, X input features,
C output features, H hidden, F = D x H, G gates x H.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.kernels.linear.quantization import has_prepacked_weights
from nmt.kernels.packed import Packing, State, scan, zeros
from nmt.kernels.select import Kernels
from nmt.model.cells import Cell, cell_class, library_stack
from nmt.model.modules import module_list


class Segment(NamedTuple):
    """Layers, counted from 1, that the library runs at once: between them is nothing but dropout."""

    first: int
    last: int
    directions: int


def segments(options: schema.EncoderConfig) -> Iterator[Segment]:
    """The layers in as few segments as there can be; a layer whose input is added to its output is one by itself."""
    first, directions = 1, options.directions
    residual_from = options.residual_from or options.layers + 1
    for layer in range(1, options.layers + 1):
        ends = layer == options.layers or layer + 1 >= residual_from or directions[layer] != directions[layer - 1]
        if ends:
            yield Segment(first, layer, directions[layer - 1])
            first = layer + 1


class RecurrentLayers(nn.Module):
    """Recurrent layers, one above the other, in both directions, forward, or in both in the lowest layer alone.

        y_1 = layer_1(x);   y_l = layer_l(y_{l-1}), from `residual_from` on + y_{l-1}

    (Wu 2016, sections 3.1 and 3.2.) Dropout is of what a layer reads, not of what is added to its output.
    """

    cell: type[Cell]
    output_size: int
    stack: nn.RNNBase
    above: Sequence[nn.RNNBase]

    def add_layers(self, options: schema.EncoderConfig, input_size: int, dropout: float, kernels: Kernels) -> None:
        """Where a module's own are registered: optimizers know parameters by their order.

        The lowest segment is `stack`, as if there were no other.
        """
        self.cell = cell_class(options.cell)
        self.output_size = options.output_size
        self.between = dropout
        self.drop = kernels.dropout
        self.run_segment = kernels.layers if kernels.weights is None else self._run_prepacked
        self.library_layers = kernels.layers
        self.cell_step = kernels.cells[options.cell.kind]
        self.residual_from = options.residual_from
        sizes = (input_size, *options.widths)
        stacks = [
            library_stack(
                options.cell,
                sizes[segment.first - 1],
                options.hidden_size,
                segment.last - segment.first + 1,
                segment.directions == 2,
                dropout,
            )
            for segment in segments(options)
        ]
        self.stack = stacks[0]
        self.above = module_list(stacks[1:])

    @property
    def segments(self) -> list[nn.RNNBase]:
        """All layers, the lowest first, as the library runs them."""
        return [self.stack, *self.above]

    @property
    def can_be_fused(self) -> bool:
        """Whether its layers have an implementation beside the library's."""
        return isinstance(self.stack, nn.GRU)

    def run(self, below_PX: Tensor, packing: Packing) -> tuple[Tensor, list[State]]:
        """The outputs [P, C] of the top layer, and the last states of each segment: parts [L x D, R, H], as packed."""
        finals: list[State] = []
        layer = 0
        for segment in self.segments:
            inputs_PX = self.drop(below_PX, self.between, self.training) if layer else below_PX
            outputs_PX, final = self.run_segment(segment, inputs_PX, packing)
            layer += segment.num_layers
            adds = self.residual_from is not None and layer >= self.residual_from
            below_PX = outputs_PX + below_PX if adds else outputs_PX
            finals.append(final)
        return below_PX, finals

    def by_layer(self, finals: Sequence[State], packing: Packing) -> tuple[State, ...]:
        """Last states of each layer of all rows, zero for an empty one, the directions side by side: parts [N, F]."""
        layers: list[State] = []
        for segment, final in zip(self.segments, finals, strict=True):
            parts = [
                part.new_zeros(len(part), packing.rows, segment.hidden_size)
                .index_copy(1, packing.row_R, part)
                .view(segment.num_layers, -1, packing.rows, segment.hidden_size)
                .transpose(1, 2)
                .flatten(2)
                .unbind(0)
                for part in final
            ]
            layers += zip(*parts, strict=True)
        return tuple(layers)

    def _run_prepacked(self, segment: nn.RNNBase, rows_PX: Tensor, packing: Packing) -> tuple[Tensor, State]:
        """The segment in evaluation mode; step by step with prepacked weights, which the library cannot take."""
        if not has_prepacked_weights(segment):
            return self.library_layers(segment, rows_PX, packing)
        sizes: list[int] = packing.sizes_T.tolist()
        directions = 2 if segment.bidirectional else 1
        finals: list[State] = []
        for layer in range(segment.num_layers):
            sides = []
            for direction in range(directions):
                weight_in, weight_state, bias_in, bias_state = segment.all_weights[layer * directions + direction]
                step = partial(self._step, weight_state, bias_state)
                first = zeros(self.cell.parts, sizes[0], segment.hidden_size, like=rows_PX)
                projected_PG = F.linear(rows_PX, weight_in, bias_in)
                outputs, last = scan(step, projected_PG, sizes, first, backwards=direction == 1)
                sides.append(outputs)
                finals.append(last)
            rows_PX = torch.cat(sides, 1)
        return rows_PX, tuple(torch.stack(part) for part in zip(*finals, strict=True))

    def _step(self, weight_state: Tensor, bias_state: Tensor, projected: Tensor, state: State) -> State:
        return self.cell_step(projected, F.linear(state[0], weight_state, bias_state), state)
