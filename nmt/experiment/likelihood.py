"""How well a system predicts translations that are given.

Shapes: B sentences, T target positions, N target pieces of the batch, padding left out, R readout, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmt.batching import Batch
from nmt.batching.batch import collate
from nmt.batching.plan import cut
from nmt.experiment.loading import System
from nmt.experiment.memory import in_halves
from nmt.kernels.choice import Kernels
from nmt.kernels.cross_entropy import CHUNK
from nmt.runtime import gather_objects
from nmt.text.encoded import flatten
from nmt.training.objective import Losses, Objective, target_rows


@dataclass(frozen=True)
class Loss:
    """Negative log-likelihood of given translations, without label smoothing."""

    total: float
    """Sum over the pieces, in nats."""
    pieces: int
    """Target pieces, the end of each sentence counted."""

    @property
    def per_piece(self) -> float:
        """What training logs as the loss."""
        return self.total / self.pieces

    @property
    def perplexity(self) -> float:
        """Per piece; comparable between systems of one target tokenizer only."""
        return (
            math.exp(self.per_piece) if self.per_piece < 700.0 else math.inf if self.total == self.total else math.nan
        )

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.total + other.total, self.pieces + other.pieces)


def forced_loss(
    system: System, sources: Sequence[str], references: Sequence[str], batch_tokens: int, kernels: Kernels
) -> Loss:
    """The loss of the references, each piece predicted from those before it; the work is shared out to all processes.

    The batches, and so the result, are the same whatever the number of processes. Empty sides count as they are.
    Raises `NmtError` where a pair does not fit into memory.
    """
    tokenizers, runtime = system.tokenizers, system.runtime
    source, target = tokenizers.source.encode(sources), tokenizers.target.encode(references)
    lengths = [np.fromiter(map(len, side), np.int64, len(side)) + 1 for side in (source, target)]
    order = np.lexsort(lengths)
    bounds = cut(np.maximum(*lengths)[order], batch_tokens)

    def work(rows: Sequence[int]) -> float:
        batch = collate(
            flatten([source[row] for row in rows]),
            flatten([target[row] for row in rows]),
            np.asarray(rows),
            tokenizers,
        ).to(runtime.device)
        with torch.inference_mode(), runtime.autocast():
            return float(_negative_log_likelihood(system, batch, kernels))

    def too_large(row: int) -> str:
        pieces = f"{len(source[row])} source and {len(target[row])} target pieces"
        return f"line {row + 1}: out of memory on {runtime.device} with this pair alone, of {pieces}; shorten it"

    mine = [
        total
        for number in range(runtime.rank, len(bounds) - 1, runtime.world)
        for _, total in in_halves(work, order[bounds[number] : bounds[number + 1]].tolist(), too_large)
    ]
    # An exact sum: in which order the processes come does not show in the last digit.
    total = math.fsum(part for share in gather_objects(mine) for part in share)
    return Loss(total, int(lengths[1].sum()))


def _negative_log_likelihood(system: System, batch: Batch, kernels: Kernels) -> Tensor:
    if len(system.translators) == 1:
        losses: Losses = Objective(system.translators[0], kernels, 0.0)(batch)
        return losses.negative_log_likelihood
    return _of_ensemble(system, batch)


def _of_ensemble(system: System, batch: Batch) -> Tensor:
    """-log of the mean of the translators' probabilities, as the search averages them; logits of a chunk at a time."""
    rows_N = target_rows(batch).to(batch.target_BT.device)
    target_N1 = batch.target_BT.flatten()[rows_N].unsqueeze(1)
    readouts = []
    for translator in system.translators:
        encoded = translator.encode(batch.source_BS, batch.source_lengths_B)
        readouts.append(translator.readout(encoded, batch.target_BT)[0].flatten(0, 1)[rows_N])
    total = torch.zeros((), device=rows_N.device)
    for start in range(0, len(rows_N), CHUNK):
        chunk = slice(start, start + CHUNK)
        parts = [
            torch.log_softmax(translator.projection(readout_NR[chunk]).float(), -1).gather(1, target_N1[chunk])
            for translator, readout_NR in zip(system.translators, readouts, strict=True)
        ]
        total -= (torch.logsumexp(torch.stack(parts), 0) - math.log(len(parts))).sum()
    return total
