"""The recurrent encoder.

Shapes: B sentences, S source positions, P pieces in packed order, E embedding, C memory features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.packed import Packing
from nmt.kernels.select import Kernels
from nmt.model.attention import Encoded
from nmt.model.embedding import Embedding
from nmt.model.layers import RecurrentLayers


class RecurrentEncoder(RecurrentLayers):
    """A stack of recurrent layers over the source (Bahdanau 2015, 3.2; Wu 2016, 3.1 and 3.2).

    Sentences are packed, so padding costs nothing and never reaches a state. With `reverse_source` the layers read the
    pieces of a sentence from the last to the first, then the end symbol (Sutskever 2014, section 3.3). The annotations
    keep the positions of the text, so that whatever reads attention weights counts as without it.
    """

    def __init__(
        self,
        options: schema.EncoderConfig,
        embedding: Embedding,
        model: schema.ModelConfig,
        kernels: Kernels,
        reverse_source: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.reverse_source = reverse_source
        self.dropout = model.dropout.layer
        self.add_layers(options, model.embedding_size, self.dropout, kernels)
        self.norm = nn.LayerNorm(self.output_size) if model.layer_normalization else nn.Identity()

    def unsupported_reason(self) -> str:
        """Why its layers run by the library alone, with the path in the YAML; empty where they need not."""
        return "" if self.can_be_fused else "model.encoder.cell is not gru"

    def forward(self, source_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """Encode sentences of `lengths_B` pieces, padded to the right with anything.

        `lengths_B` stays on the CPU: packing reads it there, and a copy back from a GPU would wait for it.
        """
        batch, positions = source_BS.shape
        packing = Packing.of(lengths_B, source_BS.device)
        position_P = packing.position_P
        if self.reverse_source:
            last_N = (packing.lengths_N - 1).to(source_BS.device, non_blocking=True)
            last_P = last_N.index_select(0, packing.row_P)
            position_P = torch.where(position_P < last_P, last_P - 1 - position_P, position_P)
        place_P = packing.row_P * positions + position_P
        inputs_PE = self.embedding(source_BS.flatten().index_select(0, place_P))
        outputs_PC, finals = self.run(inputs_PE, packing)
        # Before padding comes back, which so stays exactly zero.
        outputs_PC = self.drop(self.norm(outputs_PC), self.dropout, self.training)
        memory_PC = outputs_PC.new_zeros(batch * positions, self.output_size).index_copy(0, place_P, outputs_PC)
        mask_BS = torch.arange(positions) < packing.lengths_N.unsqueeze(1)
        return Encoded(
            memory_PC.view(batch, positions, -1),
            mask_BS.to(source_BS.device, non_blocking=True),
            self.by_layer(finals, packing),
        )
