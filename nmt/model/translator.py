"""The translator: encoder, decoder and vocabulary projection.

Shapes: B sentences, S source positions, T target positions, Q queries, R readout, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.kernels.select import Kernels, UnsupportedReasons
from nmt.model.attention import AttentionWeights, Encoded
from nmt.model.context import CONTEXTS
from nmt.model.encoder import RecurrentEncoder
from nmt.model.modules import Embedding, embedding_table
from nmt.model.wiring import DecoderState, build_wiring

AddContext = Callable[[Tensor], Tensor]
"""Adds document context to the decoder's states, [B, Q, H] or of all positions [B, T, H]."""


class Decoder(nn.Module):
    """Computes the readout of the next target piece from the pieces so far."""

    def __init__(self, embedding: Embedding, model: schema.ModelConfig, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.embedding = embedding
        self.wiring = build_wiring(model, model.embedding_size, memory_size, kernels)
        self.readout = self.wiring.build_readout(model, model.embedding_size, kernels)

    def start(self, encoded: Encoded) -> DecoderState:
        """Returns the state before the first piece, with one hypothesis per sentence."""
        return self.wiring.start(encoded)

    def step(
        self, state: DecoderState, previous_BQ: Tensor, add_context: AddContext | None = None
    ) -> tuple[DecoderState, Tensor]:
        """Reads the previous piece of each hypothesis; returns the new state and its readout [B, Q, R].

        `add_context` changes the states that the readout reads; the recurrence does not depend on it.
        """
        inputs_BQE = self.embedding(previous_BQ)
        state, output = self.wiring.advance(self.wiring.project(inputs_BQE), state)
        return state, self.readout(
            output if add_context is None else output.with_hidden(add_context(output.hidden)), inputs_BQE
        )

    def scan(
        self, encoded: Encoded, previous_BT: Tensor, add_context: AddContext | None = None
    ) -> tuple[Tensor, AttentionWeights | None]:
        """Returns the readout [B, T, R] of all positions of given targets, and their attention weights."""
        inputs_BTE = self.embedding(previous_BT)
        output, weights = self.wiring.scan(inputs_BTE, encoded)
        return self.readout(
            output if add_context is None else output.with_hidden(add_context(output.hidden)), inputs_BTE
        ), weights

    def states(self, encoded: Encoded, previous_BT: Tensor) -> Tensor:
        """Returns the decoder states [B, T, H] of all positions of known targets."""
        output, _ = self.wiring.scan(self.embedding(previous_BT), encoded)
        return output.hidden


@dataclass(frozen=True)
class Vocabulary:
    """Properties of the tokenizers that the network needs."""

    source_size: int
    target_size: int
    bos: int
    """Id that the decoder reads before the first target piece."""


class Translator(nn.Module):
    """Translation network, p(target | source).

    A search needs `encode`, `start`, `step` and the state's `select`; training needs `encode` and `readout`. Repeated
    `step` equals `readout` of all positions. `nmt.model.in_context` handles sentences with document context.
    """

    def __init__(
        self, model: schema.ModelConfig, vocabulary: Vocabulary, kernels: Kernels, reverse_source: bool = False
    ) -> None:
        """`reverse_source` is `data.reverse_source` of the config."""
        super().__init__()
        dropout = model.dropout
        target_table = embedding_table(vocabulary.target_size, model.embedding_size)
        tied_source = model.tie in ("source_target", "all")
        assert not tied_source or vocabulary.source_size == vocabulary.target_size, "tied but of different sizes"
        source_table = target_table if tied_source else embedding_table(vocabulary.source_size, model.embedding_size)
        self.bos = vocabulary.bos
        self.kernels = kernels
        self.log_softmax = kernels.log_softmax
        self.encoder = RecurrentEncoder(
            model.encoder,
            Embedding(source_table, dropout.source_word, dropout.embedding, kernels),
            model,
            kernels,
            reverse_source,
        )
        self.decoder = Decoder(
            Embedding(target_table, dropout.target_word, dropout.embedding, kernels),
            model,
            self.encoder.output_size,
            kernels,
        )
        self.context = CONTEXTS.build(model.context, model, self.decoder.wiring.hidden_size, kernels)
        self.projection = nn.Linear(self.decoder.readout.size, vocabulary.target_size)
        nn.init.zeros_(self.projection.bias)
        if model.tie in ("target_output", "all"):
            self.projection.weight = target_table.weight
        else:
            nn.init.xavier_uniform_(self.projection.weight)

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """Encodes sentences of `lengths_B` pieces (on the CPU), padded to the right with any valid id."""
        encoded: Encoded = self.encoder(source_BS, lengths_B)
        return encoded

    def start(self, encoded: Encoded) -> DecoderState:
        """Returns the decoder's state before the first piece, with one hypothesis per sentence."""
        return self.decoder.start(encoded)

    def step(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Reads the previous piece of each hypothesis; returns the new state and logits [B, Q, V]."""
        state, readout_BQR = self.advance(state, previous_BQ)
        return state, self.projection(readout_BQR)

    def advance(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Reads the previous piece of each hypothesis; returns the new state and the readout [B, Q, R]."""
        translated = state.translated
        add_context = None if translated is None else partial(self.context.step, translated=translated)
        return self.decoder.step(state, previous_BQ, add_context)

    def with_shortlist(self, pieces_P: Tensor) -> ShortlistSteps:
        """Returns steps whose logits are of these pieces only."""
        weight_PR = self.projection.weight.index_select(0, pieces_P)
        return ShortlistSteps(self, weight_PR, self.projection.bias.index_select(0, pieces_P))

    def readout(
        self, encoded: Encoded, target_BT: Tensor, add_context: AddContext | None = None
    ) -> tuple[Tensor, AttentionWeights | None]:
        """Readout [B, T, R] that predicts each piece of the target from those before, and where each looked for it.

        The logits are `projection` of the readout; the loss takes them in pieces and never holds them all.
        `add_context` adds document context to the decoder's states.
        """
        return self.decoder.scan(encoded, self.previous(target_BT), add_context)

    def previous(self, target_BT: Tensor) -> Tensor:
        """Returns the decoder's inputs: the target, shifted by one position."""
        return torch.cat([torch.full_like(target_BT[:, :1], self.bos), target_BT[:, :-1]], 1)

    def unsupported_reasons(self) -> UnsupportedReasons:
        """Returns why the encoder's layers and the decoder's recurrence have only a reference."""
        recurrence = self.context.unsupported_reason() or self.decoder.wiring.unsupported_reason()
        return UnsupportedReasons(self.encoder.unsupported_reason(), recurrence)

    def forward(self, source_BS: Tensor, lengths_B: Tensor, target_BT: Tensor) -> Tensor:
        """Returns the logits [B, T, V] of all target positions."""
        readout_BTR, _ = self.readout(self.encode(source_BS, lengths_B), target_BT)
        logits_BTV: Tensor = self.projection(readout_BTR)
        return logits_BTV

    def parts(self) -> list[tuple[str, int]]:
        """Returns the name and number of parameters of each part; a tied matrix counts once, in its first part."""
        modules = {
            "source embedding": self.encoder.embedding,
            "encoder": nn.ModuleList(self.encoder.segments),
            "encoder normalisation": self.encoder.norm,
            "target embedding": self.decoder.embedding,
            "decoder": self.decoder.wiring,
            "readout": self.decoder.readout,
            "context": self.context,
            "vocabulary projection": self.projection,
        }
        seen: set[int] = set()
        table = []
        for name, module in modules.items():
            fresh = [parameter for parameter in module.parameters() if id(parameter) not in seen]
            seen.update(id(parameter) for parameter in fresh)
            table.append((name, sum(parameter.numel() for parameter in fresh)))
        assert sum(count for _, count in table) == sum(parameter.numel() for parameter in self.parameters())
        return [(name, count) for name, count in table if count]


@dataclass(frozen=True)
class ShortlistSteps:
    """Steps of a translator whose logits are of some target pieces only. The translator is not changed.

    Shapes: P pieces.
    """

    translator: Translator
    weight_PR: Tensor
    bias_P: Tensor

    def step(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Reads the previous piece of each hypothesis; returns the new state and logits [B, Q, P]."""
        state, readout_BQR = self.translator.advance(state, previous_BQ)
        return state, F.linear(readout_BQR, self.weight_PR, self.bias_P)
