"""The search itself: one loop for greedy, beam and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.config.schema import SearchConfig
from nmt.errors import ConfigError
from nmt.search.choice import Best, Choice, Continuations, Drawn
from nmt.search.constraints import Constraints
from nmt.search.ensemble import Ensemble, Model
from nmt.search.penalties import coverage_penalty, length_penalty
from nmt.search.result import Hypothesis, Trace
from nmt.search.shortlist import Shortlists, SpecialIds

NEVER = float("-inf")


def steps_between_looks(device: torch.device) -> int:
    """Steps after which the host asks which sentences are finished.

    On a GPU the question waits for everything launched so far, and a finished sentence costs its share of the steps
    until the next one. On a CPU asking is free.
    """
    return 1 if device.type == "cpu" else 8


@torch.inference_mode()
def translate_batch(
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
    want_attention: bool = False,
) -> list[list[Hypothesis]]:
    """Translate sentences; the result of one does not depend on which others are in the batch.

    The scores are the model's own: a piece that a constraint forbids takes no part, but its probability is not
    handed to others, and the end of a translation that reached its longest length is scored as the model scores it.
    The score divides by the length penalty and adds the coverage penalty (Wu 2016, equation 14) once a hypothesis
    has ended; hypotheses of one length compete by probability alone.

    A sentence is finished when none of its live hypotheses can still score above its `n_best`-th best ended one.
    A live hypothesis can only lose log-probability p, at best has no coverage penalty, and is divided by no more
    than the length penalty of the longest translation allowed: p / lp(longest) is the most it can reach, so that
    stopping loses nothing.

    On a GPU the host asks only every few steps which sentences are finished; all else stays on the device.

    Args:
        models: one, or an ensemble, in evaluation mode and on the device of the source.
        source_BS: source pieces, each sentence with its end.
        lengths_B: their numbers, the end included.
        options: the section `search` of the YAML.
        special: numbers of the special pieces of the target vocabulary.
        n_best: hypotheses wanted of each sentence; fewer come back where fewer translations are possible.
            Sampling draws this many, independently.
        prefix: pieces that each translation begins with; it goes before every other constraint.
        shortlists: the pieces that each translation may be made of, beside the special ones and its prefix; by
            default all. Probabilities are then those among these pieces.
        seed: of sampling.
        numbers: the number of each sentence for the seeding; by default its place in this batch.
        want_attention: keep the attention weights.

    Returns:
        For each sentence its hypotheses, best first.

    Raises:
        ConfigError: more hypotheses wanted than are kept, or a coverage penalty without attention.
        CheckpointError: the model gives no finite probabilities.
    """
    if not len(source_BS):
        return []
    choice = _choice(options, n_best, seed, range(len(source_BS)) if numbers is None else numbers)
    device, lengths_B = source_BS.device, lengths_B.cpu()
    own = None if shortlists is None else Shortlists(shortlists, special, prefix)
    if own is not None:
        special, prefix = own.special, own.prefix
    constraints = Constraints.build(
        options,
        (lengths_B - 1).tolist(),
        eos=special.eos,
        forbidden=[special.bos, special.pad, *([] if options.allow_unknown else [special.unk])],
        prefix=prefix,
        device=device,
    )
    ensemble = Ensemble(models, source_BS, lengths_B, own)
    first = _Frontier.start(len(lengths_B), special.bos, options.no_repeat_ngram > 0, device)
    words_B = (lengths_B - 1).to(device)
    trace = _search(ensemble, choice, constraints, options, first, words_B, n_best, want_attention)
    found = trace.hypotheses(n_best, lengths_B.tolist())
    return found if own is None else own.spelled(found)


def _choice(options: SearchConfig, n_best: int, seed: int, numbers: Sequence[int]) -> Choice:
    """The rule of going on that the options ask for."""
    assert n_best >= 1, "no hypotheses wanted"
    if options.kind == "sampling":
        return Drawn(n_best, options, seed, numbers)
    width = options.beam_size if options.kind == "beam" else 1
    if n_best > width:
        remedy = f"search.beam_size: {width} hypotheses" if options.kind == "beam" else "search.kind: greedy search"
        raise ConfigError(f"{remedy} cannot give the {n_best} best; use a beam of at least {n_best}")
    return Best(width)


@dataclass(frozen=True)
class _Frontier:
    """The hypotheses of the sentences that are left, as far as they go."""

    sentences_B: Tensor
    """Their numbers in the whole batch."""
    ended_B: Tensor
    """Hypotheses of each sentence that have ended."""
    totals_BQ: Tensor
    """Log-probabilities; minus infinity marks an empty place."""
    pieces_BQ: Tensor
    """The last piece of each."""
    history_BQT: Tensor | None
    """All their pieces, where a constraint asks for them."""
    coverage_BQS: Tensor | None
    """Attention summed over their pieces, where the score asks for it."""

    @classmethod
    def start(cls, sentences: int, bos: int, keep_history: bool, device: torch.device) -> _Frontier:
        """One empty hypothesis a sentence."""
        pieces_BQ = torch.full((sentences, 1), bos, device=device)
        return cls(
            sentences_B=torch.arange(sentences, device=device),
            ended_B=torch.zeros(sentences, dtype=torch.int64, device=device),
            totals_BQ=torch.zeros((sentences, 1), dtype=torch.float64, device=device),
            pieces_BQ=pieces_BQ,
            history_BQT=pieces_BQ.new_empty((sentences, 1, 0)) if keep_history else None,
            coverage_BQS=None,
        )

    def select(self, rows_N: Tensor) -> _Frontier:
        """The sentences in these rows."""
        return _Frontier(
            sentences_B=self.sentences_B[rows_N],
            ended_B=self.ended_B[rows_N],
            totals_BQ=self.totals_BQ[rows_N],
            pieces_BQ=self.pieces_BQ[rows_N],
            history_BQT=None if self.history_BQT is None else self.history_BQT[rows_N],
            coverage_BQS=None if self.coverage_BQS is None else self.coverage_BQS[rows_N],
        )


def _search(
    ensemble: Ensemble,
    choice: Choice,
    constraints: Constraints,
    options: SearchConfig,
    first: _Frontier,
    words_B: Tensor,
    n_best: int,
    want_attention: bool,
) -> Trace:
    """Step until every sentence is finished; finished sentences leave the batch. `words_B`: source pieces, no ends."""
    alpha, beta = options.length_penalty, options.coverage_penalty
    device = words_B.device
    frontier, active = first, list(range(len(words_B)))
    trace = Trace(len(active), choice.width, device)

    for position in range(constraints.largest_max_length + 1):
        scores_BQV = ensemble.step(frontier.pieces_BQ)
        attention_BQS = ensemble.attention_BQS if want_attention or beta else None
        if beta and attention_BQS is None:
            raise ConfigError("search.coverage_penalty: the model has no attention to measure coverage by; set it to 0")
        constraints.apply_(scores_BQV, position, frontier.sentences_B, frontier.history_BQT)
        chosen = choice(frontier.totals_BQ, scores_BQV, frontier.ended_B, frontier.sentences_B)
        trace.add(active, chosen, attention_BQS if want_attention else None)
        frontier = _follow(frontier, chosen, attention_BQS if beta else None)

        ends_BQ = (chosen.pieces_BQ == constraints.eos) & (chosen.totals_BQ > NEVER)
        final_BQ = chosen.totals_BQ / length_penalty(position + 1.0, alpha)
        if frontier.coverage_BQS is not None:
            final_BQ = final_BQ + coverage_penalty(frontier.coverage_BQS, words_B[frontier.sentences_B], beta)
        trace.end(frontier.sentences_B, ends_BQ, frontier.ended_B, final_BQ)
        totals_BQ = chosen.totals_BQ.masked_fill(ends_BQ, NEVER)

        longest_B = constraints.max_length_B[frontier.sentences_B] + 1.0
        reachable_B = totals_BQ.amax(1) / length_penalty(longest_B, alpha)
        finished_B = trace.best_scores(frontier.sentences_B, n_best) >= reachable_B
        # A finished sentence may wait to leave: what it still finds does not rank among its n best.
        frontier = replace(frontier, ended_B=frontier.ended_B + ends_BQ.sum(1), totals_BQ=totals_BQ)

        rows: Sequence[int] = range(len(active))
        if (position + 1) % steps_between_looks(device) == 0:
            rows = [row for row, finished in enumerate(finished_B.tolist()) if not finished]
            if not rows:
                break
        leave = len(rows) < len(active)
        if leave or choice.reorders or chosen.parents_BQ.shape != scores_BQV.shape[:2]:
            if leave:
                rows_N = torch.tensor(rows, device=device)
                ensemble.select(rows_N, chosen.parents_BQ[rows_N])
                frontier, active = frontier.select(rows_N), [active[row] for row in rows]
            else:
                ensemble.select(None, chosen.parents_BQ)
    return trace


def _follow(frontier: _Frontier, chosen: Continuations, attention_BQS: Tensor | None) -> _Frontier:
    """The frontier with one more piece to every hypothesis."""
    parents_BQ1 = chosen.parents_BQ.unsqueeze(2)
    history_BQT, coverage_BQS = frontier.history_BQT, frontier.coverage_BQS
    if history_BQT is not None:
        past_BQT = history_BQT.gather(1, parents_BQ1.expand(-1, -1, history_BQT.shape[2]))
        history_BQT = torch.cat([past_BQT, chosen.pieces_BQ.unsqueeze(2)], 2)
    if attention_BQS is not None:
        summed_BQS = attention_BQS if coverage_BQS is None else coverage_BQS + attention_BQS
        coverage_BQS = summed_BQS.gather(1, parents_BQ1.expand(-1, -1, summed_BQS.shape[2]))
    return replace(
        frontier,
        totals_BQ=chosen.totals_BQ,
        pieces_BQ=chosen.pieces_BQ,
        history_BQT=history_BQT,
        coverage_BQS=coverage_BQS,
    )
