"""The recurrent encoder.

Shapes: B sentences, S source positions, E embedding, C memory features, L layers.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from nmt.config import schema
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

    def forward(self, source_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """Encode sentences of `lengths_B` pieces, padded to the right with anything.

        `lengths_B` stays on the CPU: packing reads it there, and a copy back from a GPU would wait for it.
        """
        batch, positions = source_BS.shape
        lengths_B = lengths_B.cpu()
        # Sorted here: packing would sort them as well, but wait for the GPU when it takes the order there and back.
        sorted_B, order_B = lengths_B.sort(descending=True)
        order_B, back_B = (each.to(source_BS.device, non_blocking=True) for each in (order_B, order_B.argsort()))
        packed = pack_padded_sequence(self.embedding(source_BS).index_select(0, order_B), sorted_B, batch_first=True)
        packed, final = (self._step_by_step if is_packed(self.stack) else self.stack)(packed)
        # Before padding comes back, which so stays exactly zero.
        packed = packed._replace(data=self.norm(packed.data))
        memory_BSC, _ = pad_packed_sequence(packed, batch_first=True, total_length=positions)
        mask_BS = (torch.arange(positions) < lengths_B.unsqueeze(1)).to(source_BS.device, non_blocking=True)
        memory_BSC = F.dropout(memory_BSC.index_select(0, back_B), self.dropout, self.training)
        return Encoded(memory_BSC, mask_BS, self._finals(final, batch, back_B))

    def _step_by_step(self, packed: PackedSequence) -> tuple[PackedSequence, tuple[Tensor, ...]]:
        """What the library's stack does, in evaluation mode, with weights that it cannot take."""
        sizes: list[int] = packed.batch_sizes.tolist()
        finals: list[State] = []
        rows = packed.data
        for layer in range(self.layers):
            sides = []
            for direction in range(self.directions):
                weight_in, weight_state, bias_in, bias_state = self.stack.all_weights[
                    layer * self.directions + direction
                ]
                step = partial(self._step, weight_state, bias_state)
                first = zeros(self.cell.parts, sizes[0], self.hidden_size, like=rows)
                outputs, last = scan(step, F.linear(rows, weight_in, bias_in), sizes, first, backwards=direction == 1)
                sides.append(outputs)
                finals.append(last)
            rows = torch.cat(sides, 1)
        return packed._replace(data=rows), tuple(torch.stack(part) for part in zip(*finals, strict=True))

    def _step(self, weight_state: Tensor, bias_state: Tensor, projected: Tensor, state: State) -> State:
        return self.cell.step(projected, F.linear(state[0], weight_state, bias_state), state)

    def _finals(self, final: Tensor | tuple[Tensor, ...], batch: int, back_B: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Last states by layer, the directions side by side: the library gives [layers x directions, B, H], sorted."""
        parts = [part.index_select(1, back_B) for part in (final if isinstance(final, tuple) else (final,))]
        by_layer = [
            part.view(self.layers, self.directions, batch, -1).transpose(1, 2).flatten(2).unbind(0) for part in parts
        ]
        return tuple(zip(*by_layer, strict=True))
