"""Deferred metrics: results of updates stay on the device until they are logged, so that updates never synchronize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmt.data.batching import AnyBatch
from nmt.errors import TrainingError, counted
from nmt.runtime import logger
from nmt.training.metrics_logger import MetricsLogger
from nmt.training.progress import Progress

GPU_FLUSH_INTERVAL = 50
"""Updates between two flushes on a GPU, each of which waits some milliseconds for the launched work."""


@dataclass(frozen=True)
class UpdateMetrics:
    """Metrics of an update. The tensors may not be computed yet."""

    step: int
    epoch: int
    """Counted from 0."""
    batches: Sequence[AnyBatch]
    reported: Tensor
    """The sum of each term over all ranks, [terms]."""
    counts: Sequence[int]
    """The denominator of each term."""
    tokens: int
    learning_rate: float
    gradient_norm: Tensor
    is_finite: Tensor
    """Whether loss and gradient are finite; where not, the update was skipped."""


class DeferredMetrics:
    """Buffers the metrics of updates, passes them to the metrics logger in order, and counts skipped updates.

    On a CPU every update is flushed at once. On a GPU a flush waits for the device, so it happens only where a log line
    is due or after `GPU_FLUSH_INTERVAL` updates.
    """

    def __init__(self, metrics_logger: MetricsLogger, terms: Sequence[str], limit: int, device: torch.device) -> None:
        """`limit` skipped updates in a row are an error."""
        self.flush_interval = 1 if device.type == "cpu" else GPU_FLUSH_INTERVAL
        self._metrics_logger = metrics_logger
        self._terms = terms
        self._limit = limit
        self._buffer: list[UpdateMetrics] = []

    def append(self, update: UpdateMetrics, progress: Progress) -> None:
        """Buffers an update and flushes where it is time, on all ranks at the same update."""
        self._buffer.append(update)
        if len(self._buffer) >= self.flush_interval or update.step % self._metrics_logger.log_every == 0:
            self.flush(progress)

    def flush(self, progress: Progress) -> None:
        """Reads the buffered updates in one transfer, logs them, and counts skipped ones in `progress`.

        Raises `TrainingError` after too many skipped updates in a row.
        """
        if not self._buffer:
            return
        updates, self._buffer = self._buffer, []
        finite: list[bool] = torch.stack([update.is_finite for update in updates]).tolist()
        for update, is_finite in zip(updates, finite, strict=True):
            if is_finite:
                progress.skipped_in_row = 0
                self._metrics_logger.log_update(
                    update.step,
                    update.epoch + 1,
                    sums=dict(zip(self._terms, zip(update.reported, update.counts, strict=True), strict=True)),
                    tokens=update.tokens,
                    learning_rate=update.learning_rate,
                    gradient_norm=update.gradient_norm,
                )
            else:
                self._log_skipped(update, progress)

    def _log_skipped(self, update: UpdateMetrics, progress: Progress) -> None:
        progress.skipped += 1
        progress.skipped_in_row += 1
        sizes = "; ".join(batch.describe() for batch in update.batches)
        rows = "; ".join(batch.describe(with_rows=True) for batch in update.batches)
        logger.warning("update %d skipped: its loss or gradient is not finite (%s)", update.step, sizes)
        logger.debug("update %d had %s of the encoded text", update.step, rows)
        self._metrics_logger.log_event("skipped", update.step, update.epoch + 1, {"batches": rows})
        if progress.skipped_in_row >= self._limit:
            raise TrainingError(
                f"{counted(progress.skipped_in_row, 'update')} in a row had a non-finite loss or gradient, the last "
                f"one with {sizes}; lower training.optimizer.learning_rate, or set runtime.precision to fp32"
            )
