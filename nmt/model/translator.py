"""The translator: encoder, decoder and vocabulary projection; forced decoding and search with document context.

Shapes: B sentences, S source positions, T target positions, Q queries, R readout, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.data.batching import Batch, PreviousSentences
from nmt.kernels.select import Kernels, UnsupportedReasons
from nmt.model.attention import AttentionWeights, Encoded
from nmt.model.context import CONTEXTS, ContextWeights, Sentences
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
    `step` equals `readout` of all positions. `ContextualTranslator` handles sentences with document context.
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


class ForcedReadout(NamedTuple):
    """Readout of given translations, each piece predicted from those before."""

    readout_BTR: Tensor
    weights: AttentionWeights | None
    """Attention of the target positions to the source; None without attention."""
    source_context: ContextWeights | None
    """Attention of the source positions to the sources before; None without."""
    target_context: ContextWeights | None
    """Attention of the target positions to the translations before; None without."""


def forced_readout(translator: Translator, batch: Batch) -> ForcedReadout:
    """Predicts the targets of a batch, its pairs with their document context.

    Sentences that are context only have a readout as well, without context of their own.
    """
    encoded = translator.encode(batch.source_BS, batch.source_lengths_B)
    past = batch.context
    if past is None:
        return ForcedReadout(*translator.readout(encoded, batch.target_BT), None, None)
    read, target_context = None, _TargetContext(translator, past.targets, batch.target_lengths_B)
    if past.sources:
        encoded, read = translator.context.add_source_context(encoded, past.sources, None)
    encoded = encoded.first(len(batch.target_BT))
    readout_BTR, weights = translator.readout(encoded, batch.target_BT, target_context if past.targets else None)
    return ForcedReadout(readout_BTR, weights, read, target_context.weights)


class _TargetContext:
    """Adds context to the decoder's states from the translations before, all of which are among them."""

    def __init__(self, translator: Translator, past: PreviousSentences | None, target_lengths_B: Tensor) -> None:
        self.weights: ContextWeights | None = None
        self._translator, self._past, self._lengths_B = translator, past, target_lengths_B

    def __call__(self, states_BTH: Tensor) -> Tensor:
        assert self._past is not None
        before = _sentences(states_BTH, self._lengths_B)
        context_BTH, self.weights = self._translator.context.add_target_context(states_BTH, self._past, before)
        return context_BTH


@dataclass(frozen=True)
class SentenceStates:
    """Encoder and decoder states of translated sentences, the context of those after them."""

    sources: Sentences | None
    """Encoder states; None if no context reads them."""
    targets: Sentences | None
    """Decoder states of the translations by forced decoding; None if no context reads them."""

    @staticmethod
    def join(parts: Sequence[SentenceStates]) -> SentenceStates:
        """Concatenates the states of sentences."""
        sources = [part.sources for part in parts if part.sources is not None]
        targets = [part.targets for part in parts if part.targets is not None]
        return SentenceStates(
            Sentences.join(sources) if sources else None, Sentences.join(targets) if targets else None
        )


@dataclass(frozen=True)
class EncodedContext:
    """Document context of sentences that are to be translated."""

    past: PreviousSentences
    states: SentenceStates


