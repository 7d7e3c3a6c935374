"""What every attention shares: the memory it looks at, masking, normalising and mixing.

    a(t, s) = softmax over s of score(query_t, memory_s);   context_t = sum over s of a(t, s) memory_s

Score, window and wiring are separate choices. A *score* compares queries with source positions, a *window* says
which positions may be looked at and mixes them, a *wiring* (in `nmt.model.wiring`) says when the decoder looks.
*Coverage* tells the score what has been looked at before.

Shapes: B sentences, N heads, Q queries, S source positions, W positions of a window, C memory features, A attention
units, H query features. `...` is B, or B and N where there are heads: scores and windows do not know the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config.registry import Registry
from nmt.config.schema import NetworkPartOptions
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Row, Tape, Value
from nmt.kernels.windows import Source
from nmt.model.attention.memory import AttentionWeights, Encoded


@dataclass(frozen=True)
class Prepared:
    """What attention computes once for a sentence and is handed back at every step. Never per hypothesis."""

    memory: Tensor
    """What is mixed, [..., S, C]."""
    keys: Tensor | None
    """What is compared, [..., S, A], where the score compares."""
    bias: Tensor
    """Added to the scores, [..., S]: 0 at the positions of a sentence, minus infinity at padding."""
    lengths: Tensor
    """Positions of each sentence, [...], as a floating-point number."""
    covered: tuple[Tensor, ...] = ()
    """What coverage knows of the positions before anything is looked at."""
    sources: tuple[Source, Source | None] | None = None
    """Memory and keys, for a window that reads them in parts."""
    exponentials: Tensor | None = None
    """`kernels.additive.exponentials` of the keys, for a score that is additive; without gradient."""

    def select(self, sentences_N: Tensor) -> Prepared:
        """The rows of these sentences."""
        chosen = Prepared(
            self.memory.index_select(0, sentences_N),
            None if self.keys is None else self.keys.index_select(0, sentences_N),
            self.bias.index_select(0, sentences_N),
            self.lengths.index_select(0, sentences_N),
            tuple(part.index_select(0, sentences_N) for part in self.covered),
            exponentials=None if self.exponentials is None else self.exponentials.index_select(0, sentences_N),
        )
        return chosen if self.sources is None else chosen.in_parts()

    def in_parts(self) -> Prepared:
        """The same, to be read in parts."""
        return replace(self, sources=(Source(self.memory), None if self.keys is None else Source(self.keys)))


@dataclass(frozen=True)
class Look:
    """What comes of looking."""

    context_BQC: Tensor
    weights: AttentionWeights | None
    """Where the queries looked; None where there is nothing to look at."""
    carried: tuple[Tensor, ...] = ()
    """What the attention hands to the next target position, each [B, Q, ...]."""

    @staticmethod
    def join(steps: Sequence[Look]) -> Look:
        """What comes of looking at one target position after another, as one."""
        weights = AttentionWeights.join([step.weights for step in steps])
        return Look(torch.cat([step.context_BQC for step in steps], 1), weights, steps[-1].carried)


class Attention(nn.Module):
    """Looks at the encoder's memory with a query."""

    context_size: int
    """Features of the context; 0 where nothing is looked at."""

    def prepare(self, encoded: Encoded) -> Prepared:
        """What can be computed once for these sentences."""
        raise AssertionError("an attention prepares its memory")

    def start(self, prepared: Prepared) -> tuple[Tensor, ...]:
        """What is carried to the first target position, with one hypothesis a sentence."""
        return ()

    def forward(self, query_BQH: Tensor, prepared: Prepared, carried: tuple[Tensor, ...], position: int | None) -> Look:
        """Look with queries of one target position, counted from 0; None where query q is the one of position q."""
        raise AssertionError("an attention looks at its memory")

    def scan(self, query_BTH: Tensor, prepared: Prepared) -> Look:
        """Look with the queries of all target positions: at once, unless something is carried from each to the next."""
        carried = self.start(prepared)
        if not carried:
            at_once: Look = self(query_BTH, prepared, carried, None)
            return at_once
        looks: list[Look] = []
        for position, query_BH in enumerate(query_BTH.unbind(1)):
            looks.append(self(query_BH.unsqueeze(1), prepared, carried, position))
            carried = looks[-1].carried
        return Look.join(looks)

    def unsupported_reason(self) -> str:
        """Why a look cannot be recorded, with the path in the YAML; empty where it can."""
        return "model.attention.score compares nothing"

    def record(self, tape: Tape, query: Row, prepared: Prepared, context: Value | None = None) -> Value:
        """Record a look with a state of the tape; the context, which is `context` where that is carried."""
        raise AssertionError("nothing keeps this look from being recorded")


