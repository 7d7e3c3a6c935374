"""Data of attention: encoded sentences, document summaries, and attention weights.

Shapes: B sentences, Q queries, S source positions, C memory features, L layers, F features of a layer's state,
D features of a summary, A tensors of the decoder's state, H decoder hidden, G gates x H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


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

        return AttentionWeights(
            self.values_BQNW[sentences_N1, hypotheses_NQ],
            chosen(self.positions_BQNW),
            chosen(self.centers_BQN),
            self.source_positions,
            self.half_width,
        )

    @staticmethod
    def join(steps: Sequence[AttentionWeights | None]) -> AttentionWeights | None:
        """Concatenates the weights of target positions; returns None if there are none."""
        weights = [step for step in steps if step is not None]
        if not weights:
            return None

        def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
            present = [part for part in parts if part is not None]
            return torch.cat(present, 1) if present else None

        return AttentionWeights(
            torch.cat([step.values_BQNW for step in weights], 1),
            joined([step.positions_BQNW for step in weights]),
            joined([step.centers_BQN for step in weights]),
            weights[0].source_positions,
            weights[0].half_width,
        )


def spread(weights: Tensor, positions: Tensor | None, source_positions: int) -> Tensor:
    """Returns weights [..., W] at these source positions as weights [..., S] over the whole source."""
    if positions is None:
        return weights
    empty = weights.new_zeros(*weights.shape[:-1], source_positions)
    return empty.scatter(-1, positions.expand(weights.shape), weights)


StepTerm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Returns the term [B, Q, G] of a decoder step, from the summary [B, D], the pre-activations [B, Q, G] of the lowest
layer and its previous state [B, Q, H]."""


@dataclass(frozen=True)
class Summary:
    """Summary of the sentences before each sentence of a batch, a vector; zero where there are none."""

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
    """Summary of the sentences before, or None."""

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
        return Encoded(self.memory_BSC[:sentences], self.mask_BS[:sentences], final, summary)
