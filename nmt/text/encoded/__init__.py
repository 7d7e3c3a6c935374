"""The encoded cache: corpora as ids, tokenized once, memory-mapped."""

from __future__ import annotations

from nmt.text.encoded.cache import encode_corpora
from nmt.text.encoded.corpus import EncodedCorpus, Part
from nmt.text.encoded.ragged import flatten
from nmt.text.encoded.report import CorpusReport, Dropped, EncodingReport, SideReport

__all__ = [
    "CorpusReport",
    "Dropped",
    "EncodedCorpus",
    "EncodingReport",
    "Part",
    "SideReport",
    "encode_corpora",
    "flatten",
]
