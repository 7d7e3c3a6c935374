"""Base classes of attention: scores, windows, coverage, and the attention that combines them.

    a(t, s) = softmax over s of score(query_t, memory_s);   context_t = sum over s of a(t, s) memory_s

Score, window, normalizer and wiring are separate choices. A *score* compares queries with source positions. A *window*
selects the positions and computes the context. A *normalizer* turns their scores into weights: softmax, or one of
`nmt.model.attention.normalizers`. A *wiring* (in `nmt.model.wiring`) decides when the decoder attends. *Coverage* gives
the score the attention of earlier steps.

Shapes: B sentences, N heads, Q queries, S source positions, W positions of a window, C memory features, A attention
units, H query features. `...` is B, or B and N where there are heads: scores and windows do not know the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config.registry import Registry
from nmt.config.schema import ModelConfig, NetworkPartOptions
from nmt.kernels.attention import exponentials
from nmt.kernels.partial_reads import Source
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Row, Tape, Value
from nmt.model.attention.normalizers import Normalizer


@dataclass(frozen=True)
class AttentionWeights:
    """Attention weights. A local window stores the weights of its own positions only."""

    values_BQNW: Tensor
    """Weights, N = 1 without heads; exactly 0 on padding. With a Gaussian they do not add up to 1."""
    positions_BQNW: Tensor | None
    """Source position of each weight; None where W is the whole source."""
    centers_BQN: Tensor | None
    """p_t of Luong 2015, section 3.2, counted from 0; None where the window does not move."""
    source_positions: int
    """S."""
    half_width: int | None = None
    """D of Luong 2015, section 3.2."""

    def dense(self) -> Tensor:
        """Returns the weights [B, Q, N, S], 0 outside the window."""
        return spread(self.values_BQNW, self.positions_BQNW, self.source_positions)

    def mean(self) -> Tensor:
        """Returns the mean over the heads, [B, Q, S]."""
        dense_BQNS = self.dense()
        return dense_BQNS.squeeze(2) if dense_BQNS.shape[2] == 1 else dense_BQNS.mean(2)

    def select(self, sentences_N1: Tensor, hypotheses_NQ: Tensor) -> AttentionWeights:
        """Returns the weights of sentences `sentences_N1` and their hypotheses `hypotheses_NQ`, in this order."""

        def chosen(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[sentences_N1, hypotheses_NQ]

        values_BQNW = self.values_BQNW[sentences_N1, hypotheses_NQ]
        positions_BQNW, centers_BQN = chosen(self.positions_BQNW), chosen(self.centers_BQN)
        return replace(self, values_BQNW=values_BQNW, positions_BQNW=positions_BQNW, centers_BQN=centers_BQN)

    @staticmethod
    def join(steps: Sequence[AttentionWeights | None]) -> AttentionWeights | None:
        """Concatenates the weights of target positions; returns None if there are none."""
        weights = [step for step in steps if step is not None]
        if not weights:
            return None

        def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
            present = [part for part in parts if part is not None]
            return torch.cat(present, 1) if present else None

        return replace(
            weights[0],
            values_BQNW=torch.cat([step.values_BQNW for step in weights], 1),
            positions_BQNW=joined([step.positions_BQNW for step in weights]),
            centers_BQN=joined([step.centers_BQN for step in weights]),
        )


def spread(weights: Tensor, positions: Tensor | None, source_positions: int, outside: float = 0.0) -> Tensor:
    """Returns weights [..., W] at these source positions as weights [..., S], which are `outside` elsewhere."""
    if positions is None:
        return weights
    empty = weights.new_full((*weights.shape[:-1], source_positions), outside)
    return empty.scatter(-1, positions.expand(weights.shape), weights)


StepTerm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Returns the term [B, Q, G] of a decoder step, from the summary [B, D], the pre-activations [B, Q, G] of the lowest
layer and its previous state [B, Q, H]."""


@dataclass(frozen=True)
class Summary:
    """Summary of the previous sentences of each sentence of a batch, a vector; zero where there are none."""

    vector_BD: Tensor
    first_BAH: Tensor | None
    """Term of the pre-activations of each tensor of the decoder's first state, or None."""
    step_term: StepTerm | None
    """Computes the term of every step, or None."""

    def enter(self, projected_BQG: Tensor, hidden_BQH: Tensor) -> Tensor:
        """Adds the summary's term to the pre-activations of a step."""
        if self.step_term is None:
            return projected_BQG
        return projected_BQG + self.step_term(self.vector_BD, projected_BQG, hidden_BQH)

    def select(self, sentences: Tensor | slice) -> Summary:
        """Returns the rows of these sentences."""
        first_BAH = None if self.first_BAH is None else self.first_BAH[sentences]
        return Summary(self.vector_BD[sentences], first_BAH, self.step_term)


