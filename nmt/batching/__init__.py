"""Ids -> padded tensors in token-sized batches; a resumable stream that ranks share out."""

from __future__ import annotations

from nmt.batching.batch import Batch, SourceBatch, pad_sources
from nmt.batching.links import Links
from nmt.batching.past import BatchPast, Lookback, Past
from nmt.batching.stream import BatchStream, Position, Update, validation_batches

__all__ = [
    "Batch",
    "BatchPast",
    "BatchStream",
    "Links",
    "Lookback",
    "Past",
    "Position",
    "SourceBatch",
    "Update",
    "pad_sources",
    "validation_batches",
]
