"""Hierarchical attention over the previous sentences (Miculicich 2018, section 3): words, then sentences, then a gate.

Shapes: B sentences, M previous sentences whose states are kept, S positions of one, Q queries, C features, L sentences
with context, P sentences of context at most, N those of the L x P that exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.config.registry import PartOptions
from nmt.config.schema import ScoreChoice
from nmt.data.batching import DocumentContext, PreviousSentences
from nmt.kernels.select import Kernels
from nmt.model.attention import Attention, Encoded, Prepared, build_attention
from nmt.model.attention.base import ScoreOptions
from nmt.model.attention.coverage import NoCoverageOptions
from nmt.model.attention.windows import GlobalWindowOptions
from nmt.model.context.base import CONTEXTS, Context, ContextOptions, ContextWeights, PreparedContext, Sentences
from nmt.model.modules import initialize

OPEN = 2.0
"""Initial bias of the gate: lambda is about 0.88, so that training starts near the translator without context."""


class HierarchicalOptions(ContextOptions):
    kind: Literal["hierarchical"] = "hierarchical"
    past: schema.Sentences = 3
    """Sentences of context before a sentence."""
    where: Literal["encoder", "decoder", "both"] = "encoder"
    """States that get context: source annotations, from the sources before; decoder states, from the translations
    before; or
    both."""
    word: ScoreChoice = PartOptions(kind="additive")
    """Score that compares a state with the words of a sentence before."""
    sentence: ScoreChoice = PartOptions(kind="additive")
    """Score that compares a state with the sentences before."""
    heads: schema.Heads = 1
    """Heads of the attention, on both levels."""
    feed_forward: schema.Size | None = None
    """Units of a feed-forward layer that transforms the context before the gate; null: there is none."""
    backpropagate: bool = True
    """Whether gradients flow into the sentences before, as in the authors' own program."""

    @property
    def document_context(self) -> DocumentContext:
        return DocumentContext(self.past, self.where in ("encoder", "both"), self.where in ("decoder", "both"))

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """Both levels need weights, and the number of heads must divide the sizes of the states."""
        for level, score in (("word", self.word), ("sentence", self.sentence)):
            if not (isinstance(score, ScoreOptions) and score.has_weights):
                yield f"model.context.{level}", f"is {score.kind}, which has no attention weights; choose another score"
        sizes = (
            {"the size of the encoder's annotations": model.encoder.output_size}
            if self.document_context.sources
            else {}
        )
        if self.document_context.targets:
            sizes["model.decoder.hidden_size"] = model.decoder.hidden_size
        for name, size in sizes.items():
            if size % self.heads:
                yield "model.context.heads", f"is {self.heads}, but must divide {name} ({size})"


