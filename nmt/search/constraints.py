"""What a translation may not contain. A constraint forbids; it never renormalises, so scores stay the model's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmt.config.schema import SearchConfig

NEVER = float("-inf")

# Keeps ratio * length of numbers such as 0.1 * 30 on the right side of the whole number they stand for.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Constraints:
    """Limits of each sentence, all counted in target pieces without the end of the sentence."""

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
    """The same limits over the batch, on the host: a step that they exclude is checked without asking the device."""

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
        """Work out the limits; `source_lengths` count the pieces without the end of the sentence.

        A prefix goes before every other constraint, the longest translation included.
        """
        prefixes = [list(ids) for ids in prefix] if prefix is not None else [[] for _ in source_lengths]
        assert len(prefixes) == len(source_lengths), "one prefix a sentence"
        assert not any(eos in ids for ids in prefixes), "a prefix does not end the sentence"
        longest = [
            max(math.floor(options.max_length_ratio * length + ROUNDING) + options.max_length_offset, len(ids))
            for length, ids in zip(source_lengths, prefixes, strict=True)
        ]
        shortest = [
            min(math.ceil(options.min_length_ratio * length - ROUNDING), limit)
            for length, limit in zip(source_lengths, longest, strict=True)
        ]
        width = max(map(len, prefixes))
        forced = [ids + [-1] * (width - len(ids)) for ids in prefixes]
        return cls(
            eos=eos,
            forbidden=tuple(sorted({*forbidden} - {eos})),
            no_repeat_ngram=options.no_repeat_ngram,
            min_length_B=torch.tensor(shortest, device=device),
            max_length_B=torch.tensor(longest, device=device),
            forced_BT=torch.tensor(forced, dtype=torch.int64, device=device).reshape(len(forced), width),
            largest_min_length=max(shortest),
            smallest_max_length=min(longest),
            largest_max_length=max(longest),
        )

    def apply_(self, scores_BQV: Tensor, position: int, sentences_B: Tensor, history_BQT: Tensor | None) -> None:
        """Set what may not stand at `position` to minus infinity, in place.

        Args:
            scores_BQV: log-probabilities of the next piece.
            position: pieces that every hypothesis has so far.
            sentences_B: numbers, in the whole batch, of the sentences that are left.
            history_BQT: the pieces so far; needed for n-grams only.
        """
        forced_B1 = self._forced(position, sentences_B)
        chosen_BQ1 = None
        if forced_B1 is not None:
            index_BQ1 = forced_B1.clamp(min=0).unsqueeze(2).expand(-1, scores_BQV.shape[1], -1)
            chosen_BQ1 = scores_BQV.gather(2, index_BQ1)

        eos_BQ = scores_BQV[..., self.eos].clone()
        for piece in self.forbidden:
            scores_BQV[..., piece] = NEVER
        if self.no_repeat_ngram:
            assert history_BQT is not None
            self._forbid_repeats_(scores_BQV, history_BQT)
        if position < self.largest_min_length:
            early_B1 = (position < self.min_length_B[sentences_B]).unsqueeze(1)
            scores_BQV[..., self.eos] = eos_BQ.masked_fill(early_B1, NEVER)
            if self.no_repeat_ngram:
                # Where every other piece would repeat an n-gram the sentence ends, however short it is.
                stuck_BQ = scores_BQV.amax(-1) == NEVER
                scores_BQV[..., self.eos] = torch.where(stuck_BQ, eos_BQ, scores_BQV[..., self.eos])

        if forced_B1 is not None and chosen_BQ1 is not None:
            is_forced_B11 = (forced_B1 >= 0).unsqueeze(2)
            scores_BQV.masked_fill_(is_forced_B11, NEVER)
            kept_BQ1 = scores_BQV.gather(2, index_BQ1)
            scores_BQV.scatter_(2, index_BQ1, torch.where(is_forced_B11, chosen_BQ1, kept_BQ1))

    def _forced(self, position: int, sentences_B: Tensor) -> Tensor | None:
        """[B, 1] the only piece that may stand here, -1 where there is a choice; None where all have one."""
        width = self.forced_BT.shape[1]
        if position >= width and position < self.smallest_max_length:
            return None
        at_end_B = position >= self.max_length_B[sentences_B]
        prefix_B = self.forced_BT[sentences_B, position] if position < width else torch.full_like(sentences_B, -1)
        return torch.where((prefix_B < 0) & at_end_B, self.eos, prefix_B).unsqueeze(1)

    def _forbid_repeats_(self, scores_BQV: Tensor, history_BQT: Tensor) -> None:
        """Forbid every piece that would complete an n-gram for the second time."""
        size, length = self.no_repeat_ngram, history_BQT.shape[2]
        if length < size:
            return
        ngrams_BQWn = history_BQT.unfold(2, size, 1)
        tail_BQ1n = history_BQT[:, :, length - size + 1 :].unsqueeze(2)
        repeats_BQW = (ngrams_BQWn[..., :-1] == tail_BQ1n).all(-1)
        # The minimum with infinity changes nothing: no index depends on which n-grams match, so nothing waits.
        limits_BQW = torch.where(repeats_BQW, NEVER, math.inf).to(scores_BQV.dtype)
        scores_BQV.scatter_reduce_(2, ngrams_BQWn[..., -1], limits_BQW, "amin")
