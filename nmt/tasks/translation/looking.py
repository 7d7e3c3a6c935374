"""Where a system looks while it is made to say given translations.

Shapes: B sentences, T target positions, S source positions, N heads or target pieces of the batch, padding left out,
R readout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nmt.data.batching import Batch
from nmt.errors import CheckpointError, ConfigError
from nmt.model.attention import AttentionWeights
from nmt.model.in_context import follow
from nmt.runtime import gather_objects
from nmt.tasks.translation.documents import Documents
from nmt.tasks.translation.forcing import Ids, in_batches, log_probabilities
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.translation import encode_lines
from nmt.training.objectives import target_rows
from nmt.visualization.attention_map import AttentionMap

Advance = Callable[[int], object]


def look(
    system: System,
    sources: Sequence[str],
    targets: Sequence[str],
    batch_tokens: int,
    max_length: int | None = None,
    first_line: int = 1,
    advance: Advance | None = None,
) -> list[AttentionMap | None]:
    """Where the system looks while it translates each source into its target; None for a pair with an empty side.

    Several processes share the batches out and all get all results, the same as one process would.

    Args:
        system: what translates. Of several translators, the weights are the mean of those that have attention.
        sources, targets: text without line ends, as many of one as of the other.
        batch_tokens: bound of pairs x longest side of a batch, ends included.
        max_length: pieces after which either side is cut off, with a warning; None takes every pair whole.
        first_line: number of the first pair, for messages.
        advance: told how many pairs are done since it was last called; with several processes, of its own share.

    Raises:
        ConfigError: no translator has attention.
        CheckpointError: a pair has no finite probability.
        NmtError: a pair does not fit into memory.
    """
    assert len(sources) == len(targets), "a source and a target make a pair"
    tokenizers = system.tokenizers
    _, source = encode_lines(tokenizers.source, sources, max_length, first_line, ", source")
    _, target = encode_lines(tokenizers.target, targets, max_length, first_line, ", target")
    rows = [row for row in range(len(source)) if source[row] and target[row]]
    if advance is not None:
        advance(len(source) - len(rows))
    looks = look_at_pieces(
        system,
        [source[row] for row in rows],
        [target[row] for row in rows],
        batch_tokens,
        [first_line + row for row in rows],
        advance,
    )
    found: list[AttentionMap | None] = [None] * len(source)
    for row, one in zip(rows, looks, strict=True):
        found[row] = replace(one, source=sources[row], target=targets[row])
    return found


def look_at_pieces(
    system: System,
    sources: Ids,
    targets: Ids,
    batch_tokens: int,
    lines: Sequence[int] | None = None,
    advance: Advance | None = None,
    documents: Documents | None = None,
) -> list[AttentionMap]:
    """The same for pieces as a search gives them, without end symbols; an empty side is its end symbol alone.

    Text is what the pieces decode to. `lines` are the numbers by which messages call the pairs, by default from 1. Of
    `documents`, translators with context see the pairs before a pair.
    """
    assert len(sources) == len(targets), "a source and a target make a pair"
    lines = lines or range(1, len(sources) + 1)

    def work(batches: Sequence[Batch]) -> list[AttentionMap]:
        rows = batches[0].rows
        looks = list(_looks(system, batches, [sources[row] for row in rows], [targets[row] for row in rows]))
        for row, one in zip(rows, looks, strict=True):
            # Weights that are not finite are refused when a model is loaded; large ones overflow here.
            if not (math.isfinite(one.log_probability) and np.isfinite(one.weights_NTS).all()):
                raise CheckpointError(
                    f"line {lines[row]}: the model gives no finite probability to this pair; use an earlier checkpoint"
                )
        return looks

    mine: dict[int, AttentionMap] = {}
    for rows, looks in in_batches(system, sources, targets, batch_tokens, work, lines, documents):
        mine.update(zip(rows, looks, strict=True))
        if advance is not None:
            advance(len(rows))
    found = {row: one for share in gather_objects(mine) for row, one in share.items()}
    return [found[row] for row in range(len(sources))]


def _looks(system: System, batches: Sequence[Batch], sources: Ids, targets: Ids) -> Iterator[AttentionMap]:
    readouts_NR: list[Tensor] = []
    attending: list[AttentionWeights] = []
    for translator, batch in zip(system.translators, batches, strict=True):
        rows_N = target_rows(batch).to(batch.target_BT.device)
        target_N = batch.target_BT.flatten()[rows_N]
        readout_BTR, weights, *_ = follow(translator, batch)
        readouts_NR.append(readout_BTR.flatten(0, 1)[rows_N])
        if weights is not None:
            attending.append(weights)
    if not attending:
        raise ConfigError("model.attention: no model has attention to look at; choose one that has")
    totals_B = _sums(log_probabilities(system, readouts_NR, target_N), batch).tolist()
    alone = attending[0] if len(system.translators) == 1 else None
    weights_BTNS = alone.dense() if alone else _mean(attending, sources, targets)
    # One transfer for the batch, not one for each sentence.
    weights_BNTS = weights_BTNS.transpose(1, 2).float().cpu().numpy()
    centers_BNT = None
    if alone is not None and alone.centers_BQN is not None:
        centers_BNT = alone.centers_BQN.transpose(1, 2).float().cpu().numpy()
    tokenizers = system.tokenizers
    texts = zip(tokenizers.source.decode(sources), tokenizers.target.decode(targets), strict=True)
    for row, (source, target) in enumerate(texts):
        positions = len(targets[row]) + 1
        yield AttentionMap(
            source=source,
            target=target,
            source_pieces=tuple(tokenizers.source.pieces(sources[row])),
            target_pieces=tuple(tokenizers.target.pieces(targets[row])),
            # Copies, so that a short sentence does not hold on to the padding of its batch.
            weights_NTS=weights_BNTS[row, :, :positions, : len(sources[row]) + 1].copy(),
            centers_NT=None if centers_BNT is None else centers_BNT[row, :, :positions].copy(),
            half_width=alone.half_width if alone else None,
            log_probability=totals_B[row],
        )


def _mean(attending: Sequence[AttentionWeights], sources: Ids, targets: Ids) -> Tensor:
    """[B, T, 1, S] the mean over translators, which may have read longer sentences beside, as context."""
    pairs, positions = len(sources), [max(map(len, side)) + 1 for side in (targets, sources)]
    return torch.stack([weights.mean()[:pairs, : positions[0], : positions[1]] for weights in attending]).mean(0)[
        :, :, None
    ]


def _sums(values_N: Tensor, batch: Batch) -> Tensor:
    """[B] sums over the pieces of each pair's target."""
    lengths_B = batch.target_lengths_B[: batch.pairs]
    sentence_N = torch.repeat_interleave(torch.arange(batch.pairs), lengths_B).to(values_N.device)
    return values_N.new_zeros(batch.pairs).index_add(0, sentence_N, values_N)
