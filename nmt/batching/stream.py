"""The stream of training batches: seeded, shared out to ranks, and resumable at any update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from nmt.batching.batch import Batch, encoded_batch, sampled_batch, stand_in
from nmt.batching.plan import EpochPlan, cut, plan_epoch
from nmt.batching.prefetch import prefetch
from nmt.text.encoded import EncodedCorpus
from nmt.text.tokenizer import TokenizerPair

_UPDATES_AHEAD = 2

Update: TypeAlias = list[Batch]
"""The batches of one update on one rank, `accumulation` of them."""


@dataclass(frozen=True)
class Position:
    """Where training stands: the next update is update `update` of epoch `epoch`, both counted from 0."""

    epoch: int = 0
    update: int = 0


class BatchStream:
    """Batches of an encoded corpus, in an order that depends on the seed and the epoch.

    A global update is `world * accumulation` consecutive batches of that order, so that two ranks with accumulation 1
    train on the same batches as one rank with accumulation 2.
    """

    def __init__(
        self,
        corpus: EncodedCorpus,
        batch_tokens: int,
        seed: int,
        rank: int,
        world: int,
        accumulation: int,
        tokenizers: TokenizerPair,
        sampling: float,
        with_links: bool = False,
    ) -> None:
        """`batch_tokens` bounds sentences x longest side, end symbols included; `sampling` > 0 tokenizes anew at every
        epoch (the corpus needs its text for that); `with_links` gives batches the links of the corpus's alignments."""
        assert 0 <= rank < world
        assert corpus.has_text or not sampling
        assert corpus.has_links or not with_links
        self._corpus = corpus
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._rank = rank
        self._world = world
        self._accumulation = accumulation
        self._tokenizers = tokenizers
        self._sampling = sampling
        self._with_links = with_links
        self._planned: tuple[int, EpochPlan] | None = None

    def updates_per_epoch(self, epoch: int) -> int:
        """Updates of an epoch, the same on every rank; the last one may be incomplete."""
        return -(-len(self._plan(epoch)) // self._group)

    def updates(self, position: Position) -> Iterator[Update]:
        """The updates of this rank, from the position to the end of its epoch.

        In the last update a rank may have fewer batches than the others; stand-ins of weight 0 fill its list.
        Batches are made ahead in a thread, which ends when the iterator is closed or dropped.
        """
        return prefetch(self._updates(position), _UPDATES_AHEAD)

    def largest_batch(self) -> Batch:
        """The batch of the first epoch with the most padded elements, both sides together.

        If it fits into memory, so do the others, nearly: epochs differ a little, and sampling can add pieces.
        """
        plan = self._plan(0)
        starts, sizes = plan.bounds[:-1], np.diff(plan.bounds)
        widths = [
            np.maximum.reduceat(lengths[plan.rows] + 1, starts)
            for lengths in (self._corpus.source_lengths, self._corpus.target_lengths)
        ]
        number = int(np.argmax(sizes * (widths[0].astype(np.int64) + widths[1])))
        rows = plan.rows[plan.bounds[number] : plan.bounds[number + 1]]
        return encoded_batch(self._corpus, rows, self._tokenizers, self._with_links)

    @property
    def _group(self) -> int:
        return self._world * self._accumulation

    def _updates(self, position: Position) -> Iterator[Update]:
        plan = self._plan(position.epoch)
        for first in range(position.update * self._group, len(plan), self._group):
            # Every world-th batch: an incomplete update is spread over the ranks instead of filling the first ones.
            mine = range(first + self._rank, min(first + self._group, len(plan)), self._world)
            update = [self._batch(plan, position.epoch, number) for number in mine]
            missing = self._accumulation - len(update)
            yield update + [stand_in(self._tokenizers) for _ in range(missing)]

    def _batch(self, plan: EpochPlan, epoch: int, number: int) -> Batch:
        rows = plan.batch(number)
        if not self._sampling:
            return encoded_batch(self._corpus, rows, self._tokenizers, self._with_links)
        # A third number keeps these seeds apart from those of the plan.
        source, target = np.random.SeedSequence(self._seed, spawn_key=(epoch, number, 1)).generate_state(2)
        seeds = (int(source), int(target))
        return sampled_batch(self._corpus, rows, self._tokenizers, self._sampling, seeds, self._with_links)

    def _plan(self, epoch: int) -> EpochPlan:
        if self._planned is None or self._planned[0] != epoch:
            corpus = self._corpus
            plan = plan_epoch(
                corpus.source_lengths + 1,
                corpus.target_lengths + 1,
                corpus.weights,
                self._batch_tokens,
                self._group,
                self._seed,
                epoch,
            )
            self._planned = (epoch, plan)
        return self._planned[1]


def validation_batches(
    corpus: EncodedCorpus, batch_tokens: int, tokenizers: TokenizerPair, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Every row once, in order of length, every world-th batch for a rank; always the same batches."""
    source, target = corpus.source_lengths + 1, corpus.target_lengths + 1
    rows = np.lexsort((source, target))
    bounds = cut(np.maximum(source, target)[rows], batch_tokens)
    for number in range(rank, len(bounds) - 1, world):
        yield encoded_batch(corpus, rows[bounds[number] : bounds[number + 1]], tokenizers)
