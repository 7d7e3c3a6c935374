"""The encoded cache: corpora and collections as ids, tokenized once, memory-mapped."""

from __future__ import annotations

from nmt.data.cache.cache import encode_corpora, encoded_pairs
from nmt.data.cache.collection import EncodedCollection, encode_collections
from nmt.data.cache.corpus import EncodedCorpus, EncodedPairs
from nmt.data.cache.held_out import hold_out_documents, hold_out_pairs
from nmt.data.cache.labels import known_labels
from nmt.data.cache.mapped import Part
from nmt.data.cache.ragged import Offsets, flatten
from nmt.data.cache.reading import Reader, ReadSentence
from nmt.data.cache.report import CollectionReport, CorpusReport, EncodingReport, SideReport

__all__ = [
    "CollectionReport",
    "CorpusReport",
    "EncodedCollection",
    "EncodedCorpus",
    "EncodedPairs",
    "EncodingReport",
    "Offsets",
    "Part",
    "ReadSentence",
    "Reader",
    "SideReport",
    "encode_collections",
    "encode_corpora",
    "encoded_pairs",
    "flatten",
    "hold_out_documents",
    "hold_out_pairs",
    "known_labels",
]
