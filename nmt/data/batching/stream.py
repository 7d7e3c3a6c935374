"""The stream of training batches of pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from nmt.data.batching.batch import Batch, encoded_batch, sampled_batch, stand_in
from nmt.data.batching.document_plan import plan_stretches
from nmt.data.batching.past import Lookback
from nmt.data.batching.plan import Plan, Rows, cut, plan_window
from nmt.data.batching.updates import UpdateStream
from nmt.data.batching.windows import BLOCK_ROWS, WINDOW_ROWS, Windows
from nmt.data.cache import EncodedCorpus
from nmt.data.tokenizer import TokenizerPair

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
        lookback: Lookback | None = None,
        window_rows: int = WINDOW_ROWS,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        """`batch_tokens` bounds sentences x longest side, end symbols included; `sampling` > 0 tokenizes anew at every
        epoch (the corpus needs its text for that); `with_links` gives batches the links of the corpus's alignments.

        With `lookback` documents are shuffled, not sentences, so that what a sentence looks back to is in its batch as
        a rule; what is not is read beside, within `batch_tokens`.
        """
        together = None if lookback is None else corpus.document_positions
        super().__init__(Windows(corpus.parts, seed, window_rows, block_rows, together), rank, world, accumulation)
        assert corpus.has_text or not sampling
        assert corpus.has_links or not with_links
        self._corpus = corpus
        self._batch_tokens = batch_tokens
        self._tokenizers = tokenizers
        self._sampling = sampling
        self._with_links = with_links
        self._lookback = lookback

    def plan(self, rows: Rows, rng: np.random.Generator) -> Plan:
        corpus, settings = self._corpus, (self._batch_tokens, self.group, rng)
        is_pair = corpus.is_pair(rows)
        if self._lookback is None:
            rows = rows[is_pair]
            source, target = corpus.lengths(rows)
            return plan_window(rows, source + 1, target + 1, *settings)
        source, target = corpus.lengths(rows)
        sentences = (
            np.zeros(len(rows), np.int64) if corpus.document_positions is None else corpus.document_positions[rows]
        )
        return plan_stretches(rows, is_pair, sentences, source + 1, target + 1, self._lookback, *settings)

    def batch(self, rows: Rows, seeds: np.random.SeedSequence) -> Batch:
        if not self._sampling:
            return encoded_batch(self._corpus, rows, self._tokenizers, self._with_links, self._lookback)
        source, target = (int(seed) for seed in seeds.generate_state(2))
        wanted = (self._with_links, self._lookback)
        return sampled_batch(self._corpus, rows, self._tokenizers, self._sampling, (source, target), *wanted)

    def stand_in(self) -> Batch:
        return stand_in(self._tokenizers)

    def largest_batch(self) -> Batch:
        """The batch of the first window with the most padded elements, both sides together.

        If it fits into memory, so do the others, nearly: windows differ a little, and sampling can add pieces.
        """
        plan = self.planned(0, 0)
        rows = plan.rows_of(plan.largest)
        return encoded_batch(self._corpus, rows, self._tokenizers, self._with_links, self._lookback)


def validation_batches(
    corpus: EncodedCorpus, batch_tokens: int, tokenizers: TokenizerPair, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Every row once, in order of length, every world-th batch for a rank; always the same batches."""
    source, target = (lengths + 1 for lengths in corpus.lengths(np.arange(len(corpus))))
    rows = np.lexsort((source, target))
    bounds = cut(np.maximum(source, target)[rows], batch_tokens)
    for number in range(rank, len(bounds) - 1, world):
        yield encoded_batch(corpus, rows[bounds[number] : bounds[number + 1]], tokenizers)
