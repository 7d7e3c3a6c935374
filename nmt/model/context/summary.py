"""Summary of the sentences before as a vector, for the decoder's first state and its gates (Wang 2017).

Shapes: B sentences, M previous sentences whose states are kept, S positions of one, Q queries, C features, L sentences
with context, N sentences of all contexts, D features of the summary, A tensors of the decoder's state, H decoder
hidden, G gates x H, P elements in packed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.config.registry import PartOptions
from nmt.config.schema import ScoreChoice
from nmt.data.batching import DocumentContext, PreviousSentences
from nmt.kernels.packed import Packing
from nmt.kernels.select import Kernels
from nmt.model.attention import Encoded, Summary
from nmt.model.attention.base import ScoreOptions
from nmt.model.cells import cell_class
from nmt.model.classifier import Level, Pooling
from nmt.model.context.base import CONTEXTS, Context, ContextOptions, ContextWeights, Sentences
from nmt.model.modules import initialize


class SummaryOptions(ContextOptions):
    kind: Literal["summary"] = "summary"
    past: schema.Sentences = 3
    """Sentences of context before a sentence."""
    where: Literal["start", "gates", "both"] = "both"
    """Where the summary enters: the decoder's first state, all steps through a gate, or both."""
    word: ScoreChoice = PartOptions(kind="additive")
    """Score that weighs the words of a sentence before by a learned query."""
    sentence: ScoreChoice = PartOptions(kind="additive")
    """Score that weighs the sentences before by a learned query."""
    hidden_size: schema.Size = 128
    """Units, in each of two directions, of the layer over the sentences before; its cell is the encoder's."""

    @property
    def document_context(self) -> DocumentContext:
        return DocumentContext(self.past, sources=True, targets=False)

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """Both levels need weights; a copied first state cannot take a summary."""
        for level, score in (("word", self.word), ("sentence", self.sentence)):
            if not (isinstance(score, ScoreOptions) and score.has_weights):
                yield f"model.context.{level}", f"is {score.kind}, which has no attention weights; choose another score"
        if self.where != "gates" and model.decoder.bridge == "copy":
            yield (
                "model.context.where",
                f"is {self.where}, but with model.decoder.bridge: copy the first state is the encoder's, unchanged; "
                "set it to gates, or model.decoder.bridge to final",
            )


