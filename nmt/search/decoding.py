"""Decoding: one loop for greedy search, beam search and sampling.

Scores follow Wu 2016 (Google's Neural Machine Translation System), equation 14:
score(Y) = log P(Y | X) / lp(Y) + cp(X, Y).

Shapes: B sentences, S source positions, T target positions, Q hypotheses of a sentence, V vocabulary (or a sentence's
shortlist), N sentences that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.config.schema import SearchConfig
from nmt.errors import CheckpointError, ConfigError
from nmt.model.wiring import DecoderState
from nmt.runtime import widest_dtype
from nmt.search.ensemble import Ensemble, Model, Shortlists, SpecialIds
from nmt.search.strategies import MINUS_INFINITY, BeamStrategy, Constraints, Continuations, SamplingStrategy

MIN_COVERAGE = 1e-10
"""Attention through a local window can leave a position with exactly nothing. Its penalty must stay finite, or all
hypotheses of the sentence would have the same score. ln 1e-10 is -23."""


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
    attention: npt.NDArray[np.floating] | None = field(default=None, compare=False, repr=False)
    """[target, source] weights, both with the end of the sentence; None if not requested, or without attention."""
    head_attention: npt.NDArray[np.floating] | None = field(default=None, compare=False, repr=False)
    """[heads, target, source] weights; None if not requested, or without attention."""


def finish_check_interval(device: torch.device) -> int:
    """Returns the steps after which the host reads which sentences are finished.

    On a GPU reading synchronizes, and a finished sentence costs its share of the steps until it is removed. On a CPU
    reading is free.
    """
    return 1 if device.type == "cpu" else 8


@torch.inference_mode()
def translate_batch(
    models: Sequence[Model],
    source_BS: Tensor,
    lengths_B: Tensor,
    options: SearchConfig,
    *,
    want_attention: bool = False,
    want_heads: bool = False,
    **settings: Any,
) -> list[list[Hypothesis]]:
    """Translates sentences. The result of one does not depend on the others in the batch.

    The scores are the model's own: the probability of a forbidden piece is not redistributed, and the end of a
    translation that reached its maximum length is scored as the model scores it. The length penalty and the coverage
    penalty apply once a hypothesis has ended; hypotheses of one length compete by probability alone.

    A sentence is finished when none of its live hypotheses can still score above its `n_best`-th best ended one. A live
    hypothesis with log-probability p can reach at most p / lp(maximum length), because further pieces only lower p and
    the coverage penalty is at best 0. So early stopping loses nothing.

    Args:
        models, source_BS, lengths_B, options, settings: as for `Decoding.start`.

    Returns:
        For each sentence its hypotheses, best first.

    Raises:
        ConfigError: `n_best` above the beam, or a coverage penalty without attention.
        CheckpointError: the model gives no finite probabilities.
    """
    if not len(source_BS):
        return []
    decoding = Decoding.start(models, source_BS, lengths_B, options, **settings)
    for _ in decoding.steps(want_attention=want_attention, want_heads=want_heads):
        pass
    return decoding.hypotheses()


@dataclass(frozen=True)
class DecodingStep:
    """A step of a search, after the continuations are chosen and before the models' states follow them."""

    position: int
    """Pieces that every hypothesis had before."""
    before: BeamState
    """The hypotheses that are continued."""
    states: tuple[DecoderState, ...]
    """State of each model before the step."""
    own_BQV: Tensor
    """Log-probabilities of the next piece, as the models give them."""
    scores_BQV: Tensor
    """The same, minus infinity for forbidden pieces."""
    chosen: Continuations
    ends_BQ: Tensor
    """Which of the chosen continuations end."""
    final_BQ: Tensor
    """Final scores of those that end."""
    finished_B: Tensor
    """Whether no live hypothesis can still rank among the best."""


