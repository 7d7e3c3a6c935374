"""The lexical model: translations of single source words, beside the decoder's readout.

Shapes: B sentences, Q queries, S source positions, E embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.model.attention import AttentionWeights
from nmt.model.attention.base import has_attention
from nmt.model.modules import Linear, initialize


def has_lexical_model(model: schema.ModelConfig) -> bool:
    """Returns what `model.decoder.readout.lexical` says, and without that whether the network can have one."""
    readout = model.decoder.readout
    if readout.lexical is not None:
        return readout.lexical
    is_as_wide = readout.size in (None, model.embedding_size)
    return has_attention(model) and model.attention.alignment == "soft" and is_as_wide


class LexicalModel(nn.Module):
    """Lexical model of Nguyen and Chiang 2018 (section 4), a vector that is added to the readout.

        l_t = tanh(sum over s of a(t, s) f_s);   h_t = tanh(W l_t + b) + l_t

    f_s is the embedding of source piece s, a the attention weights, with several heads their mean. The paper projects
    h_t to the vocabulary by a matrix of its own; here it shares that of the readout, which it is as wide as.
    """

    def __init__(self, embedding_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.mix = Linear(embedding_size, embedding_size, kernels)
        initialize(self.mix)

    def forward(self, weights: AttentionWeights, embedded_BSE: Tensor) -> Tensor:
        """Returns h [B, Q, E] of target positions with these weights."""
        words_BQE = torch.tanh(weights.mean().to(embedded_BSE.dtype) @ embedded_BSE)
        mixed_BQE: Tensor = self.mix(words_BQE)
        return torch.tanh(mixed_BQE) + words_BQE
