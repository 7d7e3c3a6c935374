"""The decoder: embedding, a wiring, its readout.

Shapes: B sentences, Q queries, S source positions, T target positions, E embedding, R readout.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.model.attention import AttentionWeights, Encoded
from nmt.model.embedding import Embedding
from nmt.model.wiring import DecoderState, build_wiring

Told = Callable[[Tensor], Tensor]
"""The decoder's states, [B, Q, H] or of all positions [B, T, H], to what they are in their documents."""


class Decoder(nn.Module):
    """Reads the target so far and says what comes next."""

    def __init__(self, embedding: Embedding, model: schema.ModelConfig, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.embedding = embedding
        self.wiring = build_wiring(model, model.embedding_size, memory_size, kernels)
        self.readout = self.wiring.build_readout(model, model.embedding_size, kernels)

    def start(self, encoded: Encoded) -> DecoderState:
        """The state before the first piece, with one hypothesis a sentence."""
        return self.wiring.start(encoded)

    def step(self, state: DecoderState, previous_BQ: Tensor, told: Told | None = None) -> tuple[DecoderState, Tensor]:
        """Read the previous piece of every hypothesis; the new state and its readout [B, Q, R].

        `told` makes of the states what the readout sees; the recurrence knows nothing of it.
        """
        inputs_BQE = self.embedding(previous_BQ)
        state, output = self.wiring.advance(self.wiring.project(inputs_BQE), state)
        return state, self.readout(output if told is None else output.with_hidden(told(output.hidden)), inputs_BQE)

    def scan(
        self, encoded: Encoded, previous_BT: Tensor, told: Told | None = None
    ) -> tuple[Tensor, AttentionWeights | None]:
        """Readout [B, T, R] of all positions of known targets, and where each of them looked; `told` as for `step`."""
        inputs_BTE = self.embedding(previous_BT)
        output, weights = self.wiring.scan(inputs_BTE, encoded)
        return self.readout(output if told is None else output.with_hidden(told(output.hidden)), inputs_BTE), weights

    def states(self, encoded: Encoded, previous_BT: Tensor) -> Tensor:
        """The states [B, T, H] of all positions of known targets, as the wiring puts them out."""
        output, _ = self.wiring.scan(self.embedding(previous_BT), encoded)
        return output.hidden
