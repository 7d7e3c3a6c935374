"""Translations that are given, each piece predicted from those before it.

Shapes: B sentences, T target positions, N target pieces of the batch, padding left out, R readout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nmt.data.batching import Batch, Lookback
from nmt.data.batching.batch import collate
from nmt.data.batching.document_plan import by_length, cut_documents
from nmt.data.batching.past import read_back
from nmt.data.batching.plan import Lengths, Rows, cut
from nmt.data.cache import flatten
from nmt.kernels.cross_entropy import chunks
from nmt.runtime.halving import in_halves
from nmt.tasks.translation.documents import Documents, places, rows_before
from nmt.tasks.translation.loading import System

Ids = Sequence[Sequence[int]]
"""Rows of pieces, without end symbols."""
Result = TypeVar("Result")


def in_batches(
    system: System,
    sources: Ids,
    targets: Ids,
    batch_tokens: int,
    work: Callable[[Sequence[Batch]], Result],
    lines: Sequence[int],
    documents: Documents | None = None,
) -> Iterator[tuple[Sequence[int], Result]]:
    """`work` on batches of pairs of similar length, for this process's share of the pairs: rows and their result.

    Pairs x longest side, its end included, is `batch_tokens` or less; a longer pair is a batch alone. The batches are
    the same whatever the number of processes. Empty sides count as they are. Without gradients, and in the format that
    the runtime computes in. `work` gets a batch for each translator, of the same pairs, with what that translator reads
    before them in their `documents`; without documents every pair stands alone.

    Raises:
        NmtError: a pair does not fit into memory; `lines` are the numbers by which pairs are called.
    """
    lengths = [np.fromiter(map(len, side), np.int64, len(side)) for side in (sources, targets)]
    lookbacks = [translator.context.lookback for translator in system.translators]
    before = rows_before(range(len(sources)) if documents is None else documents, lengths[0])
    order, bounds = _arranged(lengths[0] + 1, lengths[1] + 1, batch_tokens, lookbacks, documents)
    runtime = system.runtime

    def run(rows: Sequence[int]) -> Result:
        batches = {lookback: _batch(rows, lookback).to(runtime.device) for lookback in set(lookbacks)}
        with torch.inference_mode(), runtime.autocast():
            return work([batches[lookback] for lookback in lookbacks])

    def _batch(rows: Sequence[int], lookback: Lookback | None) -> Batch:
        pairs = np.asarray(rows)
        read = read_back(pairs, before, lookback)
        return collate(
            flatten([sources[row] for row in read.rows]),
            flatten([targets[row] for row in read.rows[: read.translated]]),
            pairs,
            system.tokenizers,
            past=read.past,
        )

    def too_large(row: int) -> str:
        pieces = f"{len(sources[row])} source and {len(targets[row])} target pieces"
        return f"line {lines[row]}: out of memory on {runtime.device} with this pair alone, of {pieces}; shorten it"

    for number in range(runtime.rank, len(bounds) - 1, runtime.world):
        yield from in_halves(run, order[bounds[number] : bounds[number + 1]].tolist(), too_large)


def _arranged(
    source: Lengths,
    target: Lengths,
    batch_tokens: int,
    lookbacks: Sequence[Lookback | None],
    documents: Documents | None,
) -> tuple[Rows, Rows]:
    """Pairs in the order in which they are read, and the bounds of batches: by length, or document by document."""
    reach = max(0 if lookback is None else lookback.reach for lookback in lookbacks)
    longest = np.maximum(source, target)
    if documents is None or not reach:
        order: Rows = np.lexsort((source, target))
        return order, cut(longest[order], batch_tokens)
    sentences = places(documents)
    order = by_length(longest, sentences)
    stretches = cut_documents(longest[order], np.full(len(order), True), sentences[order], reach, batch_tokens)
    return order, np.asarray([*(stretch.first for stretch in stretches), len(order)])


def log_probabilities(system: System, readouts_NR: Sequence[Tensor], target_N: Tensor) -> Tensor:
    """Log of the mean of the translators' probabilities of each piece [N], as the search averages them.

    Logits exist for a chunk of pieces at a time.
    """
    found = []
    for rows in chunks(len(target_N)):
        parts = [
            torch.log_softmax(translator.projection(readout_NR[rows]).float(), -1).gather(1, target_N[rows, None])
            for translator, readout_NR in zip(system.translators, readouts_NR, strict=True)
        ]
        found.append(torch.logsumexp(torch.cat(parts, 1), 1) - math.log(len(parts)))
    return torch.cat(found)
