"""The decoder: embedding, a wiring, its readout.

Shapes: B sentences, Q queries, S source positions, T target positions, E embedding, R readout.
"""

from __future__ import annotations

from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.recurrence import Steps
from nmt.model.attention import AttentionWeights, Encoded
from nmt.model.embedding import Embedding
from nmt.model.wiring import DecoderState, build_wiring


class Decoder(nn.Module):
    """Reads the target so far and says what comes next."""

    def __init__(self, embedding: Embedding, model: schema.Model, memory_size: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.wiring = build_wiring(model, model.embedding_size, memory_size)
        self.readout = self.wiring.build_readout(model, model.embedding_size)

    def start(self, encoded: Encoded) -> DecoderState:
        """The state before the first piece, with one hypothesis a sentence."""
        return self.wiring.start(encoded)

    def step(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Read the previous piece of every hypothesis; the new state and its readout [B, Q, R]."""
        inputs_BQE = self.embedding(previous_BQ)
        state, output = self.wiring.advance(self.wiring.project(inputs_BQE), state)
        return state, self.readout(output, inputs_BQE)

    def scan(
        self, encoded: Encoded, previous_BT: Tensor, steps: Steps | None = None
    ) -> tuple[Tensor, AttentionWeights | None]:
        """Readout [B, T, R] of all positions of known targets, and where each of them looked."""
        inputs_BTE = self.embedding(previous_BT)
        output, weights = self.wiring.scan(inputs_BTE, encoded, steps)
        return self.readout(output, inputs_BTE), weights