@CONTEXTS.register("summary", SummaryOptions)
class SummaryContext(Context):
    """A summary D of the sources before, in the decoder's start and behind a gate in its steps (Wang 2017, section 3).

        s_0 = tanh(W e + b + W_D D)
        z_t = sigmoid(U_z s_{t-1} + V x_t);      s_t = cell(x_t + C (z_t * D), s_{t-1})

    D is the hierarchical encoder's vector of the text before (`nmt.model.classifier`), whose words are read by the
    translator's own encoder. x_t are the pre-activations of the decoder's lowest layer, which have all that enters it:
    the word before and, in the wiring of Bahdanau 2015, the source context c_t. V x_t is the paper's
    W_z y_{t-1} + C_z c_t through the pre-activations of the cell's gates. W_D and C start at 0: training starts at the
    translator without context. Without sentences before, D and its terms are 0.
    """

    def __init__(self, options: SummaryOptions, model: schema.ModelConfig, hidden_size: int, kernels: Kernels) -> None:
        super().__init__()
        decoder, cell = model.decoder, cell_class(model.decoder.cell)
        self.document_context = options.document_context
        self.dropout = model.dropout.layer
        self.drop = kernels.dropout
        assert isinstance(options.word, ScoreOptions), "a score has the options of a score"
        self.words = Pooling(options.word, model.encoder.output_size, kernels)
        level = schema.LevelConfig(cell=model.encoder.cell, hidden_size=options.hidden_size, score=options.sentence)
        self.sentences = Level(level, model.encoder.output_size, model.dropout.layer, kernels)
        size, gates = self.sentences.output_size, cell.gates * decoder.hidden_size
        self.state_size = decoder.hidden_size
        self.first, self.gate_state, self.gate_input, self.enter = None, None, None, None
        if options.where in ("start", "both"):
            self.first = nn.Linear(size, decoder.layers * cell.parts * decoder.hidden_size, bias=False)
            nn.init.zeros_(self.first.weight)
        if options.where in ("gates", "both"):
            self.gate_state = nn.Linear(decoder.hidden_size, size, bias=False)
            self.gate_input = nn.Linear(gates, size, bias=False)
            self.enter = nn.Linear(size, gates, bias=False)
            initialize(self.gate_state, self.gate_input)
            nn.init.zeros_(self.enter.weight)

    def unsupported_reason(self) -> str:
        return "" if self.enter is None else "model.context.where has no native or Triton kernel unless it is start"

    def add_source_context(
        self, encoded: Encoded, previous: PreviousSentences, states: Sentences | None
    ) -> tuple[Encoded, ContextWeights | None]:
        states = states or Sentences(encoded.memory_BSC, encoded.mask_BS)
        vector_BD, weights = self.summarize(previous, states, len(encoded.mask_BS))
        first_BAH = None if self.first is None else self.first(vector_BD).unflatten(1, (-1, self.state_size))
        step_term = None if self.enter is None else self._step_term
        return replace(encoded, summary=Summary(vector_BD, first_BAH, step_term)), weights

    def summarize(
        self, previous: PreviousSentences, states: Sentences, sentences: int
    ) -> tuple[Tensor, ContextWeights]:
        """Returns the summary [B, D] of the previous sentences of each of so many sentences, and its weights.

        The summary is 0 where there are no previous sentences.
        """
        count, width = states.mask_MS.shape
        position_P = torch.arange(count * width, device=states.mask_MS.device)
        words_PC, mask_P = states.states_MSC.flatten(0, 1), states.mask_MS.flatten()
        summaries_MC, words_P = self.words.pool(words_PC, position_P // width, position_P % width, count, mask_P)
        oldest_first_N = _oldest_first(previous.count_L).to(previous.row_N.device, non_blocking=True)
        read_NC = summaries_MC.index_select(0, previous.row_N.index_select(0, oldest_first_N))
        read_NC = self.drop(read_NC, self.dropout, self.training)
        packing = Packing.of(previous.count_L, read_NC.device)
        vectors_LD, sentences_P = self.sentences(read_NC.index_select(0, packing.element_P), packing)
        summary_BD: Tensor = vectors_LD.new_zeros(sentences, vectors_LD.shape[1])
        summary_BD = summary_BD.index_copy(0, previous.sentence_L, vectors_LD)
        # One weight for all positions, at the index of the sentence in L x P.
        index_P = previous.index_N.index_select(0, oldest_first_N).index_select(0, packing.element_P)
        present_LP = previous.present_LP
        sentences_LP = sentences_P.new_zeros(present_LP.numel()).index_copy(0, index_P, sentences_P)
        words_NS = words_P.view(count, width).index_select(0, previous.row_N)
        weights = ContextWeights(previous, words_NS.unsqueeze(1), sentences_LP.view_as(present_LP).unsqueeze(1))
        return summary_BD, weights

    def _step_term(self, vector_BD: Tensor, projected_BQG: Tensor, hidden_BQH: Tensor) -> Tensor:
        assert self.gate_state is not None
        assert self.gate_input is not None
        assert self.enter is not None
        gate_BQD = torch.sigmoid(self.gate_state(hidden_BQH) + self.gate_input(projected_BQG))
        entering_BQG: Tensor = self.enter(gate_BQD * vector_BD.unsqueeze(1))
        return entering_BQG


def _oldest_first(count_L: Tensor) -> Tensor:
    """Returns the indices that turn contexts with the nearest sentence first into contexts in order."""
    last_N = (count_L.cumsum(0) - 1).repeat_interleave(count_L)
    first_N = (count_L.cumsum(0) - count_L).repeat_interleave(count_L)
    return last_N + first_N - torch.arange(len(last_N))
