"""Builds the columns of an encoded corpus: ids, text, documents and word links.

A pair that is dropped from a document stays as context of others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmt.config.schema import FiltersConfig
from nmt.data.cache.columns import (
    Columns,
    GrowingColumns,
    Lengths,
    Mask,
    Ragged,
    Rows,
    Values,
    document_positions,
    flatten,
    offsets_of,
    row_blocks,
    write_arrow,
)
from nmt.data.cache.encoding import (
    Chunk,
    DocumentsReport,
    EncodingReport,
    encode_chunks,
    encode_ids,
    read_chunks,
    refuse_empty,
    side_report,
)
from nmt.data.readers.base import HELD_OUT, LISTED_LINES, Counts
from nmt.data.readers.corpora import Corpus, Pair
from nmt.data.tokenizer import Tokenizer, TokenizerPair, count_words, words_of_spans
from nmt.errors import DataError

IS_PAIR, POSITION = "pair", "sentence"
"""Columns: whether a row is a pair to train on, 1 or 0, and its position in its document, from 0."""
LINKS, SOURCE_WORDS, TARGET_WORDS = "links", "source_words", "target_words"
"""Columns: the source and the target word of each link in turn, and the word of each piece of either side. Pairs
without links have nothing in any of them."""
WORD_TYPE = np.uint16
"""Of the numbers of words."""
MOST_WORDS = 1 << 16
_LINK = re.compile(r"(\d+)-(\d+)", re.ASCII)
CHUNK_PAIRS = 2048

EMPTY_SIDE = "empty side"
TOO_LONG = "too long"
RATIO = "length ratio"
DUPLICATE = "duplicate"


@dataclass(frozen=True)
class PairTools:
    """Turns pairs of text into columns."""

    tokenizers: TokenizerPair
    with_text: bool
    with_links: bool


def encode_pairs(chunk: Chunk[Pair], tools: PairTools) -> tuple[Columns, list[tuple[int, str]]]:
    """Returns the columns of a chunk of pairs, and the row and fault of each faulty alignment."""
    sources, targets = [pair.source for pair in chunk.rows], [pair.target for pair in chunk.rows]
    tokenizers = tools.tokenizers
    problems: list[tuple[int, str]] = []
    ragged = {
        "source": encode_ids(tokenizers.source.encode(sources), tokenizers.source),
        "target": encode_ids(tokenizers.target.encode(targets), tokenizers.target),
    }
    if tools.with_text:
        ragged |= {"source_text": _utf8(sources), "target_text": _utf8(targets)}
    if tools.with_links:
        alignments = [pair.alignment or "" for pair in chunk.rows]
        links, problems = encode_links(alignments, sources, targets, tokenizers)
        ragged |= links
    flat: dict[str, Values] = {
        "corpus": np.full(len(chunk.rows), chunk.text, np.uint16),
        "line": np.asarray([pair.line for pair in chunk.rows], np.int64),
        "hash": np.fromiter(map(_hash, sources, targets), np.uint64, len(chunk.rows)),
    }
    return Columns(flat, ragged), problems


def build_pairs(
    corpora: Sequence[Corpus],
    tokenizers: TokenizerPair,
    filters: FiltersConfig | None,
    workers: int,
    keep_text: bool,
    scratch: Path,
    file: Path,
) -> EncodingReport:
    """Writes the columns of the corpora into a file; the caller removes the folder `scratch`.

    Raises DataError if a corpus cannot be read, a pair is refused, or nothing of a corpus is left.
    """
    counts = [Counts(corpus.name) for corpus in corpora]
    positions = DocumentPositions() if any(corpus.has_documents for corpus in corpora) else None
    tools = PairTools(tokenizers, keep_text, any(corpus.has_alignments for corpus in corpora))
    chunks = read_chunks(corpora, counts, CHUNK_PAIRS, lambda pair: len(pair.source) + len(pair.target))
    growing, problems = GrowingColumns(scratch / "all"), []
    with closing(encode_chunks(chunks, encode_pairs, tools, workers, " pairs")) as encoded:
        for chunk, (added, faults) in encoded:
            corpus = corpora[chunk.text]
            keep = is_pair = _filter(chunk, added, corpus, counts[chunk.text], filters)
            for row, fault in faults:
                problems.append(f"{corpus.location(chunk.rows[row].line, 'alignment')}: {fault}")
            if len(problems) >= LISTED_LINES:
                break
            if positions is not None:
                if corpus.has_documents:  # All sentences with a source stay.
                    keep = is_pair | (np.diff(added.ragged["source"].offsets) > 0)
                added.flat.update({IS_PAIR: is_pair.astype(np.uint8), POSITION: positions.of(chunk, keep)})
            growing.append(added, keep)
    if problems:
        raise DataError(*problems[:LISTED_LINES])
    columns, duplicates = growing.mapped(), 0
    if columns.flat:
        first = first_occurrences(columns.flat.pop("hash"), scratch, is_pair=columns.flat.get(IS_PAIR))
        duplicates = len(first) - int(np.count_nonzero(first))
        if duplicates and filters is not None and filters.duplicates == "drop":
            columns = _without_duplicates(columns, first, corpora, counts, scratch / "kept")
    refuse_empty(counts, "pair")
    write_arrow(file, columns)
    include = columns.flat.get(IS_PAIR)
    return EncodingReport(
        corpora=tuple(counts),
        duplicates=duplicates,
        aligned=_count_filled(columns.ragged[LINKS], include) if tools.with_links else None,
        source=side_report(columns.ragged["source"], tokenizers.source.unk, include),
        target=side_report(columns.ragged["target"], tokenizers.target.unk, include),
        documents=None if include is None else _documents_report(columns.flat[POSITION], include),
    )


class DocumentPositions:
    """Numbers the rows of each document across chunks. Without documents each pair is a document by itself."""

    def __init__(self) -> None:
        self._last = (-1, -1)
        self._count = 0

    def of(self, chunk: Chunk[Pair], keep: Mask) -> npt.NDArray[np.int32]:
        """Returns the position of each row that is kept, from 0, in its document. The chunks come in order."""
        positions = np.zeros(len(keep), np.int32)
        documents = [pair.document for pair in compress(chunk.rows, keep) if pair.document is not None]
        if documents:
            kept = document_positions(documents)
            if self._last == (chunk.text, documents[0]):
                # The first document of the chunk began in the one before.
                kept[kept == np.arange(len(kept))] += self._count
            self._last, self._count = (chunk.text, documents[-1]), int(kept[-1]) + 1
            positions[keep] = kept
        return positions


def _utf8(texts: Sequence[str]) -> Ragged:
    encoded = [text.encode() for text in texts]
    return Ragged(np.frombuffer(b"".join(encoded), np.uint8), offsets_of([len(text) for text in encoded]))


def _hash(source: str, target: str) -> int:
    """64 bits of a pair's text."""
    # The length keeps ("ab", "c") apart from ("a", "bc").
    text = f"{len(source)} {source}{target}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def reasons_to_drop(source_lengths: Lengths, target_lengths: Lengths, filters: FiltersConfig) -> dict[str, Mask]:
    """Marks the pairs to drop, by the first reason that applies; lengths are in pieces, without an end symbol."""
    empty = np.minimum(source_lengths, target_lengths) == 0
    reasons = length_reasons(source_lengths, target_lengths, filters)
    return {EMPTY_SIDE: empty} | {reason: ~empty & mask for reason, mask in reasons.items()}