@dataclass(frozen=True)
class Encoded:
    """Encoder output for a batch of sentences."""

    memory_BSC: Tensor
    """Annotations, exactly zero at padded positions, in the dtype of the recurrent layers' output."""
    mask_BS: Tensor
    """True at the positions of a sentence, False at padding."""
    final_LBF: tuple[tuple[Tensor, ...], ...]
    """Last states of each layer, (h,) or (h, c), both directions side by side."""
    summary: Summary | None = None
    """Summary of the previous sentences, or None."""
    embedded_BSE: Tensor | None = None
    """Embeddings of the source pieces, zero at padding, where the lexical model reads them; else None."""

    @property
    def accumulation_dtype(self) -> torch.dtype:
        """Dtype of states, scores and sums: at least float32, also where autocast leaves annotations in bf16 or
        fp16."""
        return torch.promote_types(self.memory_BSC.dtype, torch.float32)

    @property
    def has_step_term(self) -> bool:
        """Whether the summary adds a term to every decoder step."""
        return self.summary is not None and self.summary.step_term is not None

    def with_memory(self, memory_BSC: Tensor) -> Encoded:
        """Replaces the annotations; their values at padded positions are ignored."""
        return replace(self, memory_BSC=memory_BSC * self.mask_BS.unsqueeze(2).to(memory_BSC.dtype))

    def first(self, sentences: int) -> Encoded:
        """Returns the first of the sentences."""
        if sentences == len(self.memory_BSC):
            return self
        final = tuple(tuple(part[:sentences] for part in layer) for layer in self.final_LBF)
        summary = None if self.summary is None else self.summary.select(slice(sentences))
        embedded = None if self.embedded_BSE is None else self.embedded_BSE[:sentences]
        return Encoded(self.memory_BSC[:sentences], self.mask_BS[:sentences], final, summary, embedded)

    def select(self, sentences_N: Tensor) -> Encoded:
        """Returns the sentences of these numbers, which may repeat."""
        final = tuple(tuple(part.index_select(0, sentences_N) for part in layer) for layer in self.final_LBF)
        summary = None if self.summary is None else self.summary.select(sentences_N)
        memory_NSC = self.memory_BSC.index_select(0, sentences_N)
        embedded = None if self.embedded_BSE is None else self.embedded_BSE.index_select(0, sentences_N)
        return Encoded(memory_NSC, self.mask_BS.index_select(0, sentences_N), final, summary, embedded)


@dataclass(frozen=True)
class Prepared:
    """Values computed once per sentence and used at every step, never per hypothesis."""

    memory: Tensor
    """Values, [..., S, C]."""
    keys: Tensor | None
    """Keys, [..., S, A], if the score has any."""
    bias: Tensor
    """Added to the scores, [..., S]: 0 at the positions of a sentence, minus infinity at padding."""
    lengths: Tensor
    """Length of each sentence, [...], as a floating-point number."""
    covered: tuple[Tensor, ...] = ()
    """Terms of coverage that depend on the memory alone."""
    sources: tuple[Source, Source | None] | None = None
    """Memory and keys for a window that reads parts of them."""
    is_additive: bool = False
    """Whether the score adds keys to whole queries, which the `exponentials` of the keys make cheaper."""
    given: Tensor | None = None
    """Weights [..., Q, S] that the next step takes instead of its own: an intervention in a search; else None."""

    @cached_property
    def exponentials(self) -> Tensor | None:
        """`nmt.kernels.attention.exponentials` of the keys, without gradient, for an additive score.

        They are computed when they are first read: a recorded recurrence never reads them.
        """
        return exponentials(self.keys.detach()) if self.is_additive and self.keys is not None else None

    def select(self, sentences_N: Tensor) -> Prepared:
        """Returns the rows of these sentences."""
        chosen = Prepared(
            self.memory.index_select(0, sentences_N),
            None if self.keys is None else self.keys.index_select(0, sentences_N),
            self.bias.index_select(0, sentences_N),
            self.lengths.index_select(0, sentences_N),
            tuple(part.index_select(0, sentences_N) for part in self.covered),
            is_additive=self.is_additive,
        )
        return chosen if self.sources is None else chosen.in_parts()

    def in_parts(self) -> Prepared:
        """Returns the same, prepared for reading in parts."""
        return replace(self, sources=(Source(self.memory), None if self.keys is None else Source(self.keys)))