class TranslatorInContext:
    """A translator with the document context of the sentences of a batch, as a model of the search."""

    def __init__(self, translator: Translator, before: EncodedContext | None) -> None:
        """`before` None: no sentence has context."""
        self._translator = translator
        self._before = before
        self.log_softmax = translator.log_softmax

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """Encodes the sources, with their context."""
        return _in_context(self._translator, self._translator.encode(source_BS, lengths_B), self._before)

    def start(self, encoded: Encoded) -> DecoderState:
        """Returns the decoder's state before the first piece, with one hypothesis a sentence."""
        state, before = self._translator.start(encoded), self._before
        if before is None or before.states.targets is None:
            return state
        translated = self._translator.context.start(before.past, before.states.targets, len(encoded.memory_BSC))
        return replace(state, translated=translated)

    def step(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Reads the previous piece of every hypothesis; returns the new state and logits [B, Q, V]."""
        return self._translator.step(state, previous_BQ)

    def with_shortlist(self, pieces_P: Tensor) -> ShortlistSteps:
        """Returns the steps for a search among these pieces."""
        return self._translator.with_shortlist(pieces_P)


class DocumentMemory:
    """States of the sentences that a translator has translated, as far back as its context reaches."""

    def __init__(self, translator: Translator, documents: Sequence[Sequence[int]]) -> None:
        """`documents` are the rows of their sentences."""
        document_context = translator.context.document_context
        self.translator = translator
        self._reach = 0 if document_context is None else document_context.sentences
        self._document = {row: number for number, rows in enumerate(documents) for row in rows}
        self._states: list[deque[SentenceStates]] = [deque(maxlen=self._reach) for _ in documents]

    def before(self, rows: Sequence[int]) -> EncodedContext | None:
        """Returns the states before these sentences; None where all are the first of their documents."""
        states = [list(reversed(self._states[self._document[row]])) for row in rows]
        flat = [each for sentences in states for each in sentences]
        if not flat:
            return None
        past_BP = np.full((len(rows), self._reach), -1)
        past_BP[np.arange(self._reach) < np.asarray([[len(sentences)] for sentences in states])] = range(len(flat))
        device = self.translator.projection.weight.device
        return EncodedContext(PreviousSentences.of(past_BP).to(device), SentenceStates.join(flat))

    def read(self, batch: Batch) -> dict[int, SentenceStates]:
        """Returns the states of sentences and their translations, by row; `add` stores them."""
        if not self._reach:
            return {}
        rows = batch.rows.tolist()
        states = encode_states(self.translator, batch, self.before(rows))
        lengths = zip(batch.source_lengths_B.tolist(), batch.target_lengths_B.tolist(), strict=True)
        return {
            row: SentenceStates(_sentence(states.sources, number, source), _sentence(states.targets, number, target))
            for number, (row, (source, target)) in enumerate(zip(rows, lengths, strict=True))
        }

    def add(self, states: dict[int, SentenceStates]) -> None:
        """Stores the states of sentences, each the next one of its document."""
        for row, each in states.items():
            self._states[self._document[row]].append(each)


def _sentence(sentences: Sentences | None, number: int, length: int) -> Sentences | None:
    """One of the sentences, copied without padding, so that it does not hold on to the others."""
    if sentences is None:
        return None
    part = (slice(number, number + 1), slice(length))
    return Sentences(sentences.states_MSC[part].clone(), sentences.mask_MS[part].clone())


def encode_states(translator: Translator, batch: Batch, before: EncodedContext | None) -> SentenceStates:
    """Encodes the pairs of a batch, sources and translations, with their context."""
    document_context = translator.context.document_context
    assert document_context is not None, "the translator has context"
    encoded = translator.encode(batch.source_BS, batch.source_lengths_B)
    read = Sentences(encoded.memory_BSC, encoded.mask_BS) if document_context.sources else None
    if not document_context.targets:
        return SentenceStates(read, None)
    encoded = _in_context(translator, encoded, before)
    states_BTH = translator.decoder.states(encoded, translator.previous(batch.target_BT))
    return SentenceStates(read, _sentences(states_BTH, batch.target_lengths_B))


def _in_context(translator: Translator, encoded: Encoded, before: EncodedContext | None) -> Encoded:
    if before is None or before.states.sources is None:
        return encoded
    joined, _ = translator.context.add_source_context(encoded, before.past, before.states.sources)
    return joined


def _sentences(states_BTH: Tensor, lengths_B: Tensor) -> Sentences:
    positions_T = torch.arange(states_BTH.shape[1])
    mask_BT = (positions_T < lengths_B.unsqueeze(1)).to(states_BTH.device, non_blocking=True)
    return Sentences(states_BTH, mask_BT)