def length_reasons(source_lengths: Lengths, target_lengths: Lengths, filters: FiltersConfig) -> dict[str, Mask]:
    """Marks the pairs that are too long or have too different lengths; a pair with an empty side has no ratio."""
    shorter = np.minimum(source_lengths, target_lengths)
    longer = np.maximum(source_lengths, target_lengths)
    too_long = longer > filters.max_length
    return {TOO_LONG: too_long, RATIO: ~too_long & (shorter > 0) & (longer > filters.max_ratio * shorter)}


def _filter(
    chunk: Chunk[Pair], columns: Columns, corpus: Corpus, counts: Counts, filters: FiltersConfig | None
) -> Mask:
    """Marks the pairs of a chunk to train on, and counts the others."""
    keep, lines = np.ones(len(chunk.rows), np.bool_), columns.flat["line"]

    def drop(reason: str, rows: Mask) -> None:
        counts.drop(reason, lines[rows].tolist())
        keep[rows] = False

    reasons = [pair.left_out for pair in chunk.rows]
    for reason in dict.fromkeys(filter(None, reasons)):
        drop(reason, np.asarray([each == reason for each in reasons]))
    if filters is not None:
        source, target = (np.diff(columns.ragged[side].offsets) for side in ("source", "target"))
        for reason, dropped in reasons_to_drop(source, target, filters).items():
            mask = dropped & keep
            if reason == EMPTY_SIDE and filters.empty == "error" and mask.any():
                sides = np.where(source[mask] == 0, "source", "target").tolist()
                raise DataError(
                    *(
                        f"{corpus.location(line, side)}: the {side} side is empty; mend it, or set "
                        "data.filters.empty: drop"
                        for line, side in zip(lines[mask][:LISTED_LINES].tolist(), sides, strict=False)
                    )
                )
            drop(reason, mask)
    if corpus.has_documents and corpus.held_out is not None:
        drop(HELD_OUT, keep & np.asarray([corpus.held_out.has(pair.source) for pair in chunk.rows]))
    counts.kept += int(keep.sum())
    return keep


