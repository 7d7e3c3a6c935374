"""Ids -> tensors in token-sized batches, padded pairs and packed documents; resumable streams that ranks share out."""

from __future__ import annotations

from nmt.data.batching.batch import Batch, SourceBatch, pad_sources
from nmt.data.batching.documents import DocumentBatch, DocumentStream, documents_batch
from nmt.data.batching.links import Links
from nmt.data.batching.past import BatchPast, Lookback, Past
from nmt.data.batching.stream import BatchStream, Update, validation_batches
from nmt.data.batching.updates import AnyBatch, Position, UpdateStream

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
