"""The encoded cache: corpora and collections as ids, tokenized once, memory-mapped."""

from __future__ import annotations

from nmt.text.encoded.cache import encode_corpora, encoded_pairs
from nmt.text.encoded.collection import EncodedCollection, encode_collections
from nmt.text.encoded.corpus import EncodedCorpus, EncodedPairs
from nmt.text.encoded.held_out import hold_out_documents, hold_out_pairs
from nmt.text.encoded.labels import known_labels
from nmt.text.encoded.mapped import Part
from nmt.text.encoded.ragged import Offsets, flatten
from nmt.text.encoded.reading import Reader, ReadSentence
from nmt.text.encoded.report import CollectionReport, CorpusReport, Dropped, EncodingReport, SideReport

__all__ = [
    "CollectionReport",
    "CorpusReport",
    "Dropped",
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
