"""Corpora: aligned sentences from files and data sets of several kinds."""

from __future__ import annotations

from nmt.data.readers import huggingface, jsonlines, parquet, tables, text
from nmt.data.readers.base import CORPORA, Corpus, CorpusOptions, Pair, open_corpora, open_corpus
from nmt.data.readers.counts import Counts
from nmt.data.readers.files import iterate_lines, read_lines

__all__ = [
    "CORPORA",
    "Corpus",
    "CorpusOptions",
    "Counts",
    "Pair",
    "huggingface",
    "iterate_lines",
    "jsonlines",
    "open_corpora",
    "open_corpus",
    "parquet",
    "read_lines",
    "tables",
    "text",
]