@dataclass(frozen=True)
class Decoding:
    """A search for the translations of a batch: what `translate_batch` runs to its end, and others step by step."""

    ensemble: Ensemble
    strategy: BeamStrategy | SamplingStrategy
    constraints: Constraints
    options: SearchConfig
    beam: BeamState
    """Before the first step."""
    lengths_B: Tensor
    """Source pieces with the end, on the CPU."""
    n_best: int
    shortlists: Shortlists | None
    pointers: BackPointers

    @staticmethod
    def start(
        models: Sequence[Model],
        source_BS: Tensor,
        lengths_B: Tensor,
        options: SearchConfig,
        *,
        special: SpecialIds,
        n_best: int = 1,
        prefix: Sequence[Sequence[int]] | None = None,
        shortlists: Sequence[Sequence[int] | npt.NDArray[np.integer[Any]]] | None = None,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Decoding:
        """Encodes the source and returns the search before its first step.

        Args:
            models: one, or an ensemble, in evaluation mode and on the device of the source.
            source_BS: source pieces, each sentence with its end.
            lengths_B: their numbers, the end included.
            options: the section `search` of the YAML.
            special: ids of the special pieces of the target vocabulary.
            n_best: hypotheses of each sentence; fewer are returned where fewer translations are possible. Sampling
                draws this many, independently.
            prefix: pieces that each translation begins with; it takes precedence over every other constraint. -1 leaves
                the choice of a piece to the search.
            shortlists: the pieces that each translation may use, beside the special ones and its prefix; by default
                all. Probabilities are then those among these pieces.
            numbers: the number of each sentence, which seeds its sampling; by default its index in this batch.

        Raises `ConfigError` where `n_best` is above the beam.
        """
        strategy = _strategy(options, n_best, seed, range(len(source_BS)) if numbers is None else numbers)
        lengths_B, device = lengths_B.cpu(), source_BS.device
        with_shortlist = None if shortlists is None else Shortlists(shortlists, special, prefix)
        if with_shortlist is not None:
            special, prefix = with_shortlist.special, with_shortlist.prefix
        constraints = Constraints.build(
            options,
            (lengths_B - 1).tolist(),
            eos=special.eos,
            forbidden=[special.bos, special.pad, *([] if options.allow_unknown else [special.unk])],
            prefix=prefix,
            device=device,
        )
        ensemble = Ensemble(models, source_BS, lengths_B, with_shortlist)
        beam = BeamState.start(len(lengths_B), special.bos, options.no_repeat_ngram > 0, device)
        pointers = BackPointers(len(lengths_B), strategy.width, device)
        return Decoding(ensemble, strategy, constraints, options, beam, lengths_B, n_best, with_shortlist, pointers)

    def steps(
        self,
        *,
        want_attention: bool = False,
        want_heads: bool = False,
        observe: bool = False,
        attend: Callable[[int], Tensor | None] = lambda position: None,
    ) -> Iterator[DecodingStep | None]:
        """Steps until all sentences are finished; these leave the batch. Yields every step, None unless `observe`.

        `attend` gives the attention weights that a step takes instead of its own, broadcastable to [B, Q, N, S].
        """
        ensemble, strategy, constraints, beam = self.ensemble, self.strategy, self.constraints, self.beam
        alpha, beta = self.options.length_penalty, self.options.coverage_penalty
        device = beam.pieces_BQ.device
        words_B = (self.lengths_B - 1).to(device)
        active = list(range(len(words_B)))

        for position in range(constraints.largest_max_length + 1):
            states = tuple(ensemble.states)
            scores_BQV = ensemble.step(beam.pieces_BQ, attend(position))
            attention_BQS = ensemble.attention_BQS if want_attention or beta else None
            if beta and attention_BQS is None:
                raise ConfigError(
                    "search.coverage_penalty: the model has no attention to measure coverage by; set it to 0"
                )
            own_BQV = scores_BQV.clone() if observe else scores_BQV
            constraints.apply_(scores_BQV, position, beam.sentences_B, beam.history_BQT)
            chosen = strategy(beam.totals_BQ, scores_BQV, beam.ended_B, beam.sentences_B)
            heads_BQNS = ensemble.head_attention_BQNS if want_heads else None
            self.pointers.add(active, chosen, attention_BQS if want_attention else None, heads_BQNS)
            before, beam = beam, beam.extend(chosen, attention_BQS if beta else None)

            ends_BQ = (chosen.pieces_BQ == constraints.eos) & (chosen.totals_BQ > MINUS_INFINITY)
            final_BQ = chosen.totals_BQ / length_penalty(position + 1.0, alpha)
            if beam.coverage_BQS is not None:
                final_BQ = final_BQ + coverage_penalty(beam.coverage_BQS, words_B[beam.sentences_B], beta)
            self.pointers.end(beam.sentences_B, ends_BQ, beam.ended_B, final_BQ)
            totals_BQ = chosen.totals_BQ.masked_fill(ends_BQ, MINUS_INFINITY)

            max_length_B = constraints.max_length_B[beam.sentences_B] + 1.0
            reachable_B = totals_BQ.amax(1) / length_penalty(max_length_B, alpha)
            finished_B = self.pointers.ended_scores(beam.sentences_B, self.n_best) >= reachable_B
            if observe:
                yield DecodingStep(position, before, states, own_BQV, scores_BQV, chosen, ends_BQ, final_BQ, finished_B)
            else:
                yield None
            # A finished sentence may stay for some steps: its new hypotheses do not rank among its n best.
            beam = replace(beam, ended_B=beam.ended_B + ends_BQ.sum(1), totals_BQ=totals_BQ)

            rows: Sequence[int] = range(len(active))
            if (position + 1) % finish_check_interval(device) == 0:
                rows = [row for row, finished in enumerate(finished_B.tolist()) if not finished]
                if not rows:
                    break
            if len(rows) < len(active):
                rows_N = torch.tensor(rows, device=device)
                ensemble.select(rows_N, chosen.parents_BQ[rows_N])
                beam, active = beam.select(rows_N), [active[row] for row in rows]
            elif strategy.reorders or chosen.parents_BQ.shape != scores_BQV.shape[:2]:
                ensemble.select(None, chosen.parents_BQ)

    def hypotheses(self) -> list[list[Hypothesis]]:
        """Returns the best hypotheses of each sentence that have ended; raises `CheckpointError` if there are none."""
        ended = self.pointers.hypotheses(self.n_best, self.lengths_B.tolist())
        if self.shortlists is None:
            return ended
        return [
            [replace(each, ids=self.shortlists.vocabulary_ids(sentence, each.ids)) for each in candidates]
            for sentence, candidates in enumerate(ended)
        ]


def _strategy(options: SearchConfig, n_best: int, seed: int, numbers: Sequence[int]) -> BeamStrategy | SamplingStrategy:
    assert n_best >= 1, "no hypotheses requested"
    if options.kind == "sampling":
        return SamplingStrategy(n_best, options, seed, numbers)
    width = options.beam_size if options.kind == "beam" else 1
    if n_best > width:
        remedy = f"search.beam_size: {width} hypotheses" if options.kind == "beam" else "search.kind: greedy search"
        raise ConfigError(f"{remedy} cannot give the {n_best} best; use a beam of at least {n_best}")
    return BeamStrategy(width)


@dataclass(frozen=True)
class BeamState:
    """The live hypotheses of the active sentences."""

    sentences_B: Tensor
    """Indices of the sentences in the whole batch."""
    ended_B: Tensor
    """Hypotheses of each sentence that have ended."""
    totals_BQ: Tensor
    """Log-probabilities; minus infinity for an unused hypothesis."""
    pieces_BQ: Tensor
    """The last piece of each."""
    history_BQT: Tensor | None
    """All their pieces, if a constraint needs them."""
    coverage_BQS: Tensor | None
    """Attention summed over their pieces, if there is a coverage penalty."""

    @classmethod
    def start(cls, sentences: int, bos: int, keep_history: bool, device: torch.device) -> BeamState:
        """Returns one empty hypothesis a sentence."""
        ended_B = torch.zeros(sentences, dtype=torch.int64, device=device)
        totals_BQ = torch.zeros((sentences, 1), dtype=widest_dtype(device), device=device)
        pieces_BQ = torch.full((sentences, 1), bos, device=device)
        history_BQT = pieces_BQ.new_empty((sentences, 1, 0)) if keep_history else None
        return cls(torch.arange(sentences, device=device), ended_B, totals_BQ, pieces_BQ, history_BQT, None)

    def select(self, rows_N: Tensor) -> BeamState:
        """Returns the state of the sentences in these rows."""
        values: Any = {name: value if value is None else value[rows_N] for name, value in vars(self).items()}
        return BeamState(**values)

    def extend(self, chosen: Continuations, attention_BQS: Tensor | None) -> BeamState:
        """Returns the state with one more piece in every hypothesis."""
        parents_BQ1 = chosen.parents_BQ.unsqueeze(2)
        history_BQT, coverage_BQS = self.history_BQT, self.coverage_BQS
        if history_BQT is not None:
            history_BQT = history_BQT.gather(1, parents_BQ1.expand(-1, -1, history_BQT.shape[2]))
            history_BQT = torch.cat([history_BQT, chosen.pieces_BQ.unsqueeze(2)], 2)
        if attention_BQS is not None:
            summed_BQS = attention_BQS if coverage_BQS is None else coverage_BQS + attention_BQS
            coverage_BQS = summed_BQS.gather(1, parents_BQ1.expand(-1, -1, summed_BQS.shape[2]))
        return BeamState(self.sentences_B, self.ended_B, chosen.totals_BQ, chosen.pieces_BQ, history_BQT, coverage_BQS)


@dataclass(frozen=True)
class _Step:
    row: dict[int, int]
    """The row of each sentence, by its index in the whole batch, in the tensors of the step."""
    chosen: Continuations
    attention_BQS: Tensor | None
    heads_BQNS: Tensor | None


class BackPointers:
    """The continuations of all steps and the ended hypotheses, on the device until the search is over.

    Nothing is copied when hypotheses are reordered: each keeps a pointer to the one that it continues.
    """

    def __init__(self, sentences: int, width: int, device: torch.device) -> None:
        self._steps: list[_Step] = []
        # One column more than the width: hypotheses that have not ended are written there, so that no shape depends on
        # how many have, and no step synchronizes.
        shape = (sentences, width + 1)
        self._scores = torch.full(shape, MINUS_INFINITY, dtype=widest_dtype(device), device=device)
        self._totals = torch.zeros_like(self._scores)
        self._ends = torch.zeros((2, *shape), dtype=torch.int64, device=device)
        self._width = width

    def add(
        self,
        sentences: Sequence[int],
        chosen: Continuations,
        attention_BQS: Tensor | None,
        heads_BQNS: Tensor | None = None,
    ) -> None:
        """Records a step; `sentences` are those in the rows of its tensors."""
        row = self._steps[-1].row if self._steps and len(self._steps[-1].row) == len(sentences) else None
        row = row if row is not None else {sentence: index for index, sentence in enumerate(sentences)}
        self._steps.append(_Step(row, chosen, attention_BQS, heads_BQNS))

    def end(self, sentences_B: Tensor, is_end_BQ: Tensor, ended_B: Tensor, scores_BQ: Tensor) -> None:
        """Records the hypotheses of the last step that have ended, with their scores; `ended_B` had ended before."""
        column_BQ = ended_B.unsqueeze(1) + is_end_BQ.cumsum(1) - 1
        index = (sentences_B.unsqueeze(1), column_BQ.where(is_end_BQ, self._width))
        self._scores[index] = scores_BQ
        self._totals[index] = self._steps[-1].chosen.totals_BQ
        self._ends[0][index] = torch.full_like(column_BQ, len(self._steps) - 1)
        self._ends[1][index] = torch.arange(column_BQ.shape[1], device=column_BQ.device).expand_as(column_BQ)

    def ended_scores(self, sentences_B: Tensor, rank: int) -> Tensor:
        """Returns the score [B] of the ended hypothesis with this rank from 1, minus infinity where there is none."""
        return self._scores[sentences_B, : self._width].topk(rank, 1).values[:, -1]

    def hypotheses(self, n_best: int, source_lengths: Sequence[int]) -> list[list[Hypothesis]]:
        """Returns up to `n_best` hypotheses a sentence, best first; raises `CheckpointError` if none has ended."""
        scores, totals = self._scores.cpu().numpy()[:, : self._width], self._totals.cpu().numpy()
        last_steps, last_queries = self._ends.cpu().numpy()
        parents = _to_host([step.chosen.parents_BQ for step in self._steps])
        pieces = _to_host([step.chosen.pieces_BQ for step in self._steps])
        log_probabilities = _to_host([step.chosen.log_probabilities_BQ for step in self._steps])
        attention = _to_host([step.attention_BQS for step in self._steps if step.attention_BQS is not None])
        heads = _to_host([step.heads_BQNS for step in self._steps if step.heads_BQNS is not None])

        def follow(sentence: int, column: int) -> Hypothesis:
            query = int(last_queries[sentence, column])
            ids, terms, weights, head_weights = [], [], [], []
            for number in range(int(last_steps[sentence, column]), -1, -1):
                row = self._steps[number].row[sentence]
                ids.append(int(pieces[number][row, query]))
                terms.append(float(log_probabilities[number][row, query]))
                query = int(parents[number][row, query])
                if attention:
                    weights.append(attention[number][row, query, : source_lengths[sentence]])
                if heads:
                    head_weights.append(heads[number][row, query, :, : source_lengths[sentence]])
            return Hypothesis(
                ids=tuple(reversed(ids[1:])),
                score=float(scores[sentence, column]),
                log_probability=float(totals[sentence, column]),
                token_log_probabilities=tuple(reversed(terms)),
                attention=np.stack(weights[::-1]) if weights else None,
                head_attention=np.stack(head_weights[::-1], 1) if head_weights else None,
            )

        order = np.argsort(-scores, axis=1, kind="stable")[:, :n_best]
        ended = [
            [int(column) for column in order[sentence] if scores[sentence, column] > MINUS_INFINITY]
            for sentence in range(len(scores))
        ]
        if not all(ended):
            raise CheckpointError("the model gives no translation a probability: its weights are not finite")
        return [[follow(sentence, column) for column in columns] for sentence, columns in enumerate(ended)]


def _to_host(parts: Sequence[Tensor]) -> list[npt.NDArray[np.generic]]:
    """Returns the tensors as arrays, in one transfer."""
    if not parts:
        return []
    flat = torch.cat([part.flatten() for part in parts]).cpu()
    pieces = torch.split(flat, [part.numel() for part in parts])
    return [piece.view(part.shape).numpy() for piece, part in zip(pieces, parts, strict=True)]


LengthT = TypeVar("LengthT", float, Tensor)


def length_penalty(length: LengthT, alpha: float) -> LengthT:
    """lp(Y) = ((5 + |Y|) / (5 + 1)) ** alpha; |Y| counts the end of the sentence, as log P does."""
    penalty: LengthT = ((5.0 + length) / 6.0) ** alpha
    return penalty


def coverage_penalty(attention_sum_BQS: Tensor, lengths_B: Tensor, beta: float) -> Tensor:
    """cp(X, Y) = beta * sum_i log(min(sum_j p_ij, 1)), [B, Q], of attention summed over the target positions.

    `lengths_B` are the source pieces without the end of the sentence, which has no content to cover.
    """
    covered_BQS = attention_sum_BQS.clamp(MIN_COVERAGE, 1.0).log()
    position_S = torch.arange(attention_sum_BQS.shape[2], device=lengths_B.device)
    is_word_B1S = (position_S < lengths_B.unsqueeze(1)).unsqueeze(1)
    return beta * covered_BQS.where(is_word_B1S, 0.0).sum(-1)