class HierarchicalAttention(nn.Module):
    """Context d_t of a state h_t, combined with it by a gate (Miculicich 2018, section 3).

        s_j = attend(f_w(h_t), the words of sentence j);   d_t = FFN(attend(f_s(h_t), s_1 .. s_P))
        lambda_t = sigmoid(W_h h_t + W_d d_t + b);         h'_t = lambda_t h_t + (1 - lambda_t) d_t

    f_w and f_s are linear. The paper has no b; the authors' program does. Without previous sentences, h'_t is h_t.
    """

    def __init__(self, options: HierarchicalOptions, model: schema.ModelConfig, size: int, kernels: Kernels) -> None:
        super().__init__()

        def attention(score: PartOptions) -> Attention:
            parts = schema.AttentionConfig(
                score=score,
                window=GlobalWindowOptions(),
                normalizer=model.attention.normalizer,
                heads=options.heads,
                coverage=NoCoverageOptions(),
            )
            return build_attention(parts, size, size, kernels, model.dropout.attention)

        self.backpropagate = options.backpropagate
        self.word_query, self.sentence_query = nn.Linear(size, size), nn.Linear(size, size)
        self.word = attention(options.word)
        self.sentence = attention(options.sentence)
        self.feed_forward: nn.Module = nn.Identity()
        if (units := options.feed_forward) is not None:
            into, out = nn.Linear(size, units), nn.Linear(units, size)
            initialize(into, out)
            self.feed_forward = nn.Sequential(into, nn.ReLU(), out)
        self.gate_state, self.gate_context = nn.Linear(size, size), nn.Linear(size, size, bias=False)
        initialize(self.word_query, self.sentence_query, self.gate_state, self.gate_context)
        nn.init.constant_(self.gate_state.bias, OPEN)

    def prepare(self, sentences: Sentences) -> Prepared:
        """Computes the word attention's part that depends on the previous sentences alone."""
        states_MSC = sentences.states_MSC if self.backpropagate else sentences.states_MSC.detach()
        return self.word.prepare(Encoded(states_MSC, sentences.mask_MS, ()))

    def forward(
        self, states_BQC: Tensor, previous: PreviousSentences, words: Prepared
    ) -> tuple[Tensor, ContextWeights]:
        """Adds context to the states; those of a sentence without context stay unchanged.

        `words` is the result of `prepare` for M sentences.
        """
        states_LQC = states_BQC.index_select(0, previous.sentence_L)
        joined_LQC, words_NQS, sentences_LQP = self._join(
            states_LQC, previous.index_N, words.select(previous.row_N), previous.present_LP
        )
        states_BQC = states_BQC.index_copy(0, previous.sentence_L, joined_LQC)
        return states_BQC, ContextWeights(previous, words_NQS, sentences_LQP)

    def start(self, previous: PreviousSentences, words: Prepared, sentences: int) -> PreparedContext:
        """Prepares the previous sentences for `step`, so that sentences can be selected at any step."""
        present_LP = previous.present_LP
        present_BP = present_LP.new_zeros(sentences, present_LP.shape[1])
        present_BP[previous.sentence_L] = present_LP
        # Not an assignment by a mask, for which a GPU would have to wait.
        row_BP = torch.zeros_like(present_BP, dtype=torch.int64).masked_scatter(present_BP, previous.row_N)
        return PreparedContext(words.select(row_BP.flatten()), present_BP)

    def step(self, states_BQC: Tensor, context: PreparedContext) -> Tensor:
        """Adds context to the states of hypotheses [B, Q, C]."""
        present_BP = context.present_BP
        index_N = torch.arange(present_BP.numel(), device=states_BQC.device)
        has_context_B1 = present_BP.any(1, keepdim=True)
        # A sentence without context attends to any sentence and its result is discarded: weights need an element.
        joined_BQC, _, _ = self._join(states_BQC, index_N, context.words, present_BP | ~has_context_B1)
        return torch.where(has_context_B1.unsqueeze(2), joined_BQC, states_BQC)

    def _join(
        self, states_LQC: Tensor, index_N: Tensor, words: Prepared, present_LP: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the states with context, and the weights of both levels."""
        sentences, queries, size = states_LQC.shape
        places = present_LP.shape[1]
        attended = self.word.scan(self.word_query(states_LQC).index_select(0, index_N // places), words)
        assert attended.weights is not None, "both levels have weights"
        summaries_NQC = attended.context_BQC
        summaries = summaries_NQC.new_zeros(sentences * places, queries, size).index_copy(0, index_N, summaries_NQC)
        summaries_LQPC = summaries.view(sentences, places, queries, size).transpose(1, 2)
        # Each query has its own summaries: to the upper level's attention it is a sentence.
        present_LQP = present_LP.unsqueeze(1).expand(-1, queries, -1)
        above = Encoded(summaries_LQPC.flatten(0, 1), present_LQP.flatten(0, 1), ())
        query_LQC = self.sentence_query(states_LQC)
        upper = self.sentence(query_LQC.flatten(0, 1).unsqueeze(1), self.sentence.prepare(above), (), None)
        assert upper.weights is not None, "both levels have weights"
        context_LQC = self.feed_forward(upper.context_BQC.view(sentences, queries, size))
        gate_LQC = torch.sigmoid(self.gate_state(states_LQC) + self.gate_context(context_LQC)).to(states_LQC.dtype)
        joined_LQC = torch.lerp(context_LQC.to(states_LQC.dtype), states_LQC, gate_LQC)
        return joined_LQC, attended.weights.mean(), upper.weights.mean().view(sentences, queries, places)


@CONTEXTS.register("hierarchical", HierarchicalOptions)
class HierarchicalContext(Context):
    """Attention over the words of each sentence before, then over these sentences (Miculicich 2018)."""

    def __init__(
        self, options: HierarchicalOptions, model: schema.ModelConfig, hidden_size: int, kernels: Kernels
    ) -> None:
        super().__init__()
        self.document_context = document_context = options.document_context
        self.encoder, self.decoder = None, None
        if document_context.sources:
            self.encoder = HierarchicalAttention(options, model, model.encoder.output_size, kernels)
        if document_context.targets:
            self.decoder = HierarchicalAttention(options, model, hidden_size, kernels)

    def add_source_context(
        self, encoded: Encoded, previous: PreviousSentences, states: Sentences | None
    ) -> tuple[Encoded, ContextWeights | None]:
        assert self.encoder is not None, "the encoder has context"
        words = self.encoder.prepare(states or Sentences(encoded.memory_BSC, encoded.mask_BS))
        memory_BSC, weights = self.encoder(encoded.memory_BSC, previous, words)
        return encoded.with_memory(memory_BSC), weights

    def add_target_context(
        self, states_BTH: Tensor, previous: PreviousSentences, states: Sentences
    ) -> tuple[Tensor, ContextWeights | None]:
        assert self.decoder is not None, "the decoder has context"
        joined: tuple[Tensor, ContextWeights] = self.decoder(states_BTH, previous, self.decoder.prepare(states))
        return joined

    def prepare(self, previous: PreviousSentences, states: Sentences, sentences: int) -> PreparedContext:
        assert self.decoder is not None, "the decoder has context"
        return self.decoder.start(previous, self.decoder.prepare(states), sentences)

    def step(self, states_BQH: Tensor, context: PreparedContext) -> Tensor:
        assert self.decoder is not None, "the decoder has context"
        return self.decoder.step(states_BQH, context)
