"""The decoder: embedding, a wiring, deep output.

Shapes: B sentences, Q queries, T target positions, E embedding, H hidden, C context, R readout, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.model.attention import Encoded
from nmt.model.embedding import Embedding
from nmt.model.wiring import DecoderState, Output, build_wiring


class Readout(nn.Module):
    """Deep output (Pascanu 2014; Bahdanau 2015, A.2.2): t = f(U s_t + V E y_{t-1} + C c_t).

    The paper's text conditions on s_t (eq. 4), its appendix on s_{t-1}; this is s_t, as in its successors.
    f is tanh, the identity, or the maximum of pairs.
    """

    def __init__(self, model: schema.Model, hidden_size: int, context_size: int, input_size: int) -> None:
        super().__init__()
        options = model.decoder.readout
        self.kind = options.kind
        self.size = options.size or model.embedding_size
        self.mix = nn.Linear(hidden_size + context_size + input_size, self.size * (2 if self.kind == "maxout" else 1))
        self.norm = nn.LayerNorm(self.size) if model.layer_normalization else nn.Identity()
        self.dropout = model.dropout.output
        nn.init.xavier_uniform_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, output: Output, inputs_BTE: Tensor) -> Tensor:
        """Readout [B, T, R] of every position."""
        parts = (output.hidden, output.context, inputs_BTE)
        mixed_BTR = self.mix(torch.cat([part.to(inputs_BTE.dtype) for part in parts], -1))
        if self.kind == "maxout":
            mixed_BTR = mixed_BTR.unflatten(-1, (self.size, 2)).amax(-1)
        elif self.kind == "tanh":
            mixed_BTR = torch.tanh(mixed_BTR)
        return F.dropout(self.norm(mixed_BTR), self.dropout, self.training)


class Decoder(nn.Module):
    """Reads the target so far and says what comes next."""

    def __init__(self, embedding: Embedding, model: schema.Model, memory_size: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.wiring = build_wiring(model, model.embedding_size, memory_size)
        self.readout = Readout(model, self.wiring.hidden_size, self.wiring.context_size, model.embedding_size)

    def start(self, encoded: Encoded) -> DecoderState:
        """The state before the first piece, with one hypothesis a sentence."""
        return self.wiring.start(encoded)

    def step(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Read the previous piece of every hypothesis; the new state and its readout [B, Q, R]."""
        inputs_BQE = self.embedding(previous_BQ)
        state, output = self.wiring.advance(self.wiring.project(inputs_BQE), state)
        return state, self.readout(output, inputs_BQE)

    def scan(self, encoded: Encoded, previous_BT: Tensor) -> tuple[Tensor, Tensor | None]:
        """Readout [B, T, R] of all positions of known targets, and the attention weights [B, T, S] if there are any."""
        inputs_BTE = self.embedding(previous_BT)
        output, weights_BTS = self.wiring.scan(inputs_BTE, encoded)
        return self.readout(output, inputs_BTE), weights_BTS
