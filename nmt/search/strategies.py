"""Continuations of hypotheses: constraints on the next piece, beam search, and sampling.

Shapes: B sentences, Q hypotheses of a sentence, V vocabulary (or a sentence's shortlist), C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmt.config.schema import SearchConfig
from nmt.runtime import widest_dtype

MINUS_INFINITY = float("-inf")
ROUNDING = 1e-9
"""Keeps ratio * length of numbers such as 0.1 * 30 on the right side of the whole number they stand for."""
DRAWS_PER_TRANSFER = 64
TOP_K_GROUP = 64
TOP_K_MIN_PIECES = 1024
"""Vocabulary from which on `top_k` is faster by groups."""


@dataclass(frozen=True)
class Continuations:
    """The hypotheses with one more piece."""

    parents_BQ: Tensor
    """The hypothesis that each one continues."""
    pieces_BQ: Tensor
    log_probabilities_BQ: Tensor
    """Of the pieces."""
    totals_BQ: Tensor
    """Of the hypotheses, pieces included; minus infinity for an unused hypothesis."""


class BeamStrategy:
    """Beam search: the most probable continuations of all the hypotheses of a sentence.

    Ended hypotheses count: live and ended ones together are at most the beam. A beam of 1 is the greedy search.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        """Hypotheses of a sentence, live and ended."""
        self.reorders = width > 1
        """Whether hypothesis q may continue another hypothesis than q."""

    def __call__(self, totals_BQ: Tensor, scores_BQV: Tensor, ended_B: Tensor, sentences_B: Tensor) -> Continuations:
        """Returns the continuations, fewer than the beam where there are fewer, as in the first steps.

        Args:
            totals_BQ: log-probabilities of the live hypotheses.
            scores_BQV: log-probabilities of the next pieces, minus infinity for forbidden ones.
            ended_B: hypotheses of each sentence that have ended.
            sentences_B: indices, in the whole batch, of the active sentences.
        """
        best_BQC, pieces_BQC = top_k(scores_BQV, self.width)
        totals_BC = (totals_BQ.unsqueeze(2) + best_BQC).flatten(1)
        totals_BQ, chosen_BQ = totals_BC.topk(min(self.width, totals_BC.shape[1]), 1)
        rank_Q = torch.arange(totals_BQ.shape[1], device=totals_BQ.device)
        return Continuations(
            parents_BQ=chosen_BQ // best_BQC.shape[2],
            pieces_BQ=pieces_BQC.flatten(1).gather(1, chosen_BQ),
            log_probabilities_BQ=best_BQC.flatten(1).gather(1, chosen_BQ),
            totals_BQ=totals_BQ.masked_fill(rank_Q >= (self.width - ended_B).unsqueeze(1), MINUS_INFINITY),
        )


