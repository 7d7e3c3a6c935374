"""Labelled documents: collections of them from files of several kinds, and text as sentences."""

from __future__ import annotations

from nmt.data.labelled import jsonlines, tables, text
from nmt.data.labelled.base import (
    COLLECTIONS,
    Collection,
    CollectionOptions,
    Document,
    labels_of,
    one_line,
    open_collection,
    open_collections,
    unknown_label,
)
from nmt.data.labelled.sentences import SEPARATOR, Splitter

__all__ = [
    "COLLECTIONS",
    "SEPARATOR",
    "Collection",
    "CollectionOptions",
    "Document",
    "Splitter",
    "jsonlines",
    "labels_of",
    "one_line",
    "open_collection",
    "open_collections",
    "tables",
    "text",
    "unknown_label",
]
