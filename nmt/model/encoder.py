"""The recurrent encoder.

Shapes: B sentences, S source positions, P pieces in packed order, E embedding, X input features, C memory features,
L layers, G gates x H.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.kernels.dropout import dropout
from nmt.kernels.packed import PackedGru, run_packed
from nmt.kernels.ragged import Packing
from nmt.kernels.sequences import State, scan, zeros
from nmt.model.attention import Encoded
from nmt.model.cells import cell_class, library_stack
from nmt.model.embedding import Embedding
from nmt.model.packing import is_packed


class RecurrentEncoder(nn.Module):
    """A stack of recurrent layers over the source, in one or both directions (Bahdanau 2015, 3.2).

    Sentences are packed, so padding costs nothing and never reaches a state.
    """

    def __init__(self, options: schema.Encoder, embedding: Embedding, model: schema.Model) -> None:
        super().__init__()
        self.embedding = embedding
        self.dropout = model.dropout.layer
        self.cell = cell_class(options.cell)
        self.hidden_size = options.hidden_size
        self.layers = options.layers
        self.directions = 2 if options.bidirectional else 1
        self.output_size = options.hidden_size * self.directions
        self.stack = library_stack(
            options.cell, model.embedding_size, options.hidden_size, options.layers, options.bidirectional, self.dropout
        )
        self.norm = nn.LayerNorm(self.output_size) if model.layer_normalization else nn.Identity()

    def obstacle(self) -> str:
        """What keeps its layers from the hand-made kernel, with its path in the YAML; empty where nothing does."""
        return "" if isinstance(self.stack, nn.GRU) else "model.encoder.cell is not gru"

    def forward(self, source_BS: Tensor, lengths_B: Tensor, gru: PackedGru | None = None) -> Encoded:
        """Encode sentences of `lengths_B` pieces, padded to the right with anything.

        `lengths_B` stays on the CPU: packing reads it there, and a copy back from a GPU would wait for it. `gru` runs
        the layers that can be, which is faster on a CPU.
        """
        batch, positions = source_BS.shape
        packing = Packing.of(lengths_B, source_BS.device)
        place_P = packing.row_P * positions + packing.position_P
        inputs_PE = self.embedding(source_BS.flatten().index_select(0, place_P))
        if is_packed(self.stack):
            outputs_PC, final = self._step_by_step(inputs_PE, packing)
        else:
            outputs_PC, final = run_packed(self.stack, inputs_PE, packing, None if self.obstacle() else gru)
        # Before padding comes back, which so stays exactly zero.
        outputs_PC = dropout(self.norm(outputs_PC), self.dropout, self.training)
        memory_PC = outputs_PC.new_zeros(batch * positions, self.output_size).index_copy(0, place_P, outputs_PC)
        mask_BS = torch.arange(positions) < packing.lengths_N.unsqueeze(1)
        return Encoded(
            memory_PC.view(batch, positions, -1),
            mask_BS.to(source_BS.device, non_blocking=True),
            self._finals(final, packing),
        )

    def _step_by_step(self, rows_PX: Tensor, packing: Packing) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the library's stack does, in evaluation mode, with weights that it cannot take."""
        sizes: list[int] = packing.sizes_T.tolist()
        finals: list[State] = []
        for layer in range(self.layers):
            sides = []
            for direction in range(self.directions):
                weight_in, weight_state, bias_in, bias_state = self.stack.all_weights[
                    layer * self.directions + direction
                ]
                step = partial(self._step, weight_state, bias_state)
                first = zeros(self.cell.parts, sizes[0], self.hidden_size, like=rows_PX)
                projected_PG = F.linear(rows_PX, weight_in, bias_in)
                outputs, last = scan(step, projected_PG, sizes, first, backwards=direction == 1)
                sides.append(outputs)
                finals.append(last)
            rows_PX = torch.cat(sides, 1)
        return rows_PX, tuple(torch.stack(part) for part in zip(*finals, strict=True))

    def _step(self, weight_state: Tensor, bias_state: Tensor, projected: Tensor, state: State) -> State:
        return self.cell.step(projected, F.linear(state[0], weight_state, bias_state), state)

    def _finals(self, final: tuple[Tensor, ...], packing: Packing) -> tuple[tuple[Tensor, ...], ...]:
        """Last states by layer, the directions side by side: parts are [layers x directions, B, H], as packed."""
        by_layer = [
            part.new_zeros(len(part), packing.rows, self.hidden_size)
            .index_copy(1, packing.row_R, part)
            .view(self.layers, self.directions, packing.rows, -1)
            .transpose(1, 2)
            .flatten(2)
            .unbind(0)
            for part in final
        ]
        return tuple(zip(*by_layer, strict=True))
