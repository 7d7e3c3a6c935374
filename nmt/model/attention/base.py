"""What every attention shares: the memory it looks at, masking, normalising and mixing.

    a(t, s) = softmax over s of score(query_t, memory_s);   context_t = sum over s of a(t, s) memory_s

Score, window and wiring are separate choices. A *score* compares queries with source positions, a *window* says
which positions may be looked at and mixes them, a *wiring* (in `nmt.model.wiring`) says when the decoder looks.

Shapes: B sentences, Q queries, S source positions, C memory features, A attention units, H query features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.config.registry import Registry
from nmt.config.schema import Attention as AttentionConfig
from nmt.runtime import product_dtype


@dataclass(frozen=True)
class Encoded:
    """What the encoder says of a batch of sentences."""

    memory_BSC: Tensor
    """Annotations; exactly zero at padded positions."""
    mask_BS: Tensor
    """True at the positions of a sentence, False at padding."""
    final_LBF: tuple[tuple[Tensor, ...], ...]
    """Last states of each layer, (h,) or (h, c), both directions side by side."""


@dataclass(frozen=True)
class Prepared:
    """What attention computes once for a sentence and is handed back at every step. Never per hypothesis."""

    memory_BSC: Tensor
    keys_BSA: Tensor | None
    """Projected memory, where the score has a projection that does not depend on the query."""
    bias_BS: Tensor
    """Added to the scores: 0 at the positions of a sentence, minus infinity at padding."""

    def select(self, sentences_N: Tensor) -> Prepared:
        """The rows of these sentences."""
        keys = self.keys_BSA
        return Prepared(
            self.memory_BSC.index_select(0, sentences_N),
            None if keys is None else keys.index_select(0, sentences_N),
            self.bias_BS.index_select(0, sentences_N),
        )


class Attention(nn.Module):
    """Looks at the encoder's memory with a query."""

    context_size: int
    """Features of the context; 0 where nothing is looked at."""

    def prepare(self, encoded: Encoded) -> Prepared:
        """What can be computed once for these sentences."""
        raise AssertionError("an attention prepares its memory")

    def forward(self, query_BQH: Tensor, prepared: Prepared, position: int) -> tuple[Tensor, Tensor | None]:
        """The context [B, Q, context_size] for the target position, and the weights [B, Q, S] if there are any."""
        raise AssertionError("an attention looks at its memory")


class Score(nn.Module):
    """Compares queries with source positions."""

    def keys(self, memory_BSC: Tensor) -> Tensor | None:
        """The part of the comparison that only depends on the memory, computed once for a sentence."""
        return None

    def forward(self, query_BQH: Tensor, memory_BSC: Tensor, keys_BSA: Tensor | None) -> Tensor:
        """Scores [B, Q, S], not normalised, padding included."""
        raise AssertionError("a score compares")

    def attention(self, window: Window, memory_size: int) -> Attention:
        """The attention that this score makes up together with a window."""
        return SoftAttention(self, window, memory_size)


class Window(nn.Module):
    """Which source positions may be looked at, and how they are mixed."""

    def forward(self, score: Score, query_BQH: Tensor, prepared: Prepared, position: int) -> tuple[Tensor, Tensor]:
        """Context [B, Q, C] and weights [B, Q, S] at a target position, counted from 0."""
        raise AssertionError("a window mixes")


class SoftAttention(Attention):
    """A score inside a window."""

    def __init__(self, score: Score, window: Window, memory_size: int) -> None:
        super().__init__()
        self.score = score
        self.window = window
        self.context_size = memory_size

    def prepare(self, encoded: Encoded) -> Prepared:
        # Cast once for the sentence: autocast would cast again at every step.
        memory_BSC = encoded.memory_BSC.to(product_dtype(encoded.memory_BSC))
        bias_BS = torch.zeros_like(encoded.mask_BS, dtype=encoded.memory_BSC.dtype)
        return Prepared(memory_BSC, self.score.keys(memory_BSC), bias_BS.masked_fill_(~encoded.mask_BS, -torch.inf))

    def forward(self, query_BQH: Tensor, prepared: Prepared, position: int) -> tuple[Tensor, Tensor | None]:
        context_BQC, weights_BQS = self.window(self.score, query_BQH, prepared, position)
        return context_BQC, weights_BQS


SCORES: Registry[Score] = Registry("score")
WINDOWS: Registry[Window] = Registry("window")


def build_attention(options: AttentionConfig, query_size: int, memory_size: int) -> Attention:
    """The attention of these options for queries [.., query_size] over a memory [.., memory_size]."""
    score = SCORES.build(options.score, query_size, memory_size)
    window = WINDOWS.build(options.window, query_size)
    return score.attention(window, memory_size)


def normalize(scores_BQS: Tensor, bias_BS: Tensor) -> Tensor:
    """Softmax over the source in at least single precision; padded positions weigh exactly nothing."""
    return torch.softmax(scores_BQS.to(bias_BS.dtype) + bias_BS.unsqueeze(1), dim=-1)
