"""Token-sized batches of padded pairs and packed documents.

Streams of batches are seeded, sharded over processes and resumable.
"""

from __future__ import annotations

from nmt.data.batching.document_context import BatchContext, DocumentContext, PreviousSentences
from nmt.data.batching.labelled_batches import DocumentBatch, DocumentStream, documents_batch
from nmt.data.batching.pair_batches import Batch, BatchStream, Links, SourceBatch, pad_sources
from nmt.data.batching.update_stream import AnyBatch, Position, UpdateStream

__all__ = [
    "AnyBatch",
    "Batch",
    "BatchContext",
    "BatchStream",
    "DocumentBatch",
    "DocumentContext",
    "DocumentStream",
    "Links",
    "Position",
    "PreviousSentences",
    "SourceBatch",
    "UpdateStream",
    "documents_batch",
    "pad_sources",
]
