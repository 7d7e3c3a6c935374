"""Encoded corpora: tokenized once, stored on disk and memory-mapped."""

from nmt.data.cache.collection import (
    DocumentTokenizer,
    EncodedCollection,
    TokenizedSentence,
    encode_collections,
    known_labels,
)
from nmt.data.cache.columns import Lengths, Ragged, Rows, document_positions, flatten, packed_buckets
from nmt.data.cache.encoding import EncodingReport, WeightedRows
from nmt.data.cache.exclusions import hold_out_documents, hold_out_pairs, leave_out
from nmt.data.cache.pairs import EncodedCorpus, EncodedPairs, encode_corpora, lookup_pairs
