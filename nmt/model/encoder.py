"""The recurrent encoder.

Shapes: B sentences, S source positions, E embedding, C memory features, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nmt.config import schema
from nmt.model.attention import Encoded
from nmt.model.cells import library_stack
from nmt.model.embedding import Embedding


class RecurrentEncoder(nn.Module):
    """A stack of recurrent layers over the source, in one or both directions (Bahdanau 2015, 3.2).

    Sentences are packed, so padding costs nothing and never reaches a state.
    """

    def __init__(self, options: schema.Encoder, embedding: Embedding, model: schema.Model) -> None:
        super().__init__()
        self.embedding = embedding
        self.dropout = model.dropout.layer
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
        packed = pack_padded_sequence(self.embedding(source_BS), lengths_B, batch_first=True, enforce_sorted=False)
        packed, final = self.stack(packed)
        # Before padding comes back, which so stays exactly zero.
        packed = packed._replace(data=self.norm(packed.data))
        memory_BSC, _ = pad_packed_sequence(packed, batch_first=True, total_length=positions)
        mask_BS = (torch.arange(positions) < lengths_B.unsqueeze(1)).to(source_BS.device, non_blocking=True)
        memory_BSC = F.dropout(memory_BSC, self.dropout, self.training)
        return Encoded(memory_BSC, mask_BS, self._finals(final, batch))

    def _finals(self, final: Tensor | tuple[Tensor, ...], batch: int) -> tuple[tuple[Tensor, ...], ...]:
        """Last states by layer, the directions side by side: the library gives [layers x directions, B, H]."""
        parts = final if isinstance(final, tuple) else (final,)
        by_layer = [
            part.view(self.layers, self.directions, batch, -1).transpose(1, 2).flatten(2).unbind(0) for part in parts
        ]
        return tuple(zip(*by_layer, strict=True))
