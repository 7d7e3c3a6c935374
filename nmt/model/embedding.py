"""Word embeddings with dropout of elements and of whole words.

Shapes: B sentences, T positions, E features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nmt.kernels.select import Kernels


class Embedding(nn.Module):
    """Looks up piece ids, and drops whole words (Gal 2016) and elements in training."""

    def __init__(self, table: nn.Embedding, word_dropout: float, dropout: float, kernels: Kernels) -> None:
        super().__init__()
        self.table = table
        self.word_dropout = word_dropout
        self.dropout = dropout
        self.drop = kernels.dropout

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Embeddings [B, T, E] of ids [B, T]."""
        embedded_BTE: Tensor = self.table(ids_BT)
        if self.training and self.word_dropout > 0.0:
            kept_BT1 = torch.rand(ids_BT.shape, device=ids_BT.device) >= self.word_dropout
            embedded_BTE = embedded_BTE * kept_BT1.unsqueeze(-1)
        return self.drop(embedded_BTE, self.dropout, self.training)


def embedding_table(vocabulary_size: int, features: int) -> nn.Embedding:
    """A table with entries of variance 1 / features, so that it can serve as the output's weights as well."""
    table = nn.Embedding(vocabulary_size, features)
    nn.init.normal_(table.weight, std=features**-0.5)
    return table