@dataclass(frozen=True)
class View:
    """What a window shows a score."""

    keys: Tensor | None
    """[..., W, A], the same for every query, or [..., Q, W, A]."""
    own: bool
    """Whether every query has keys of its own."""
    width: int
    """W."""
    positions: Tensor | None
    """Source positions, [..., Q, W] or [W]; None where W is the whole source."""
    covered: Tensor | None
    """What coverage adds to the hidden units, [..., Q, W, A]."""
    exponentials: Tensor | None = None
    """Of the keys, where they are the same for every query."""

    def dot(self, query: Tensor) -> Tensor:
        """Products of the queries [..., Q, A] with their keys, [..., Q, W]."""
        assert self.keys is not None, "prepared without keys"
        if self.own:
            return (self.keys @ query.unsqueeze(-1)).squeeze(-1)
        return query @ self.keys.transpose(-1, -2)

    def additive(self, query: Tensor | None, energy_A: Tensor, kernels: Kernels) -> Tensor:
        """energy' tanh(query + key + coverage) of queries [..., Q, A], [..., Q, W]; without a query energy' tanh(key),
        Q = 1."""
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

    looks: ClassVar[bool] = True
    """Whether source positions are compared at all."""
    takes_coverage: ClassVar[bool] = False
    """Whether there are hidden units that coverage can be added to."""
    needs_query: ClassVar[bool] = True
    """Whether something has to be compared with the positions; a score with a vector of its own can do without."""

    @property
    def gives_context(self) -> bool:
        """Whether a context reaches the decoder."""
        return True


@dataclass(frozen=True)
class Form:
    """A score in closed form: v' tanh(W q + key), or (W q)' key, with the keys times `scale`."""

    query: Tensor | None = None
    """W, [A, H]; None where the query is compared as it is."""
    energy: Tensor | None = None
    """v, [A]; None where there is no tanh."""
    scale: float = 1.0
    """Of the keys."""


class Score(nn.Module):
    """Compares queries with source positions. A score that needs no query can be built for queries of no features."""

    units: int = 0
    """Hidden units, where coverage can be added to them."""
    reads_memory: ClassVar[bool] = True
    """Whether what stands in the source positions matters."""

    def keys(self, memory: Tensor) -> Tensor | None:
        """The part of the comparison that only depends on the memory [..., S, C], computed once for a sentence."""
        return memory

    def forward(self, query: Tensor, view: View) -> Tensor:
        """Scores [..., Q, W] of queries [..., Q, H], not normalised, padding included."""
        raise AssertionError("a score compares")

    def form(self) -> Form | None:
        """The same, for loops that are differentiated by hand; None for a score of another form."""
        return None

    def alone(self, memory_size: int) -> Attention | None:
        """The attention that this is by itself; None for a score that stands in a window."""
        return None


Covered = Callable[[Tensor | None], Tensor | None]
"""Source positions, None for all, to what coverage adds to the hidden units there."""


@dataclass(frozen=True)
class Mixed:
    """What a window makes of its scores."""

    context: Tensor
    """[..., Q, C]."""
    weights: Tensor
    """[..., Q, W]."""
    positions: Tensor | None = None
    """Source positions of the weights, [..., Q, W]; None where W is the whole source."""
    centers: Tensor | None = None
    """Where the window stands, [..., Q], counted from 0, for a window that moves."""


class Window(nn.Module):
    """Which source positions may be looked at, and how they are mixed."""

    half_width: int | None = None
    """Positions on either side of the centre, for a window that moves."""
    is_whole: ClassVar[bool] = False
    """Whether it is the softmax over all positions, and nothing else."""

    def prepare(self, prepared: Prepared) -> Prepared:
        """What can be computed once for a sentence."""
        return prepared

    def forward(self, score: Score, query: Tensor, prepared: Prepared, covered: Covered, position: int | None) -> Mixed:
        """Compare, normalise and mix; `position` as for `Attention`."""
        raise AssertionError("a window mixes")


class Coverage(nn.Module):
    """Remembers what has been looked at; this one remembers nothing."""

    remembers: ClassVar[bool] = False

    def prepare(self, memory: Tensor) -> tuple[Tensor, ...]:
        """What can be computed once for the memory [..., S, C]."""
        return ()

    def start(self, prepared: Prepared) -> tuple[Tensor, ...]:
        """Coverage before anything is looked at: nothing, or one tensor [..., 1, S, K]."""
        return ()

    def at(self, carried: tuple[Tensor, ...], positions: Tensor | None) -> Tensor | None:
        """What is added to the hidden units at these source positions [..., Q, W], None for all: [..., Q, W, A]."""
        return None

    def update(
        self, carried: tuple[Tensor, ...], weights: Tensor, query: Tensor, prepared: Prepared
    ) -> tuple[Tensor, ...]:
        """Coverage after the queries [..., Q, H] have looked with the weights [..., Q, S]."""
        return ()


SCORES: Registry[Score] = Registry("score")
WINDOWS: Registry[Window] = Registry("window")
COVERAGES: Registry[Coverage] = Registry("coverage")


def normalize(scores: Tensor, bias: Tensor) -> Tensor:
    """Softmax over the whole source in at least single precision; padded positions weigh exactly nothing."""
    return torch.softmax(scores.to(bias.dtype) + bias.unsqueeze(-2), dim=-1)


def normalize_within(scores: Tensor, allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax over the allowed positions alone; all others, and every one where none is allowed, weigh nothing."""
    # A score itself may exclude positions; where nothing is left, a softmax of minus infinities would be undefined.
    allowed = allowed & (scores > -torch.inf)
    weights = torch.softmax(scores.to(dtype).masked_fill(~allowed, torch.finfo(dtype).min), dim=-1)
    return weights * allowed
