"""When the decoder looks at the source, and where the context goes.

A wiring owns the decoder's recurrence. What does not depend on the recurrence, the products with the inputs, it
computes for all positions at once in `project`; `advance` is one step. `scan` is `advance` repeated, and a wiring
whose recurrence has no attention in it may compute all positions at once instead.

Shapes: B sentences, Q queries, T target positions, E embedding, H decoder hidden, C memory features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.config.registry import Registry
from nmt.model.attention import Encoded, Prepared


@dataclass(frozen=True)
class DecoderState:
    """Everything that decoding carries from one position to the next."""

    prepared: Prepared
    """What attention knows of the sentences: a row a sentence, whatever the number of hypotheses."""
    recurrent: tuple[Tensor, ...]
    """What the wiring carries, each [B, Q, ...]."""
    position: int = 0
    """Target positions read so far."""
    attention_BQS: Tensor | None = None
    """Weights of the last step; 0 on padding."""

    def select(self, sentences_N: Tensor, hypotheses_NQ: Tensor) -> DecoderState:
        """The state whose row n is sentence `sentences_N[n]`, its query q the old hypothesis `hypotheses_NQ[n, q]`."""
        rows_N1 = sentences_N.unsqueeze(1)
        attention = self.attention_BQS
        return replace(
            self,
            prepared=self.prepared.select(sentences_N),
            recurrent=tuple(part[rows_N1, hypotheses_NQ] for part in self.recurrent),
            attention_BQS=None if attention is None else attention[rows_N1, hypotheses_NQ],
        )


@dataclass(frozen=True)
class Output:
    """What a wiring hands to the readout."""

    hidden: Tensor
    """Decoder state, [B, Q, H]."""
    context: Tensor
    """Context, [B, Q, C]; C may be 0."""


class Wiring(nn.Module):
    """The recurrence of the decoder."""

    hidden_size: int
    context_size: int

    def start(self, encoded: Encoded) -> DecoderState:
        """The state before the first position, with one hypothesis a sentence."""
        raise AssertionError("a wiring starts")

    def project(self, inputs_BTE: Tensor) -> Tensor:
        """The products with the inputs, for all positions at once: [B, T, ...]."""
        raise AssertionError("a wiring projects its inputs")

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        """One step of every hypothesis."""
        raise AssertionError("a wiring advances")

    def scan(self, inputs_BTE: Tensor, encoded: Encoded) -> tuple[Output, Tensor | None]:
        """All positions of known targets: outputs [B, T, ...] and attention weights [B, T, S].

        The weights are for looking at and for extra losses; they cost nothing that the steps do not need.
        """
        state = self.start(encoded)
        hiddens, contexts, weights = [], [], []
        for projected_BG in self.project(inputs_BTE).unbind(1):
            state, output = self.advance(projected_BG.unsqueeze(1), state)
            hiddens.append(output.hidden)
            contexts.append(output.context)
            weights.append(state.attention_BQS)
        seen = [weight for weight in weights if weight is not None]
        return Output(torch.cat(hiddens, 1), torch.cat(contexts, 1)), torch.cat(seen, 1) if seen else None


WIRINGS: Registry[Wiring] = Registry("wiring")


def build_wiring(model: schema.Model, input_size: int, memory_size: int) -> Wiring:
    """The wiring that the model's options name, for inputs [.., input_size] and a memory [.., memory_size]."""
    return WIRINGS.build(model.attention.wiring, model, input_size, memory_size)