Carried = tuple[Tensor, ...]
"""State of an attention between target positions, each tensor [B, Q, ...] or, inside heads, [B, N, Q, ...]."""


@dataclass(frozen=True)
class AttentionOutput:
    """Output of attention."""

    context_BQC: Tensor
    weights: AttentionWeights | None
    """Attention weights; None for an attention without weights."""
    carried: Carried = ()
    """State for the next target position."""
    query_BQH: Tensor | None = None
    """The queries; None where the positions of a known target are joined."""
    scores_BQNW: Tensor | None = None
    """Scores before normalisation, at the positions of the weights; None as for the queries, or without a score."""

    @staticmethod
    def join(steps: Sequence[AttentionOutput]) -> AttentionOutput:
        """Concatenates the outputs of target positions."""
        weights = AttentionWeights.join([step.weights for step in steps])
        return AttentionOutput(torch.cat([step.context_BQC for step in steps], 1), weights, steps[-1].carried)


class Attention(nn.Module):
    """Computes a context from the encoder's memory and a query."""

    context_size: int
    """Features of the context; 0 without a context."""

    def prepare(self, encoded: Encoded) -> Prepared:
        """Computes the values that queries share."""
        raise AssertionError("an attention prepares its memory")

    def start(self, prepared: Prepared) -> Carried:
        """Returns the state at the first target position, with one hypothesis per sentence."""
        return ()

    def forward(self, query_BQH: Tensor, prepared: Prepared, carried: Carried, position: int | None) -> AttentionOutput:
        """Attends with queries of one target position, counted from 0, or with query q of position q if it is None."""
        raise AssertionError("an attention computes a context")

    def scan(self, query_BTH: Tensor, prepared: Prepared) -> AttentionOutput:
        """Attends with the queries of all target positions: at once, unless the attention has a state."""
        carried = self.start(prepared)
        if not carried:
            at_once: AttentionOutput = self(query_BTH, prepared, carried, None)
            return at_once
        outputs: list[AttentionOutput] = []
        for position, query_BH in enumerate(query_BTH.unbind(1)):
            outputs.append(self(query_BH.unsqueeze(1), prepared, carried, position))
            carried = outputs[-1].carried
        return AttentionOutput.join(outputs)

    def unsupported_reason(self) -> str:
        """Returns why attention cannot be recorded, with the path in the YAML; empty if it can."""
        return "model.attention.score compares nothing"

    def record(self, tape: Tape, query: Row, prepared: Prepared, context: Value | None = None) -> Value:
        """Records attention with a tape's state as the query; returns the context, `context` if that is carried."""
        raise AssertionError("this attention can be recorded")


@dataclass(frozen=True)
class View:
    """Source positions of a window, as a score sees them."""

    keys: Tensor | None
    """[..., W, A], the same for every query, or [..., Q, W, A]."""
    own: bool
    """Whether each query has its own keys."""
    width: int
    """W."""
    positions: Tensor | None
    """Source positions, [..., Q, W] or [W]; None where W is the whole source."""
    covered: Tensor | None
    """Coverage term of the hidden units, [..., Q, W, A], or None."""
    exponentials: Tensor | None = None
    """Exponentials of the keys, if all queries share them."""

    def dot(self, query: Tensor) -> Tensor:
        """Returns the products [..., Q, W] of queries [..., Q, A] and their keys."""
        assert self.keys is not None, "prepared without keys"
        if self.own:
            return (self.keys @ query.unsqueeze(-1)).squeeze(-1)
        return query @ self.keys.transpose(-1, -2)

    def additive(self, query: Tensor | None, energy_A: Tensor, kernels: Kernels) -> Tensor:
        """Returns energy' tanh(query + key + coverage), [..., Q, W], of queries [..., Q, A].

        Without a query it is energy' tanh(key), with Q = 1."""
        assert self.keys is not None, "prepared without keys"
        if query is not None and self.exponentials is not None and self.covered is None:
            return kernels.additive_scores(query, self.keys, self.exponentials, energy_A)
        total = self.keys if self.own else self.keys.unsqueeze(-3)
        if query is not None:
            total = query.unsqueeze(-2) + total
        hidden = torch.tanh(total if self.covered is None else total + self.covered)
        return F.linear(hidden, energy_A.unsqueeze(0)).squeeze(-1)


