"""The translator: encoder, decoder and vocabulary projection; forced decoding and search with document context.

Shapes: B sentences, S source positions, T target positions, Q queries, R readout, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.data.batching import Batch, PreviousSentences
from nmt.kernels.cross_entropy.chunked import chunks
from nmt.kernels.cross_entropy.reference import Losses
from nmt.kernels.packed import SteppedLayers
from nmt.kernels.select import Kernels, UnsupportedReasons
from nmt.model import latent
from nmt.model.attention import AttentionWeights, Encoded
from nmt.model.attention.base import has_lexical_model
from nmt.model.context import CONTEXTS, ContextWeights, Sentences
from nmt.model.encoder import RecurrentEncoder
from nmt.model.modules import Embedding, embedding_table, parameter_counts
from nmt.model.wiring import WIRINGS, DecoderState, LatentReadout, LexicalModel, Output

NARROW_LOGITS = {"cpu"}
"""Devices on which autocast may round logits: there a float32 product would take twice as long."""


def ranked_logits(readout_BQR: Tensor, weight_VR: Tensor, bias_V: Tensor) -> Tensor:
    """Computes W x + b, on a GPU in float32 or TF32 also under autocast.

    bf16 has steps of 0.06 between 8 and 16: pieces whose logits differ by less would be equal in rank.
    """
    device = readout_BQR.device.type
    if device in NARROW_LOGITS or not torch.is_autocast_enabled(device):
        return F.linear(readout_BQR, weight_VR, bias_V)
    with torch.autocast(device, enabled=False):
        return F.linear(readout_BQR.to(weight_VR.dtype), weight_VR, bias_V)


class Decoder(nn.Module):
    """Embedding of the target pieces, recurrence with attention, and readout."""

    def __init__(self, embedding: Embedding, model: schema.ModelConfig, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.embedding = embedding
        self.wiring = WIRINGS.build(model.attention.wiring, model, model.embedding_size, memory_size, kernels)
        self.readout = self.wiring.build_readout(model, model.embedding_size, kernels)
        self.lexical = LexicalModel(model.embedding_size, kernels) if has_lexical_model(model) else None

    def read(
        self, output: Output, inputs_BTE: Tensor, weights: AttentionWeights | None, embedded_BSE: Tensor | None
    ) -> Tensor:
        """Returns the readout [B, T, R] of outputs with these inputs, attention weights and source embeddings."""
        lexical_BTR = None
        if self.lexical is not None:
            assert weights is not None, "a lexical model has attention"
            assert embedded_BSE is not None, "the encoder keeps embeddings for the lexical model"
            lexical_BTR = self.lexical(weights, embedded_BSE)
        readout_BTR: Tensor = self.readout(output, inputs_BTE, lexical_BTR)
        return readout_BTR


@dataclass(frozen=True)
class Vocabulary:
    """Properties of the tokenizers that the network needs."""

    source_size: int
    target_size: int
    bos: int
    """Id that the decoder reads before the first target piece."""


class Translator(nn.Module):
    """Translation network, p(target | source).

    A search needs `encode`, `start`, `step` and the state's `select`; training needs `forced_readout` and `losses`.
    Repeated `step` equals all positions at once. With a latent alignment the readout of a position has not yet met the
    annotations, and the logits are the log-probabilities of a mixture (`nmt.model.latent`).
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
        source_embedding = Embedding(source_table, dropout.source_word, dropout.embedding, kernels)
        self.encoder = RecurrentEncoder(source_embedding, model, kernels, reverse_source)
        target_embedding = Embedding(target_table, dropout.target_word, dropout.embedding, kernels)
        self.decoder = Decoder(target_embedding, model, self.encoder.output_size, kernels)
        self.context = CONTEXTS.build(model.context, model, self.decoder.wiring.hidden_size, kernels)
        self.projection = nn.Linear(self.decoder.readout.size, vocabulary.target_size)
        nn.init.zeros_(self.projection.bias)
        if model.tie in ("target_output", "all"):
            self.projection.weight = target_table.weight
        else:
            # Logits of order one. Glorot's bound would shrink with the size of the vocabulary.
            nn.init.normal_(self.projection.weight, std=self.decoder.readout.size**-0.5)

    def encode(self, source_BS: Tensor, lengths_B: Tensor, masked: bool = False) -> Encoded:
        """Encodes sentences of `lengths_B` pieces (on the CPU unless `masked`), padded to the right with any id."""
        encoded: Encoded = self.encoder(source_BS, lengths_B, masked)
        return encoded

    def start(self, encoded: Encoded) -> DecoderState:
        """Returns the decoder's state before the first piece, with one hypothesis per sentence."""
        state = self.decoder.wiring.start(encoded)
        return replace(state, annotation_terms_BSU=self.annotation_terms(encoded), embedded_BSE=encoded.embedded_BSE)

    def annotation_terms(self, encoded: Encoded) -> Tensor | None:
        """Returns the terms [B, S, U] of the annotations in the readout of a latent alignment; else None."""
        readout = self.decoder.readout
        return readout.annotation_terms(encoded.memory_BSC) if isinstance(readout, LatentReadout) else None

    def step(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Reads the previous piece of each hypothesis; returns the new state and logits [B, Q, V]."""
        state, readout_BQR = self.advance(state, previous_BQ)
        return state, self.logits(readout_BQR, state.annotation_terms_BSU, state.weights)

    def logits(
        self, readout_BQR: Tensor, annotation_terms_BSU: Tensor | None, weights: AttentionWeights | None
    ) -> Tensor:
        """Returns the logits [B, Q, V] of readouts; those of a latent alignment are log-probabilities."""
        if annotation_terms_BSU is None:
            return ranked_logits(readout_BQR, self.projection.weight, self.projection.bias)
        alternatives = self._alternatives(readout_BQR, annotation_terms_BSU, weights)
        return alternatives.log_probabilities(self.projection).view(*readout_BQR.shape[:2], -1)

    def _alternatives(
        self, readout_BQU: Tensor, annotation_terms_BSU: Tensor, weights: AttentionWeights | None
    ) -> latent.Alternatives:
        assert isinstance(self.decoder.readout, LatentReadout)
        assert weights is not None, "a latent alignment has weights"
        return latent.Alternatives.of(self.decoder.readout, readout_BQU, annotation_terms_BSU, weights.mean())

    def advance(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Reads the previous piece of each hypothesis; returns the new state and the readout [B, Q, R] or [B, Q, U]."""
        wiring, inputs_BQE = self.decoder.wiring, self.decoder.embedding(previous_BQ)
        state, output = wiring.advance(wiring.project(inputs_BQE), state)
        if state.prepared_context is not None:
            # Only the readout depends on the context, not the recurrence.
            output = output._replace(hidden=self.context.step(output.hidden, state.prepared_context))
        readout_BQR = self.decoder.read(output, inputs_BQE, state.weights, state.embedded_BSE)
        return replace(state, readout_BQR=readout_BQR), readout_BQR

    def with_shortlist(self, pieces_P: Tensor) -> ShortlistSteps:
        """Returns steps whose logits are of these pieces only."""
        weight_PR = self.projection.weight.index_select(0, pieces_P)
        return ShortlistSteps(self, pieces_P, weight_PR, self.projection.bias.index_select(0, pieces_P))

    def readout(self, encoded: Encoded, target_BT: Tensor) -> tuple[Tensor, AttentionWeights | None]:
        """Returns the readout [B, T, R] that predicts each piece of the target from those before, and the attention.

        `logits` computes the logits of the readout; the loss takes them in pieces and never holds them all.
        """
        inputs_BTE, output, weights = self.scan(encoded, target_BT)
        return self.decoder.read(output, inputs_BTE, weights, encoded.embedded_BSE), weights

    def scan(self, encoded: Encoded, target_BT: Tensor) -> tuple[Tensor, Output, AttentionWeights | None]:
        """Returns the decoder's inputs [B, T, E], its outputs and the attention at all positions of known targets."""
        inputs_BTE = self.decoder.embedding(self.previous(target_BT))
        return inputs_BTE, *self.decoder.wiring.scan(inputs_BTE, encoded)

    def previous(self, target_BT: Tensor) -> Tensor:
        """Returns the decoder's inputs: the target, shifted by one position."""
        return torch.cat([torch.full_like(target_BT[:, :1], self.bos), target_BT[:, :-1]], 1)

    def unsupported_reasons(self) -> UnsupportedReasons:
        """Returns why the encoder's layers and the decoder's recurrence have only a reference."""
        recurrence = self.context.unsupported_reason() or self.decoder.wiring.unsupported_reason()
        loss = "model.attention.alignment is latent" if isinstance(self.decoder.readout, LatentReadout) else ""
        return UnsupportedReasons(self.encoder.unsupported_reason(), recurrence, loss)

    def forward(self, source_BS: Tensor, lengths_B: Tensor, target_BT: Tensor) -> Tensor:
        """Returns the logits [B, T, V] of all target positions."""
        encoded = self.encode(source_BS, lengths_B)
        readout_BTR, weights = self.readout(encoded, target_BT)
        return self.logits(readout_BTR, self.annotation_terms(encoded), weights)

    def losses(self, forced: ForcedReadout, rows_N: Tensor | None, target_N: Tensor, smoothing: float) -> Losses:
        """Returns the losses of target pieces, `rows_N` of the flattened [B x T] target, with label smoothing.

        Without `rows_N` they are all rows, and -1 is the target of those that do not count.
        """
        if forced.annotation_terms_BSU is not None:
            alternatives = self._alternatives(forced.readout_BTR, forced.annotation_terms_BSU, forced.weights)
            assert rows_N is not None
            return alternatives.select(rows_N).losses(self.projection, target_N, smoothing)
        readout_NR = forced.readout_BTR.flatten(0, 1)
        if rows_N is not None:
            readout_NR = readout_NR.index_select(0, rows_N)
        return self.kernels.cross_entropy(readout_NR, self.projection.weight, self.projection.bias, target_N, smoothing)

    def target_log_probabilities(
        self, forced: ForcedReadout, rows_N: Tensor, target_N: Tensor
    ) -> tuple[Tensor, AttentionWeights | None]:
        """Returns log-probabilities [N] of target pieces, and the attention of the pairs.

        Args as for `losses`. That of a latent alignment is its posterior, which knows the piece; 0 at other rows.
        """
        if forced.annotation_terms_BSU is not None:
            alternatives = self._alternatives(forced.readout_BTR, forced.annotation_terms_BSU, forced.weights)
            log_probabilities_N, posterior_NS = alternatives.select(rows_N).posterior(self.projection, target_N)
            assert forced.weights is not None
            values_RNS = posterior_NS.new_zeros(forced.readout_BTR[..., 0].numel(), 1, posterior_NS.shape[1])
            values_RNS[rows_N, 0] = posterior_NS
            values_BT1S = values_RNS.view(*forced.readout_BTR.shape[:2], *values_RNS.shape[1:])
            return log_probabilities_N, replace(forced.weights, values_BQNW=values_BT1S)
        readout_NR = forced.readout_BTR.flatten(0, 1).index_select(0, rows_N)
        # Logits exist for a chunk of pieces at a time.
        parts = [
            torch.log_softmax(self.projection(readout_NR[rows]).float(), -1).gather(1, target_N[rows, None]).squeeze(1)
            for rows in chunks(len(rows_N))
        ]
        return torch.cat(parts), forced.weights

    def unmasked_reason(self) -> str:
        """Returns why training needs the lengths of sentences on the host, with the path in the YAML; else empty."""
        bridge = self.decoder.wiring.bridge
        if any(isinstance(segment, SteppedLayers) for segment in self.encoder.segments):
            return "PyTorch has no such layers as model.encoder asks for"
        if self.encoder.stack.mode == "LSTM" and bridge.parts > 1 and bridge.kind in ("final", "backward", "copy"):
            return "the decoder starts with the encoder's last cells; set model.decoder.bridge to mean or zero"
        if self.context.document_context is not None:
            return "model.context reads other sentences"
        return "model.attention.alignment is latent" if isinstance(self.decoder.readout, LatentReadout) else ""

    def parts(self) -> list[tuple[str, int]]:
        """Returns the name and number of parameters of each part; a tied matrix counts once, in its first part."""
        return parameter_counts(
            {
                "source embedding": self.encoder.embedding,
                "encoder": nn.ModuleList(self.encoder.segments),
                "encoder normalisation": self.encoder.norm,
                "target embedding": self.decoder.embedding,
                "decoder": self.decoder.wiring,
                "readout": self.decoder.readout,
                "lexical model": nn.ModuleList([] if self.decoder.lexical is None else [self.decoder.lexical]),
                "context": self.context,
                "vocabulary projection": self.projection,
            }
        )


@dataclass(frozen=True)
class ShortlistSteps:
    """Steps of a translator whose logits are of some target pieces only. The translator is not changed.

    The mixture of a latent alignment needs the probabilities among all pieces: there a shortlist saves no time.

    Shapes: P pieces.
    """

    translator: Translator
    pieces_P: Tensor
    weight_PR: Tensor
    bias_P: Tensor

    def step(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Reads the previous piece of each hypothesis; returns the new state and logits [B, Q, P]."""
        if state.annotation_terms_BSU is not None:
            state, logits_BQV = self.translator.step(state, previous_BQ)
            return state, logits_BQV.index_select(2, self.pieces_P)
        state, readout_BQR = self.translator.advance(state, previous_BQ)
        return state, ranked_logits(readout_BQR, self.weight_PR, self.bias_P)


class ForcedReadout(NamedTuple):
    """Readout of given translations, each piece predicted from those before."""

    readout_BTR: Tensor
    """With a latent alignment its terms [B, T, U] of the target positions."""
    weights: AttentionWeights | None
    """Attention of the target positions to the source; None without attention."""
    annotation_terms_BSU: Tensor | None
    """Terms of the annotations in the readout of a latent alignment; else None."""
    source_context: ContextWeights | None
    """Attention of the source positions to the sources before; None without."""
    target_context: ContextWeights | None
    """Attention of the target positions to the translations before; None without."""


def forced_readout(translator: Translator, batch: Batch) -> ForcedReadout:
    """Predicts the targets of a batch, its pairs with their document context.

    Sentences that are context only have a readout as well, without context of their own.
    """
    encoded = translator.encode(batch.source_BS, batch.source_lengths_B, batch.is_masked)
    source_context, target_context = None, None
    if batch.context is not None and batch.context.sources:
        encoded, source_context = translator.context.add_source_context(encoded, batch.context.sources, None)
    encoded = encoded.first(len(batch.target_BT))
    inputs_BTE, output, weights = translator.scan(encoded, batch.target_BT)
    if batch.context is not None and batch.context.targets:
        states = _sentences(output.hidden, batch.target_lengths_B)
        hidden_BTH, target_context = translator.context.add_target_context(output.hidden, batch.context.targets, states)
        output = output._replace(hidden=hidden_BTH)
    readout_BTR = translator.decoder.read(output, inputs_BTE, weights, encoded.embedded_BSE)
    return ForcedReadout(readout_BTR, weights, translator.annotation_terms(encoded), source_context, target_context)


class SentenceStates(NamedTuple):
    """Encoder and decoder states of translated sentences, the context of those after them."""

    sources: Sentences | None
    """Encoder states; None if no context reads them."""
    targets: Sentences | None
    """Decoder states of the translations by forced decoding; None if no context reads them."""


class EncodedContext(NamedTuple):
    """Document context of sentences that are to be translated."""

    previous: PreviousSentences
    states: SentenceStates


class TranslatorInContext:
    """A translator with the document context of the sentences of a batch, as a model of the search."""

    def __init__(self, translator: Translator, context: EncodedContext | None) -> None:
        """`context` None: no sentence has context."""
        self._translator, self._context = translator, context
        self.step, self.with_shortlist = translator.step, translator.with_shortlist
        self.log_softmax = translator.log_softmax

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """Encodes the sources, with their context."""
        return _with_context(self._translator, self._translator.encode(source_BS, lengths_B), self._context)

    def start(self, encoded: Encoded) -> DecoderState:
        """Returns the decoder's state before the first piece, with one hypothesis a sentence."""
        state, context = self._translator.start(encoded), self._context
        if context is None or context.states.targets is None:
            return state
        sentences = len(encoded.memory_BSC)
        prepared = self._translator.context.prepare(context.previous, context.states.targets, sentences)
        return replace(state, prepared_context=prepared)


class DocumentMemory:
    """States of the sentences that a translator has translated, as far back as its context reaches."""

    def __init__(self, translator: Translator, documents: Sequence[Sequence[int]]) -> None:
        """`documents` are the rows of their sentences."""
        document_context = translator.context.document_context
        self.translator = translator
        self._reach = 0 if document_context is None else document_context.sentences
        self._document = {row: number for number, rows in enumerate(documents) for row in rows}
        self._states: list[deque[SentenceStates]] = [deque(maxlen=self._reach) for _ in documents]

    def context(self, rows: Sequence[int]) -> EncodedContext | None:
        """Returns the context of these sentences; None where all are the first of their documents."""
        states = [list(reversed(self._states[self._document[row]])) for row in rows]
        flat = [each for sentences in states for each in sentences]
        if not flat:
            return None
        previous_BP = np.full((len(rows), self._reach), -1)
        previous_BP[np.arange(self._reach) < np.asarray([[len(each)] for each in states])] = range(len(flat))
        device = self.translator.projection.weight.device
        joined = SentenceStates(*(Sentences.join(side) for side in zip(*flat, strict=True)))
        return EncodedContext(PreviousSentences.of(previous_BP).to(device), joined)

    def read(self, batch: Batch) -> dict[int, SentenceStates]:
        """Returns the states of sentences and their translations, by row; `add` stores them."""
        if not self._reach:
            return {}
        rows = batch.rows.tolist()
        sides = encode_states(self.translator, batch, self.context(rows))
        lengths = zip(batch.source_lengths_B.tolist(), batch.target_lengths_B.tolist(), strict=True)
        return {
            row: SentenceStates(
                *(None if side is None else side.copy(number, length) for side, length in zip(sides, pair, strict=True))
            )
            for number, (row, pair) in enumerate(zip(rows, lengths, strict=True))
        }

    def add(self, states: dict[int, SentenceStates]) -> None:
        """Stores the states of sentences, each the next one of its document."""
        for row, each in states.items():
            self._states[self._document[row]].append(each)


def encode_states(translator: Translator, batch: Batch, context: EncodedContext | None) -> SentenceStates:
    """Encodes the pairs of a batch, sources and translations, with their context."""
    document_context = translator.context.document_context
    assert document_context is not None, "the translator has context"
    encoded = translator.encode(batch.source_BS, batch.source_lengths_B)
    sources = Sentences(encoded.memory_BSC, encoded.mask_BS) if document_context.sources else None
    if not document_context.targets:
        return SentenceStates(sources, None)
    _, output, _ = translator.scan(_with_context(translator, encoded, context), batch.target_BT)
    return SentenceStates(sources, _sentences(output.hidden, batch.target_lengths_B))


def _with_context(translator: Translator, encoded: Encoded, context: EncodedContext | None) -> Encoded:
    if context is None or context.states.sources is None:
        return encoded
    return translator.context.add_source_context(encoded, context.previous, context.states.sources)[0]


def _sentences(states_BTH: Tensor, lengths_B: Tensor) -> Sentences:
    positions_T = torch.arange(states_BTH.shape[1])
    mask_BT = (positions_T < lengths_B.unsqueeze(1)).to(states_BTH.device, non_blocking=True)
    return Sentences(states_BTH, mask_BT)