def top_k(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the `count` largest scores of each row [..., V], in order, and their pieces: [..., count] both.

    On a CPU by groups of pieces: the maximum of a group is several times as fast as sorting, and the `count` largest of
    all lie in the `count` groups with the largest maxima.
    """
    pieces = scores.shape[-1]
    count = min(count, pieces)
    groups = pieces // TOP_K_GROUP
    if scores.device.type != "cpu" or pieces < TOP_K_MIN_PIECES or count >= groups:
        largest = scores.topk(count, -1)
        return largest.values, largest.indices
    grouped = scores[..., : groups * TOP_K_GROUP].view(*scores.shape[:-1], groups, TOP_K_GROUP)
    best = grouped.amax(-1).topk(count, -1).indices
    members = grouped.gather(-2, best.unsqueeze(-1).expand(*best.shape, TOP_K_GROUP)).flatten(-2)
    # Pieces beyond the last whole group are candidates too.
    candidates = torch.cat([members, scores[..., groups * TOP_K_GROUP :]], -1)
    values, indices = candidates.topk(count, -1)
    group = best.gather(-1, (indices // TOP_K_GROUP).clamp_(max=count - 1))
    in_group = group * TOP_K_GROUP + indices % TOP_K_GROUP
    beyond = indices + (groups - count) * TOP_K_GROUP
    return values, torch.where(indices < count * TOP_K_GROUP, in_group, beyond)


class SamplingStrategy:
    """Sampling: every hypothesis continues with a random piece.

    The logits are divided by the temperature, then the `top_k` most probable pieces are kept, then of these the
    smallest set with probability `top_p` (Holtzman 2020, section 3.1). Scores stay those of the model itself.

    Each sentence has its own random generator, on the CPU: its samples depend on the seed and its number alone.
    """

    reorders = False

    def __init__(self, width: int, options: SearchConfig, seed: int, numbers: Sequence[int]) -> None:
        self.width = width
        self._options = options
        self._generators = [np.random.default_rng((seed, number)) for number in numbers]
        self._uniform_TBQ = torch.empty(0)
        self._used = 0

    def __call__(self, totals_BQ: Tensor, scores_BQV: Tensor, ended_B: Tensor, sentences_B: Tensor) -> Continuations:
        """Inverts the cumulative distribution in float64: float32 loses the rare pieces of a large vocabulary."""
        sentences, queries, vocabulary = scores_BQV.shape
        parents_BQ = torch.arange(self.width, device=scores_BQV.device).clamp(max=queries - 1).expand(sentences, -1)
        if queries < self.width:
            totals_BQ = totals_BQ.expand(-1, self.width)
            scores_BQV = scores_BQV.expand(-1, self.width, -1)

        options = self._options
        logits_BQC, pieces_BQC = scores_BQV / options.temperature, None
        if options.top_k or options.top_p < 1.0:
            logits_BQC, pieces_BQC = logits_BQC.topk(min(options.top_k or vocabulary, vocabulary), -1)
        probabilities_BQC = logits_BQC.softmax(-1, dtype=widest_dtype(logits_BQC.device))
        cumulative_BQC = probabilities_BQC.cumsum(-1)
        # A piece stays while those before it have not reached top_p: the one that crosses the bound is inside.
        kept_BQC = cumulative_BQC - probabilities_BQC < options.top_p
        last_BQ1 = kept_BQC.sum(-1, keepdim=True).clamp(min=1) - 1
        mass_BQ1 = cumulative_BQC.gather(2, last_BQ1)
        # Strictly below the mass, whatever rounding does: no piece of probability zero can then be hit.
        sample_BQ1 = self._uniform(sentences_B).unsqueeze(2) * mass_BQ1
        sample_BQ1 = sample_BQ1.minimum(mass_BQ1.nextafter(mass_BQ1 - 1.0))
        index_BQ1 = torch.searchsorted(cumulative_BQC, sample_BQ1, right=True).minimum(last_BQ1)
        chosen_BQ1 = index_BQ1 if pieces_BQC is None else pieces_BQC.gather(2, index_BQ1)
        log_probabilities_BQ = scores_BQV.gather(2, chosen_BQ1).squeeze(2)
        return Continuations(parents_BQ, chosen_BQ1.squeeze(2), log_probabilities_BQ, totals_BQ + log_probabilities_BQ)

    def _uniform(self, sentences_B: Tensor) -> Tensor:
        """Returns the next uniform number of each hypothesis, [B, Q]. One transfer serves many steps."""
        if self._used == len(self._uniform_TBQ):
            block = [generator.random((DRAWS_PER_TRANSFER, self.width)) for generator in self._generators]
            self._uniform_TBQ = (
                torch.from_numpy(np.stack(block, 1)).to(widest_dtype(sentences_B.device)).to(sentences_B.device)
            )
            self._used = 0
        self._used += 1
        return self._uniform_TBQ[self._used - 1, sentences_B]


@dataclass(frozen=True)
class Constraints:
    """Limits of each sentence, all counted in target pieces without the end of the sentence.

    A constraint only forbids pieces. It never renormalises, so that scores stay the model's own.
    """

    eos: int
    forbidden: tuple[int, ...]
    """Pieces that no translation contains."""
    no_repeat_ngram: int
    min_length_B: Tensor
    max_length_B: Tensor
    forced_BT: Tensor
    """Prefix of each sentence, -1 where the search is free."""
    largest_min_length: int
    smallest_max_length: int
    largest_max_length: int
    """The limits over the batch, on the host, so that most steps need no check on the device."""

    @classmethod
    def build(
        cls,
        options: SearchConfig,
        source_lengths: Sequence[int],
        *,
        eos: int,
        forbidden: Sequence[int],
        prefix: Sequence[Sequence[int]] | None,
        device: torch.device,
    ) -> Constraints:
        """Returns the limits of sentences whose `source_lengths` are pieces without the end of the sentence.

        A prefix takes precedence over every other constraint, including the maximum length.
        """
        prefixes = [list(ids) for ids in prefix] if prefix is not None else [[] for _ in source_lengths]
        assert len(prefixes) == len(source_lengths), "one prefix a sentence"
        assert not any(eos in ids for ids in prefixes), "a prefix does not end the sentence"
        max_lengths, min_lengths = [], []
        for length, ids in zip(source_lengths, prefixes, strict=True):
            limit = math.floor(options.max_length_ratio * length + ROUNDING) + options.max_length_offset
            max_lengths.append(max(limit, len(ids)))
            min_lengths.append(min(math.ceil(options.min_length_ratio * length - ROUNDING), max_lengths[-1]))
        width = max(map(len, prefixes))
        forced = [ids + [-1] * (width - len(ids)) for ids in prefixes]
        return cls(
            eos=eos,
            forbidden=tuple(sorted({*forbidden} - {eos})),
            no_repeat_ngram=options.no_repeat_ngram,
            min_length_B=torch.tensor(min_lengths, device=device),
            max_length_B=torch.tensor(max_lengths, device=device),
            forced_BT=torch.tensor(forced, dtype=torch.int64, device=device).reshape(len(forced), width),
            largest_min_length=max(min_lengths),
            smallest_max_length=min(max_lengths),
            largest_max_length=max(max_lengths),
        )

    def apply_(self, scores_BQV: Tensor, position: int, sentences_B: Tensor, history_BQT: Tensor | None) -> None:
        """Sets the scores of pieces that are forbidden at `position` to minus infinity, in place.

        Args:
            scores_BQV: log-probabilities of the next piece.
            position: pieces that every hypothesis has so far.
            sentences_B: indices, in the whole batch, of the active sentences.
            history_BQT: the pieces so far; needed for n-grams only.
        """
        forced_B1 = self._forced(position, sentences_B)
        chosen_BQ1 = None
        if forced_B1 is not None:
            index_BQ1 = forced_B1.clamp(min=0).unsqueeze(2).expand(-1, scores_BQV.shape[1], -1)
            chosen_BQ1 = scores_BQV.gather(2, index_BQ1)

        eos_BQ = scores_BQV[..., self.eos].clone()
        for piece in self.forbidden:
            scores_BQV[..., piece] = MINUS_INFINITY
        if self.no_repeat_ngram:
            assert history_BQT is not None
            self._forbid_repeats_(scores_BQV, history_BQT)
        if position < self.largest_min_length:
            early_B1 = (position < self.min_length_B[sentences_B]).unsqueeze(1)
            scores_BQV[..., self.eos] = eos_BQ.masked_fill(early_B1, MINUS_INFINITY)
            if self.no_repeat_ngram:
                # Where every other piece would repeat an n-gram the sentence ends, however short it is.
                stuck_BQ = scores_BQV.amax(-1) == MINUS_INFINITY
                scores_BQV[..., self.eos] = torch.where(stuck_BQ, eos_BQ, scores_BQV[..., self.eos])

        if forced_B1 is not None and chosen_BQ1 is not None:
            is_forced_B11 = (forced_B1 >= 0).unsqueeze(2)
            scores_BQV.masked_fill_(is_forced_B11, MINUS_INFINITY)
            kept_BQ1 = scores_BQV.gather(2, index_BQ1)
            scores_BQV.scatter_(2, index_BQ1, torch.where(is_forced_B11, chosen_BQ1, kept_BQ1))

    def _forced(self, position: int, sentences_B: Tensor) -> Tensor | None:
        """Returns the only allowed piece [B, 1], -1 for a free choice, or None where all sentences are free."""
        width = self.forced_BT.shape[1]
        if position >= width and position < self.smallest_max_length:
            return None
        at_end_B = position >= self.max_length_B[sentences_B]
        prefix_B = self.forced_BT[sentences_B, position] if position < width else torch.full_like(sentences_B, -1)
        return torch.where((prefix_B < 0) & at_end_B, self.eos, prefix_B).unsqueeze(1)

    def _forbid_repeats_(self, scores_BQV: Tensor, history_BQT: Tensor) -> None:
        """Forbids every piece that would complete an n-gram for the second time."""
        size, length = self.no_repeat_ngram, history_BQT.shape[2]
        if length < size:
            return
        ngrams_BQWn = history_BQT.unfold(2, size, 1)
        tail_BQ1n = history_BQT[:, :, length - size + 1 :].unsqueeze(2)
        repeats_BQW = (ngrams_BQWn[..., :-1] == tail_BQ1n).all(-1)
        # The minimum with infinity changes nothing: no index depends on which n-grams match, so nothing synchronizes.
        limits_BQW = torch.where(repeats_BQW, MINUS_INFINITY, math.inf).to(scores_BQV.dtype)
        scores_BQV.scatter_reduce_(2, ngrams_BQWn[..., -1], limits_BQW, "amin")
