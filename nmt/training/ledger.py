"""What became of updates: on a GPU the host learns it later than it launches the next ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmt.data.batching import AnyBatch
from nmt.errors import TrainingError, counted
from nmt.runtime import logger
from nmt.training.journal import Journal
from nmt.training.progress import Progress

UPDATES_BETWEEN_LOOKS = 50
"""On a GPU: looking waits for all that has been launched, some milliseconds a time."""


@dataclass(frozen=True)
class Update:
    """An update that was launched. What the device computes stays there until somebody looks."""

    step: int
    epoch: int
    """Counted from 0."""
    batches: Sequence[AnyBatch]
    reported: Tensor
    """The sum of each term on all ranks, [terms]."""
    counts: Sequence[int]
    """What each is divided by."""
    tokens: int
    learning_rate: float
    gradient_norm: Tensor
    is_finite: Tensor
    """Whether loss and gradient are; where not, the update has changed nothing."""


class Ledger:
    """Tells the journal of updates, in their order, and counts those that were skipped.

    On a CPU it looks after every update, for nothing waits there. On a GPU it looks where a line of the log is due, and
    often enough that nobody waits long to hear that training goes wrong: later, but of the same update.
    """

    def __init__(self, journal: Journal, terms: Sequence[str], limit: int, device: torch.device) -> None:
        """`limit` updates in a row that are skipped are an error."""
        self.between_looks = 1 if device.type == "cpu" else UPDATES_BETWEEN_LOOKS
        self._journal = journal
        self._terms = terms
        self._limit = limit
        self._waiting: list[Update] = []

    def add(self, update: Update, progress: Progress) -> None:
        """Take an update down, and look where it is time; all ranks do at the same update."""
        self._waiting.append(update)
        if len(self._waiting) >= self.between_looks or update.step % self._journal.log_every == 0:
            self.look(progress)

    def look(self, progress: Progress) -> None:
        """Read what became of all updates so far, in one transfer; what was skipped is counted in `progress`.

        Raises `TrainingError` at the update that makes it too many in a row.
        """
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        finite: list[bool] = torch.stack([update.is_finite for update in waiting]).tolist()
        for update, is_finite in zip(waiting, finite, strict=True):
            if is_finite:
                progress.skipped_in_row = 0
                self._tell(update)
            else:
                self._skip(update, progress)

    def _tell(self, update: Update) -> None:
        self._journal.update(
            update.step,
            update.epoch + 1,
            sums=dict(zip(self._terms, zip(update.reported, update.counts, strict=True), strict=True)),
            tokens=update.tokens,
            learning_rate=update.learning_rate,
            gradient_norm=update.gradient_norm,
        )

    def _skip(self, update: Update, progress: Progress) -> None:
        progress.skipped += 1
        progress.skipped_in_row += 1
        sizes = "; ".join(batch.describe() for batch in update.batches)
        rows = "; ".join(batch.describe(with_rows=True) for batch in update.batches)
        logger.warning("update %d skipped: its loss or gradient is not finite (%s)", update.step, sizes)
        logger.debug("update %d had %s of the encoded text", update.step, rows)
        self._journal.event("skipped", update.step, update.epoch + 1, {"batches": rows})
        if progress.skipped_in_row >= self._limit:
            raise TrainingError(
                f"{counted(progress.skipped_in_row, 'update')} in a row had a non-finite loss or gradient, the last "
                f"one with {sizes}; lower training.optimizer.learning_rate, or set runtime.precision to fp32"
            )
