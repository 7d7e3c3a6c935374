"""The stream of training batches of pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from nmt.batching.batch import Batch, encoded_batch, sampled_batch, stand_in
from nmt.batching.plan import EpochPlan, cut, plan_epoch
from nmt.batching.updates import UpdateStream
from nmt.text.encoded import EncodedCorpus
from nmt.text.tokenizer import TokenizerPair

Update: TypeAlias = list[Batch]
"""The batches of one update on one rank, `accumulation` of them."""


class BatchStream(UpdateStream[Batch]):
    """Batches of an encoded corpus."""

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
        super().__init__(rank, world, accumulation)
        assert corpus.has_text or not sampling
        assert corpus.has_links or not with_links
        self._corpus = corpus
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._tokenizers = tokenizers
        self._sampling = sampling
        self._with_links = with_links

    def largest_batch(self) -> Batch:
        """The batch of the first epoch with the most padded elements, both sides together.

        If it fits into memory, so do the others, nearly: epochs differ a little, and sampling can add pieces.
        """
        plan = self.planned(0)
        starts, sizes = plan.bounds[:-1], np.diff(plan.bounds)
        widths = [
            np.maximum.reduceat(lengths[plan.rows] + 1, starts)
            for lengths in (self._corpus.source_lengths, self._corpus.target_lengths)
        ]
        number = int(np.argmax(sizes * (widths[0].astype(np.int64) + widths[1])))
        rows = plan.rows[plan.bounds[number] : plan.bounds[number + 1]]
        return encoded_batch(self._corpus, rows, self._tokenizers, self._with_links)

    def batch(self, plan: EpochPlan, epoch: int, number: int) -> Batch:
        rows = plan.batch(number)
        if not self._sampling:
            return encoded_batch(self._corpus, rows, self._tokenizers, self._with_links)
        # A third number keeps these seeds apart from those of the plan.
        source, target = np.random.SeedSequence(self._seed, spawn_key=(epoch, number, 1)).generate_state(2)
        seeds = (int(source), int(target))
        return sampled_batch(self._corpus, rows, self._tokenizers, self._sampling, seeds, self._with_links)

    def stand_in(self) -> Batch:
        return stand_in(self._tokenizers)

    def plan(self, epoch: int) -> EpochPlan:
        corpus = self._corpus
        return plan_epoch(
            corpus.source_lengths + 1,
            corpus.target_lengths + 1,
            corpus.weights,
            self._batch_tokens,
            self.group,
            self._seed,
            epoch,
        )


def validation_batches(
    corpus: EncodedCorpus, batch_tokens: int, tokenizers: TokenizerPair, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Every row once, in order of length, every world-th batch for a rank; always the same batches."""
    source, target = corpus.source_lengths + 1, corpus.target_lengths + 1
    rows = np.lexsort((source, target))
    bounds = cut(np.maximum(source, target)[rows], batch_tokens)
    for number in range(rank, len(bounds) - 1, world):
        yield encoded_batch(corpus, rows[bounds[number] : bounds[number + 1]], tokenizers)
