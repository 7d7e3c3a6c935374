"""How well a system predicts translations that are given.

Shapes: N target pieces of the batch, padding left out, R readout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nmt.data.batching import Batch
from nmt.kernels.choice import Kernels
from nmt.model.in_context import follow
from nmt.runtime import gather_objects
from nmt.tasks.translation.documents import Documents
from nmt.tasks.translation.forcing import in_batches, log_probabilities
from nmt.tasks.translation.loading import System
from nmt.training.objectives import TranslationLosses, TranslationObjective, target_rows


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
    system: System,
    sources: Sequence[str],
    references: Sequence[str],
    batch_tokens: int,
    kernels: Kernels,
    documents: Documents | None = None,
) -> Loss:
    """The loss of the references, each piece predicted from those before it; the work is shared out to all processes.

    The batches, and so the result, are the same whatever the number of processes. Empty sides count as they are. Of
    `documents`, translators with context read the references before a sentence.
    Raises `NmtError` where a pair does not fit into memory.
    """
    source, target = system.tokenizers.source.encode(sources), system.tokenizers.target.encode(references)

    def work(batches: Sequence[Batch]) -> float:
        return float(_negative_log_likelihood(system, batches, kernels))

    numbers = range(1, len(source) + 1)
    mine = [total for _, total in in_batches(system, source, target, batch_tokens, work, numbers, documents)]
    # An exact sum: in which order the processes come does not show in the last digit.
    total = math.fsum(part for share in gather_objects(mine) for part in share)
    return Loss(total, sum(len(ids) + 1 for ids in target))


def _negative_log_likelihood(system: System, batches: Sequence[Batch], kernels: Kernels) -> Tensor:
    if len(system.translators) == 1:
        losses: TranslationLosses = TranslationObjective(system.translators[0], kernels, 0.0)(batches[0])
        return losses.negative_log_likelihood
    readouts_NR = []
    for translator, batch in zip(system.translators, batches, strict=True):
        rows_N = target_rows(batch).to(batch.target_BT.device)
        readouts_NR.append(follow(translator, batch).readout_BTR.flatten(0, 1)[rows_N])
        target_N = batch.target_BT.flatten()[rows_N]
    return -log_probabilities(system, readouts_NR, target_N).sum()
