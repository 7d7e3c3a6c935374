"""Ids -> tensors in token-sized batches, padded pairs and packed documents; resumable streams that ranks share out."""

from __future__ import annotations

from nmt.batching.batch import Batch, SourceBatch, pad_sources
from nmt.batching.documents import DocumentBatch, DocumentStream, documents_batch
from nmt.batching.links import Links
from nmt.batching.past import BatchPast, Lookback, Past
from nmt.batching.stream import BatchStream, Update, validation_batches
from nmt.batching.updates import AnyBatch, Position, UpdateStream

__all__ = [
    "AnyBatch",
    "Batch",
    "BatchPast",
    "BatchStream",
    "DocumentBatch",
    "DocumentStream",
    "Links",
    "Lookback",
    "Past",
    "Position",
    "SourceBatch",
    "Update",
    "UpdateStream",
    "documents_batch",
    "pad_sources",
    "validation_batches",
]