class ScoreOptions(NetworkPartOptions):
    """Options of a score."""

    has_weights: ClassVar[bool] = True
    """Whether the score yields attention weights."""
    takes_coverage: ClassVar[bool] = False
    """Whether the score has hidden units, to which coverage can be added."""
    needs_query: ClassVar[bool] = True
    """Whether the score needs a query; a score with a learned vector of its own does not."""

    @property
    def gives_context(self) -> bool:
        """Whether there is a context."""
        return True


def has_attention(model: ModelConfig) -> bool:
    """Returns whether the decoder attends to source positions, so that its weights give alignments."""
    score = model.attention.score
    return isinstance(score, ScoreOptions) and score.has_weights


def has_lexical_model(model: ModelConfig) -> bool:
    """Returns what `model.decoder.readout.lexical` says, and without that whether the network can have one."""
    readout = model.decoder.readout
    if readout.lexical is not None:
        return readout.lexical
    is_as_wide = readout.size in (None, model.embedding_size)
    return has_attention(model) and model.attention.alignment == "soft" and is_as_wide


@dataclass(frozen=True)
class ClosedForm:
    """A score in closed form: v' tanh(W q + key), or (W q)' key, with the keys times `scale`."""

    query: Tensor | None = None
    """W, [A, H]; None for the query itself."""
    energy: Tensor | None = None
    """v, [A]; None without tanh."""
    scale: float = 1.0
    """Of the keys."""


class Score(nn.Module):
    """Compares queries with source positions. A score that needs no query can be built with query size 0."""

    units: int = 0
    """Hidden units to which coverage can be added."""
    reads_memory: ClassVar[bool] = True
    """Whether the score depends on the memory."""

    def keys(self, memory: Tensor) -> Tensor | None:
        """Returns the keys of the memory [..., S, C], which are computed once per sentence."""
        return memory if self.reads_memory else None

    def forward(self, query: Tensor, view: View) -> Tensor:
        """Returns the scores [..., Q, W] of queries [..., Q, H], not normalised, padding included."""
        raise AssertionError("a score compares")

    def closed_form(self) -> ClosedForm | None:
        """Returns the score in closed form, for recorded recurrences; None if it has none."""
        return None


CoverageTerm = Callable[[Tensor | None], Tensor | None]
"""Returns the coverage term at source positions; None stands for all positions."""


@dataclass(frozen=True)
class WindowOutput:
    """Output of a window."""

    context: Tensor
    """[..., Q, C]."""
    weights: Tensor
    """[..., Q, W]."""
    positions: Tensor | None = None
    """Source positions of the weights, [..., Q, W]; None where W is the whole source."""
    centers: Tensor | None = None
    """p_t of a local window, [..., Q], counted from 0."""
    scores: Tensor | None = None
    """Scores before normalisation, [..., Q, W]."""


class Window(nn.Module):
    """Selects source positions, has their scores normalised and computes the context."""

    half_width: int | None = None
    """D of a local window: positions on either side of p_t."""
    is_whole: ClassVar[bool] = False
    """Whether the window has all positions."""

    def prepare(self, prepared: Prepared) -> Prepared:
        """Prepares values for this window, once per sentence."""
        return prepared

    def forward(
        self,
        score: Score,
        normalizer: Normalizer,
        query: Tensor,
        prepared: Prepared,
        covered: CoverageTerm,
        position: int | None,
    ) -> WindowOutput:
        """Scores, normalises and computes the context; `position` as for `Attention`."""
        raise AssertionError("a window mixes")


class Coverage(nn.Module):
    """Accumulates the attention of earlier steps. This base class accumulates nothing."""

    accumulates: ClassVar[bool] = False

    def prepare(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Computes the terms that depend on the memory [..., S, C] alone."""
        return ()

    def start(self, prepared: Prepared) -> Carried:
        """Returns the coverage before the first step: nothing, or one tensor [..., 1, S, K]."""
        return ()

    def at(self, carried: Carried, positions: Tensor | None) -> Tensor | None:
        """Returns the term [..., Q, W, A] at these source positions [..., Q, W]; None stands for all."""
        return None

    def update(self, carried: Carried, weights: Tensor, query: Tensor, prepared: Prepared) -> Carried:
        """Returns the coverage after a step with queries [..., Q, H] and weights [..., Q, S]."""
        return ()


SCORES: Registry[Score | Attention] = Registry("score")
"""An attention in it has no score and uses no window."""
WINDOWS: Registry[Window] = Registry("window")
COVERAGES: Registry[Coverage] = Registry("coverage")