def first_occurrences(hashes: Values, folder: Path, part_rows: int = 1 << 22, is_pair: Values | None = None) -> Mask:
    """Marks the pairs whose hash no earlier pair has, in an array in a file of the folder.

    Rows that are no pairs, 0 in `is_pair`, are marked and repeat nothing.

    Two different pairs share 64 bits with probability n**2 / 2**65: one in 3,700 for a hundred million pairs. Equal
    hashes have equal remainders, and those of one remainder, about `part_rows`, are sorted at a time.
    """
    if not len(hashes):
        return np.empty(0, np.bool_)
    first = np.memmap(folder / "first", np.bool_, mode="w+", shape=(len(hashes),))
    first[:] = True
    parts = -(-len(hashes) // part_rows)
    for part in range(parts):
        rows = np.concatenate([*_rows_of_part(hashes, is_pair, part, parts, part_rows)])
        # Stable: equal hashes stay in the order of their rows.
        rows = rows[np.argsort(hashes[rows], kind="stable")]
        hashed = hashes[rows]
        first[rows[1:][hashed[1:] == hashed[:-1]]] = False
    return first


def _rows_of_part(hashes: Values, is_pair: Values | None, part: int, parts: int, block: int) -> Iterator[Rows]:
    for start in range(0, len(hashes), block):
        mine = hashes[start : start + block] % np.uint64(parts) == part
        yield start + np.flatnonzero(mine if is_pair is None else mine & (is_pair[start : start + block] != 0))


def _without_duplicates(
    columns: Columns, first: Mask, corpora: Sequence[Corpus], counts: Sequence[Counts], folder: Path
) -> Columns:
    """Drops the rows that `first` does not mark, and counts them. In documents they stay as context."""
    documented = np.asarray([corpus.has_documents for corpus in corpora])
    kept = GrowingColumns(folder)
    for rows in row_blocks(len(first)):
        block, keep = columns.block(rows), first[rows]
        owner, lines = block.flat["corpus"], block.flat["line"]
        for number in np.unique(owner[~keep]).tolist():
            dropped = lines[~keep & (owner == number)].tolist()
            counts[number].drop(DUPLICATE, dropped)
            counts[number].kept -= len(dropped)
        if IS_PAIR in block.flat:
            block.flat[IS_PAIR] = block.flat[IS_PAIR] * keep
            keep = keep | documented[owner]
        kept.append(block, keep)
    return kept.mapped()


def _documents_report(positions: Values, is_pair: Values) -> DocumentsReport:
    return DocumentsReport(
        count=len(positions) - int(np.count_nonzero(positions)),
        sentences=len(positions),
        longest=int(positions.max()) + 1,
        context_alone=len(positions) - int(np.count_nonzero(is_pair)),
    )


def _count_filled(column: Ragged, is_pair: Values | None) -> int:
    """The number of pairs that have something in this column."""
    filled = 0
    for rows in row_blocks(len(column.offsets) - 1):
        lengths = np.diff(column.block(rows).offsets)
        filled += int(np.count_nonzero(lengths if is_pair is None else lengths * is_pair[rows]))
    return filled


# Word alignments in the Pharaoh format


def encode_links(
    alignments: Sequence[str], sources: Sequence[str], targets: Sequence[str], tokenizers: TokenizerPair
) -> tuple[dict[str, Ragged], list[tuple[int, str]]]:
    """Returns the columns of the alignments of these pairs, and the row and fault of each one that is faulty."""
    links: list[list[int]] = []
    problems: list[tuple[int, str]] = []
    for row, (alignment, source, target) in enumerate(zip(alignments, sources, targets, strict=True)):
        try:
            links.append(parse_links(alignment, count_words(source), count_words(target)) if alignment else [])
        except ValueError as error:
            links.append([])
            problems.append((row, str(error)))

    def words(texts: Sequence[str], tokenizer: Tokenizer) -> Ragged:
        return flatten(
            [words_of(text, tokenizer) if linked else [] for text, linked in zip(texts, links, strict=True)], WORD_TYPE
        )

    columns = {
        LINKS: flatten(links, WORD_TYPE),
        SOURCE_WORDS: words(sources, tokenizers.source),
        TARGET_WORDS: words(targets, tokenizers.target),
    }
    return columns, problems


def parse_links(alignment: str, source_words: int, target_words: int) -> list[int]:
    """Returns the source and the target word of each link of `0-0 2-1`, in turn; a repeated link counts once.

    Raises ValueError if it is not in this format, or a link lies outside of a pair of so many words.
    """
    links: dict[tuple[int, int], None] = {}
    for text in alignment.split():
        match = _LINK.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a link such as 0-0")
        source, target = int(match[1]), int(match[2])
        if source >= source_words or target >= target_words:
            raise ValueError(
                f"{text} is outside of the pair of {source_words} source and {target_words} target words, which count "
                "from 0; words are what spaces separate in the text as it stands, before any tokenizer"
            )
        links[source, target] = None
    if links and max(source_words, target_words) > MOST_WORDS:
        raise ValueError(f"a pair of more than {MOST_WORDS:,} words cannot have links; leave the line blank")
    return [word for link in links for word in link]


def words_of(text: str, tokenizer: Tokenizer) -> list[int]:
    """Returns the word of each piece of the text, in ascending order."""
    return words_of_spans(text, tokenizer.spans(text))
