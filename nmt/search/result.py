"""What a search finds, rebuilt from the choices it made step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.errors import CheckpointError
from nmt.search.choice import Continuations

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Hypothesis:
    """A translation."""

    ids: tuple[int, ...]
    """Pieces, without the beginning and the end of the sentence."""
    score: float
    """Log-probability over the length penalty, plus the coverage penalty; hypotheses are ordered by it."""
    log_probability: float
    """Of the whole translation in nats, its end included."""
    token_log_probabilities: tuple[float, ...]
    """Of each piece and, last, of the end."""
    attention: Floats | None = field(default=None, compare=False, repr=False)
    """[target, source] weights, both with the end of the sentence; None if not wanted, or without attention."""


@dataclass(frozen=True)
class _Step:
    row: dict[int, int]
    """Where each sentence, by its number in the whole batch, stood in the tensors of the step."""
    chosen: Continuations
    attention_BQS: Tensor | None


class Trace:
    """Choices of all steps and the hypotheses that have ended, on the device, until the search is over.

    Nothing here is copied when hypotheses change places: each keeps a pointer to the one that it continues.
    """

    def __init__(self, sentences: int, width: int, device: torch.device) -> None:
        self._steps: list[_Step] = []
        # One column more than there are places: what has not ended is written there, so that no shape depends
        # on how many have, and no step waits for the device.
        shape = (sentences, width + 1)
        self._scores = torch.full(shape, float("-inf"), dtype=torch.float64, device=device)
        self._totals = torch.zeros_like(self._scores)
        self._ends = torch.zeros((2, *shape), dtype=torch.int64, device=device)
        self._spare = width

    def add(self, sentences: Sequence[int], chosen: Continuations, attention_BQS: Tensor | None) -> None:
        """Remember a step; `sentences` are those in the rows of its tensors."""
        row = self._steps[-1].row if self._steps and len(self._steps[-1].row) == len(sentences) else None
        row = row if row is not None else {sentence: index for index, sentence in enumerate(sentences)}
        self._steps.append(_Step(row, chosen, attention_BQS))

    def end(self, sentences_B: Tensor, is_end_BQ: Tensor, ended_B: Tensor, scores_BQ: Tensor) -> None:
        """Remember which hypotheses of the last step have ended, with what score; `ended_B` had ended before."""
        totals_BQ = self._steps[-1].chosen.totals_BQ
        place_BQ = ended_B.unsqueeze(1) + is_end_BQ.cumsum(1) - 1
        at = (sentences_B.unsqueeze(1), place_BQ.where(is_end_BQ, self._spare))
        step = torch.full_like(place_BQ, len(self._steps) - 1)
        query = torch.arange(place_BQ.shape[1], device=place_BQ.device).expand_as(place_BQ)
        self._scores[at] = scores_BQ
        self._totals[at] = totals_BQ
        self._ends[0][at] = step
        self._ends[1][at] = query

    def best_scores(self, sentences_B: Tensor, count: int) -> Tensor:
        """[B] the score of the `count`-th best hypothesis that has ended, minus infinity where there are fewer."""
        return self._scores[sentences_B, : self._spare].topk(count, 1).values[:, -1]

    def hypotheses(self, n_best: int, source_lengths: Sequence[int]) -> list[list[Hypothesis]]:
        """Up to `n_best` hypotheses of every sentence, best first.

        Raises:
            CheckpointError: the model gave no probabilities, so that no hypothesis could end.
        """
        scores, totals = self._scores.cpu().numpy()[:, : self._spare], self._totals.cpu().numpy()
        steps, queries = self._ends.cpu().numpy()
        parents = _to_host([step.chosen.parents_BQ for step in self._steps])
        pieces = _to_host([step.chosen.pieces_BQ for step in self._steps])
        log_probabilities = _to_host([step.chosen.log_probabilities_BQ for step in self._steps])
        attention = _to_host([step.attention_BQS for step in self._steps if step.attention_BQS is not None])

        found: list[list[Hypothesis]] = []
        for sentence, length in enumerate(source_lengths):
            order = np.argsort(-scores[sentence], kind="stable")[:n_best]
            places = [int(place) for place in order if scores[sentence, place] > float("-inf")]
            if not places:
                raise CheckpointError("the model gives no translation a probability: its weights are not finite")
            found.append([])
            for place in places:
                query = int(queries[sentence, place])
                ids, terms, weights = [], [], []
                for number in range(int(steps[sentence, place]), -1, -1):
                    row = self._steps[number].row[sentence]
                    ids.append(int(pieces[number][row, query]))
                    terms.append(float(log_probabilities[number][row, query]))
                    query = int(parents[number][row, query])
                    if attention:
                        weights.append(attention[number][row, query, :length])
                found[-1].append(
                    Hypothesis(
                        ids=tuple(reversed(ids[1:])),
                        score=float(scores[sentence, place]),
                        log_probability=float(totals[sentence, place]),
                        token_log_probabilities=tuple(reversed(terms)),
                        attention=np.stack(weights[::-1]) if weights else None,
                    )
                )
        return found


def _to_host(parts: Sequence[Tensor]) -> list[npt.NDArray[np.generic]]:
    """The tensors as arrays, in one transfer."""
    if not parts:
        return []
    flat = torch.cat([part.flatten() for part in parts]).cpu()
    pieces = torch.split(flat, [part.numel() for part in parts])
    return [piece.view(part.shape).numpy() for piece, part in zip(pieces, parts, strict=True)]
