"""What attention looks at, and what the decoder is told beside it.

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
    """Where queries looked, as the attention computed it: a window keeps its own positions alone."""

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
        """The weights [B, Q, N, S], 0 outside the window."""
        return spread(self.values_BQNW, self.positions_BQNW, self.source_positions)

    def mean(self) -> Tensor:
        """The mean over the heads, [B, Q, S]."""
        dense_BQNS = self.dense()
        return dense_BQNS.squeeze(2) if dense_BQNS.shape[2] == 1 else dense_BQNS.mean(2)

    def select(self, sentences_N1: Tensor, hypotheses_NQ: Tensor) -> AttentionWeights:
        """The weights whose row n is sentence `sentences_N1[n]`, its query q the old `hypotheses_NQ[n, q]`."""

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
        """The weights of one target position after another, as one; None where there are none."""
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
    """Weights [..., W] at these source positions as weights [..., S] of the whole source."""
    if positions is None:
        return weights
    empty = weights.new_zeros(*weights.shape[:-1], source_positions)
    return empty.scatter(-1, positions.expand(weights.shape), weights)


Entering = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Summary [B, D], pre-activations [B, Q, G] of the decoder's lowest layer and its state before [B, Q, H] to what is
added to the pre-activations."""


@dataclass(frozen=True)
class Summary:
    """What was said before the sentences of a batch, as a vector; all of it zero where nothing was."""

    vector_BD: Tensor
    first_BAH: Tensor | None
    """What is added to the pre-activations of each tensor of the decoder's first state; None: nothing."""
    entering: Entering | None
    """What enters every step; None: nothing does."""

    def enter(self, projected_BQG: Tensor, hidden_BQH: Tensor) -> Tensor:
        """The pre-activations of a step, told of the summary."""
        if self.entering is None:
            return projected_BQG
        return projected_BQG + self.entering(self.vector_BD, projected_BQG, hidden_BQH)

    def select(self, sentences: Tensor | slice) -> Summary:
        """The rows of these sentences."""
        first_BAH = None if self.first_BAH is None else self.first_BAH[sentences]
        return Summary(self.vector_BD[sentences], first_BAH, self.entering)


@dataclass(frozen=True)
class Encoded:
    """What the encoder says of a batch of sentences."""

    memory_BSC: Tensor
    """Annotations, exactly zero at padded positions; in the format in which the library left them."""
    mask_BS: Tensor
    """True at the positions of a sentence, False at padding."""
    final_LBF: tuple[tuple[Tensor, ...], ...]
    """Last states of each layer, (h,) or (h, c), both directions side by side."""
    summary: Summary | None = None
    """What was said before; None where nothing was, or nothing asks for it as a summary."""

    @property
    def exact(self) -> torch.dtype:
        """The format of states, scores and sums: at least single precision, where under autocast some of the library's
        layers leave annotations in half of it."""
        return torch.promote_types(self.memory_BSC.dtype, torch.float32)

    @property
    def enters_steps(self) -> bool:
        """Whether something beside the inputs enters every step of the decoder."""
        return self.summary is not None and self.summary.entering is not None

    def with_memory(self, memory_BSC: Tensor) -> Encoded:
        """The same with other annotations, which may hold anything at padding."""
        return replace(self, memory_BSC=memory_BSC * self.mask_BS.unsqueeze(2).to(memory_BSC.dtype))

    def first(self, sentences: int) -> Encoded:
        """The first of the sentences."""
        if sentences == len(self.memory_BSC):
            return self
        final = tuple(tuple(part[:sentences] for part in layer) for layer in self.final_LBF)
        summary = None if self.summary is None else self.summary.select(slice(sentences))
        return Encoded(self.memory_BSC[:sentences], self.mask_BS[:sentences], final, summary)
