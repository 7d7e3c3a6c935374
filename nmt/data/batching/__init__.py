"""Token-sized batches of padded pairs and packed documents.

Streams of batches are seeded, sharded over processes and resumable.
"""

from nmt.data.batching.document_context import BatchContext, DocumentContext, PreviousSentences
from nmt.data.batching.labelled_batches import DocumentBatch, DocumentStream, documents_batch
from nmt.data.batching.pair_batches import Batch, BatchStream, Links
from nmt.data.batching.update_stream import AnyBatch, Position, UpdateStream
