"""The stream of training batches: seeded, shared out to ranks, and resumable at any update."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from nmt.batching.batch import Batch, encoded_batch, sampled_batch, stand_in
from nmt.batching.plan import Plan, cut, plan_window
from nmt.batching.prefetch import prefetch
from nmt.batching.windows import BLOCK_ROWS, WINDOW_ROWS, Windows
from nmt.text.encoded import EncodedCorpus
from nmt.text.tokenizer import TokenizerPair

_UPDATES_AHEAD = 2

Update: TypeAlias = list[Batch]
"""The batches of one update on one rank, `accumulation` of them."""


@dataclass(frozen=True)
class Position:
    """Where training stands: the next update is update `update` of window `window` of epoch `epoch`, counted from 0.

    The end of an epoch is the position after the last update of its last window.
    """

    epoch: int = 0
    update: int = 0
    window: int = 0


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
        window_rows: int = WINDOW_ROWS,
        block_rows: int = BLOCK_ROWS,
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
        self._windows = Windows(corpus.parts, seed, window_rows, block_rows)
        self._planned: tuple[tuple[int, int], Plan] | None = None
        self._counted: dict[tuple[int, int], int] = {}

    def updates_per_epoch(self, epoch: int) -> int:
        """Updates of an epoch, the same on every rank; of several windows all count as the first one does."""
        return len(self._windows) * self._updates_of(epoch, 0)

    def following(self, position: Position) -> Position:
        """The position after one more update; its epoch is the same, since the end of an epoch is a position too."""
        done = position.update + 1
        if done < self._updates_of(position.epoch, position.window) or position.window == len(self._windows) - 1:
            return replace(position, update=done)
        return Position(position.epoch, window=position.window + 1)

    def ends_epoch(self, position: Position) -> bool:
        """Whether no update of its epoch is left at this position."""
        last = position.window == len(self._windows) - 1
        return last and position.update >= self._updates_of(position.epoch, position.window)

    def updates(self, position: Position) -> Iterator[Update]:
        """The updates of this rank, from the position to the end of its epoch.

        In the last update of a window a rank may have fewer batches than the others; stand-ins of weight 0 fill its
        list. Batches are made ahead in a thread, which ends when the iterator is closed or dropped.
        """
        return prefetch(self._updates(position), _UPDATES_AHEAD)

    def largest_batch(self) -> Batch:
        """The batch of the first window with the most padded elements, both sides together.

        If it fits into memory, so do the others, nearly: windows differ a little, and sampling can add pieces.
        """
        plan = self._plan(0, 0)
        starts, sizes = plan.bounds[:-1], np.diff(plan.bounds)
        widths = [np.maximum.reduceat(lengths + 1, starts) for lengths in self._corpus.lengths(plan.rows)]
        number = int(np.argmax(sizes * (widths[0].astype(np.int64) + widths[1])))
        rows = plan.rows[plan.bounds[number] : plan.bounds[number + 1]]
        return encoded_batch(self._corpus, rows, self._tokenizers, self._with_links)

    @property
    def _group(self) -> int:
        return self._world * self._accumulation

    def _updates(self, position: Position) -> Iterator[Update]:
        for window, plan in self._plans(position.epoch, position.window):
            done = position.update if window == position.window else 0
            for first in range(done * self._group, len(plan), self._group):
                # Every world-th batch: an incomplete update is spread over the ranks instead of filling the first ones.
                mine = range(first + self._rank, min(first + self._group, len(plan)), self._world)
                update = [self._batch(plan, position.epoch, window, number) for number in mine]
                missing = self._accumulation - len(update)
                yield update + [stand_in(self._tokenizers) for _ in range(missing)]

    def _plans(self, epoch: int, first: int) -> Iterator[tuple[int, Plan]]:
        """The windows of an epoch from this one on; each is planned while the one before it is in use."""
        with ThreadPoolExecutor(1, "plan") as ahead:
            plan = self._plan(epoch, first)
            for window in range(first + 1, len(self._windows)):
                following = ahead.submit(self._plan, epoch, window)
                yield window - 1, plan
                plan = following.result()
            yield len(self._windows) - 1, plan

    def _batch(self, plan: Plan, epoch: int, window: int, number: int) -> Batch:
        rows = plan.batch(number)
        if not self._sampling:
            return encoded_batch(self._corpus, rows, self._tokenizers, self._with_links)
        # As many numbers as nothing else has keep these seeds apart from those of the plan.
        source, target = np.random.SeedSequence(self._seed, spawn_key=(epoch, window, number, 1)).generate_state(2)
        seeds = (int(source), int(target))
        return sampled_batch(self._corpus, rows, self._tokenizers, self._sampling, seeds, self._with_links)

    def _updates_of(self, epoch: int, window: int) -> int:
        """Updates of a window; the last one may be incomplete."""
        if (epoch, window) not in self._counted:
            self._plan(epoch, window)
        return self._counted[epoch, window]

    def _plan(self, epoch: int, window: int) -> Plan:
        planned = self._planned
        if planned is None or planned[0] != (epoch, window):
            rows = self._windows.rows(epoch, window)
            source, target = self._corpus.lengths(rows)
            rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(epoch, window, 0)))
            plan = plan_window(rows, source + 1, target + 1, self._batch_tokens, self._group, rng)
            self._counted[epoch, window] = -(-len(plan) // self._group)
            self._planned = planned = (epoch, window), plan
        return planned[1]


def validation_batches(
    corpus: EncodedCorpus, batch_tokens: int, tokenizers: TokenizerPair, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Every row once, in order of length, every world-th batch for a rank; always the same batches."""
    source, target = (lengths + 1 for lengths in corpus.lengths(np.arange(len(corpus))))
    rows = np.lexsort((source, target))
    bounds = cut(np.maximum(source, target)[rows], batch_tokens)
    for number in range(rank, len(bounds) - 1, world):
        yield encoded_batch(corpus, rows[bounds[number] : bounds[number + 1]], tokenizers)
