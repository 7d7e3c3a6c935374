"""How the hypotheses of a sentence go on: with the most probable continuations, or with drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nmt.config.schema import SearchConfig
from nmt.search.top import top_k

DRAWS_AT_ONCE = 64


@dataclass(frozen=True)
class Continuations:
    """The hypotheses with one more piece."""

    parents_BQ: Tensor
    """The hypothesis that each one continues."""
    pieces_BQ: Tensor
    log_probabilities_BQ: Tensor
    """Of the pieces."""
    totals_BQ: Tensor
    """Of the hypotheses, pieces included; minus infinity marks an empty place."""


class Choice(Protocol):
    """A rule of going on."""

    @property
    def width(self) -> int:
        """Hypotheses of a sentence, live and ended."""
        ...

    @property
    def reorders(self) -> bool:
        """Whether a hypothesis can continue another one than that in its own place."""
        ...

    def __call__(self, totals_BQ: Tensor, scores_BQV: Tensor, ended_B: Tensor, sentences_B: Tensor) -> Continuations:
        """Go on.

        Args:
            totals_BQ: log-probabilities of the live hypotheses.
            scores_BQV: log-probabilities of what may follow, minus infinity where nothing may.
            ended_B: hypotheses of each sentence that have ended.
            sentences_B: numbers, in the whole batch, of the sentences that are left.
        """
        ...


class Best:
    """Beam search: the most probable continuations of all the hypotheses of a sentence together.

    A hypothesis that ends keeps its place: those that live and those that have ended are never more than the beam.
    A beam of one is thereby exactly the greedy search.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.reorders = width > 1

    def __call__(self, totals_BQ: Tensor, scores_BQV: Tensor, ended_B: Tensor, sentences_B: Tensor) -> Continuations:
        """Where there are fewer continuations than places, as in the first steps, there are fewer hypotheses."""
        best_BQC, pieces_BQC = top_k(scores_BQV, self.width)
        totals_BC = (totals_BQ.unsqueeze(2) + best_BQC).flatten(1)
        totals_BQ, chosen_BQ = totals_BC.topk(min(self.width, totals_BC.shape[1]), 1)
        place_Q = torch.arange(totals_BQ.shape[1], device=totals_BQ.device)
        return Continuations(
            parents_BQ=chosen_BQ // best_BQC.shape[2],
            pieces_BQ=pieces_BQC.flatten(1).gather(1, chosen_BQ),
            log_probabilities_BQ=best_BQC.flatten(1).gather(1, chosen_BQ),
            totals_BQ=totals_BQ.masked_fill(place_Q >= (self.width - ended_B).unsqueeze(1), float("-inf")),
        )


class Drawn:
    """Sampling: every hypothesis goes on with a draw of its own.

    The logits are divided by the temperature, then the `top_k` most probable pieces are kept, then of these the
    smallest set with probability `top_p` (Holtzman 2020, section 3.1). Scores stay those of the model itself.

    The draws of a sentence come from a generator of its own, on the CPU: they depend on the seed and its number alone.
    """

    reorders = False

    def __init__(self, width: int, options: SearchConfig, seed: int, numbers: Sequence[int]) -> None:
        self.width = width
        self._options = options
        self._generators = [np.random.default_rng((seed, number)) for number in numbers]
        self._draws_TBQ = torch.empty(0)
        self._used = 0

    def __call__(self, totals_BQ: Tensor, scores_BQV: Tensor, ended_B: Tensor, sentences_B: Tensor) -> Continuations:
        """Draw by inverting the cumulative distribution, in float64: float32 loses the rare pieces of a large one."""
        sentences, queries, vocabulary = scores_BQV.shape
        parents_BQ = torch.arange(self.width, device=scores_BQV.device).clamp(max=queries - 1).expand(sentences, -1)
        if queries < self.width:
            totals_BQ = totals_BQ.expand(-1, self.width)
            scores_BQV = scores_BQV.expand(-1, self.width, -1)

        options = self._options
        logits_BQC, pieces_BQC = scores_BQV / options.temperature, None
        if options.top_k or options.top_p < 1.0:
            logits_BQC, pieces_BQC = logits_BQC.topk(min(options.top_k or vocabulary, vocabulary), -1)
        probabilities_BQC = logits_BQC.softmax(-1, dtype=torch.float64)
        cumulative_BQC = probabilities_BQC.cumsum(-1)
        # A piece stays while those before it have not reached top_p: the one that crosses the bound is inside.
        kept_BQC = cumulative_BQC - probabilities_BQC < options.top_p
        last_BQ1 = kept_BQC.sum(-1, keepdim=True).clamp(min=1) - 1
        mass_BQ1 = cumulative_BQC.gather(2, last_BQ1)
        # Strictly below the mass, whatever rounding does: no piece of probability zero can then be hit.
        drawn_BQ1 = (self._draws(sentences_B).unsqueeze(2) * mass_BQ1).minimum(mass_BQ1.nextafter(mass_BQ1 - 1.0))
        index_BQ1 = torch.searchsorted(cumulative_BQC, drawn_BQ1, right=True).minimum(last_BQ1)
        chosen_BQ1 = index_BQ1 if pieces_BQC is None else pieces_BQC.gather(2, index_BQ1)
        log_probabilities_BQ = scores_BQV.gather(2, chosen_BQ1).squeeze(2)
        return Continuations(parents_BQ, chosen_BQ1.squeeze(2), log_probabilities_BQ, totals_BQ + log_probabilities_BQ)

    def _draws(self, sentences_B: Tensor) -> Tensor:
        """[B, Q] the next uniform number of each hypothesis; many steps cross to the device at once."""
        if self._used == len(self._draws_TBQ):
            block = [generator.random((DRAWS_AT_ONCE, self.width)) for generator in self._generators]
            self._draws_TBQ = torch.from_numpy(np.stack(block, 1)).to(sentences_B.device)
            self._used = 0
        self._used += 1
        return self._draws_TBQ[self._used - 1, sentences_B]
