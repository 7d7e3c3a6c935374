"""Pairs of text -> arrays of ids, chunk by chunk and in order, here or in worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nmt.data.cache.links import EncodedLinks, encode_links
from nmt.data.cache.processes import worked
from nmt.data.cache.ragged import Values, flatten
from nmt.data.readers.base import Counts
from nmt.data.readers.pairs import Corpus
from nmt.data.tokenizer import Tokenizer, TokenizerPair

CHUNK_PAIRS = 2048
CHUNK_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Chunk:
    """Consecutive pairs of one corpus."""

    corpus: int
    sources: list[str]
    targets: list[str]
    lines: list[int]
    alignments: list[str] | None = None
    """None where the corpus has none."""
    documents: list[int] | None = None
    """Number of each pair's document in the corpus; None where it has no documents."""


@dataclass(frozen=True)
class EncodedSide:
    """One side of a chunk: all ids one after the other, and how many belong to each pair."""

    ids: Values
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk as arrays; `hashes` are 64 bits of each pair's text, alignments left out."""

    source: EncodedSide
    target: EncodedSide
    hashes: npt.NDArray[np.uint64]
    alignments: EncodedLinks | None
    """None where the chunk has none."""


def chunks(corpora: Sequence[Corpus], counts: Sequence[Counts]) -> Iterator[Chunk]:
    """The pairs of the corpora, in order, in chunks of bounded size that never span two corpora.

    Each corpus counts what it reads in its own account.
    """
    for index, corpus in enumerate(corpora):
        chunk, characters = _empty_chunk(index, corpus), 0
        for pair in corpus.read(counts[index]):
            chunk.sources.append(pair.source)
            chunk.targets.append(pair.target)
            chunk.lines.append(pair.line)
            if chunk.alignments is not None:
                assert pair.alignment is not None, "a corpus has alignments for all its pairs or for none"
                chunk.alignments.append(pair.alignment)
            if chunk.documents is not None:
                assert pair.document is not None, "a corpus has documents for all its pairs or for none"
                chunk.documents.append(pair.document)
            characters += len(pair.source) + len(pair.target)
            if len(chunk.lines) == CHUNK_PAIRS or characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = _empty_chunk(index, corpus), 0
        if chunk.lines:
            yield chunk


def _empty_chunk(index: int, corpus: Corpus) -> Chunk:
    return Chunk(index, [], [], [], [] if corpus.has_alignments else None, [] if corpus.has_documents else None)


def id_type(tokenizer: Tokenizer) -> npt.DTypeLike:
    """The narrowest type that holds every id of the tokenizer."""
    return np.uint16 if tokenizer.size <= 1 << 16 else np.int32


def encode_chunk(chunk: Chunk, tokenizers: TokenizerPair) -> EncodedChunk:
    """Tokenize a chunk; the one place where text becomes ids for the cache."""
    alignments = chunk.alignments
    return EncodedChunk(
        _encode_side(chunk.sources, tokenizers.source),
        _encode_side(chunk.targets, tokenizers.target),
        np.fromiter(map(_hash, chunk.sources, chunk.targets), np.uint64, len(chunk.lines)),
        None if alignments is None else encode_links(alignments, chunk.sources, chunk.targets, tokenizers),
    )


def encode_chunks(
    stream: Iterable[Chunk], tokenizers: TokenizerPair, workers: int
) -> Iterator[tuple[Chunk, EncodedChunk]]:
    """Tokenize a stream of chunks; the result does not depend on `workers` (0 means one a core)."""
    return worked(stream, encode_chunk, tokenizers, workers)


def _encode_side(lines: list[str], tokenizer: Tokenizer) -> EncodedSide:
    ids, offsets = flatten(tokenizer.encode(lines))
    assert not len(ids) or (ids.min() >= 0 and ids.max() < tokenizer.size), "an id outside the vocabulary"
    return EncodedSide(ids.astype(id_type(tokenizer)), np.diff(offsets))


def _hash(source: str, target: str) -> int:
    # The length keeps ("ab", "c") apart from ("a", "bc").
    text = f"{len(source)} {source}{target}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
