"""Corpora -> one Arrow file of ids, in memory that does not grow with them.

The columns grow in raw files, are memory-mapped when they are complete, and go into the Arrow file as one record batch,
so that each is one contiguous array there.

A pair that is left out of a document stays as a sentence: it is no pair to learn from, but what others have as context.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from nmt.config.schema import FiltersConfig
from nmt.data.cache.columns import (
    FlatColumn,
    Mask,
    RaggedColumn,
    arrow_flat,
    arrow_lists,
    arrow_texts,
    flat_kept,
    ragged_kept,
)
from nmt.data.cache.documents import COLUMNS as DOCUMENT_COLUMNS
from nmt.data.cache.documents import PAIR, SENTENCE, Documents, documents_report, leave_out
from nmt.data.cache.duplicates import first_occurrences
from nmt.data.cache.filtering import DUPLICATE, EMPTY, reasons_to_drop
from nmt.data.cache.links import COLUMNS, POSITION, EncodedLinks, no_links
from nmt.data.cache.ragged import BLOCK, Offsets, Values, blocks_of_lengths, count_equal
from nmt.data.cache.report import CorpusReport, EncodingReport, SideReport
from nmt.data.cache.tokenization import Chunk, EncodedChunk, chunks, encode_chunks, id_type
from nmt.data.readers.base import HELD_OUT, LISTED_LINES, Counts
from nmt.data.readers.pairs import Corpus
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import DataError

_BLOCK_ROWS = 1 << 18


def build(
    corpora: Sequence[Corpus],
    tokenizers: TokenizerPair,
    filters: FiltersConfig | None,
    workers: int,
    keep_text: bool,
    scratch: Path,
    arrow: Path,
) -> EncodingReport:
    """Encode the corpora into the file `arrow`; `scratch` is a folder for the raw columns, left to the caller.

    Raises DataError where a corpus cannot be read, a pair is refused, or nothing of a corpus is left.
    """
    counts = [Counts() for _ in corpora]
    with ExitStack() as files:
        ragged = {"source": RaggedColumn(scratch, "source", id_type(tokenizers.source), files)}
        ragged["target"] = RaggedColumn(scratch, "target", id_type(tokenizers.target), files)
        if keep_text:
            for name in ("source_text", "target_text"):
                ragged[name] = RaggedColumn(scratch, name, np.uint8, files)
        aligned = any(corpus.has_alignments for corpus in corpora)
        documents = Documents() if any(corpus.has_documents for corpus in corpora) else None
        if aligned:
            ragged |= {name: RaggedColumn(scratch, name, POSITION, files) for name in COLUMNS}
        wrong: list[str] = []
        flat_types: dict[str, type[np.generic]] = {"corpus": np.uint16, "line": np.int64, "hash": np.uint64}
        if documents is not None:
            flat_types |= DOCUMENT_COLUMNS
        flat = {name: FlatColumn(scratch / name, dtype, files) for name, dtype in flat_types.items()}
        # Closed at once where a pair is refused, because worker processes hang on it.
        stream = files.enter_context(closing(_shown(encode_chunks(chunks(corpora, counts), tokenizers, workers))))
        for chunk, encoded in stream:
            pairs = _judge(chunk, encoded, corpora[chunk.corpus], counts[chunk.corpus], filters)
            keep = pairs
            if documents is not None:
                keep = documents.stay(chunk, encoded, pairs)
                flat[PAIR].append(pairs[keep])
                flat[SENTENCE].append(documents.sentences(chunk, keep))
            for name, side in (("source", encoded.source), ("target", encoded.target)):
                ragged[name].append(side.ids, side.lengths, keep)
            if keep_text:
                ragged["source_text"].append(*_utf8(chunk.sources), keep)
                ragged["target_text"].append(*_utf8(chunk.targets), keep)
            if aligned:
                alignments = encoded.alignments or no_links(len(chunk.lines))
                wrong += _wrong_alignments(alignments, chunk, corpora[chunk.corpus])
                if len(wrong) >= LISTED_LINES:
                    break
                for name, rows in alignments.columns().items():
                    ragged[name].append(rows.values, rows.lengths, keep)
            flat["corpus"].append(np.full(keep.sum(), chunk.corpus))
            flat["line"].append(np.asarray(chunk.lines)[keep])
            flat["hash"].append(encoded.hashes[keep])
        if wrong:
            raise DataError(*wrong[:LISTED_LINES])
        ragged_values = {name: column.close() for name, column in ragged.items()}
        flat_values = {name: column.close() for name, column in flat.items()}
    first = first_occurrences(flat_values.pop("hash"), scratch, pairs=flat_values.get(PAIR))
    duplicates = len(first) - int(np.count_nonzero(first))
    if duplicates and filters is not None and filters.duplicates == "drop":
        _count_duplicates(first, flat_values["corpus"], flat_values["line"], counts)
        if documents is not None:
            documented = np.asarray([corpus.has_documents for corpus in corpora])
            pairs_left = scratch / f"{PAIR}.left"
            flat_values[PAIR] = leave_out(first, flat_values[PAIR], documented, flat_values["corpus"], pairs_left)
        ragged_values = {
            name: ragged_kept(*column, first, scratch, f"{name}.kept") for name, column in ragged_values.items()
        }
        flat_values = {name: flat_kept(column, first, scratch / f"{name}.kept") for name, column in flat_values.items()}
    _refuse_empty(corpora, counts)
    mask = flat_values.get(PAIR)
    _write(arrow, ragged_values, flat_values)
    return EncodingReport(
        corpora=tuple(CorpusReport.of(corpus.name, count) for corpus, count in zip(corpora, counts, strict=True)),
        duplicates=duplicates,
        aligned=_count_filled(ragged_values["links"][1], mask) if aligned else None,
        source=_side_report(*ragged_values["source"], mask, tokenizers.source.unk),
        target=_side_report(*ragged_values["target"], mask, tokenizers.target.unk),
        documents=None if mask is None else documents_report(flat_values[SENTENCE], mask),
    )


def _judge(chunk: Chunk, encoded: EncodedChunk, corpus: Corpus, counts: Counts, filters: FiltersConfig | None) -> Mask:
    """Which pairs of a chunk to keep, all decisions counted."""
    keep = np.ones(len(chunk.lines), np.bool_)
    if filters is not None:
        for reason, mask in reasons_to_drop(encoded.source.lengths, encoded.target.lengths, filters).items():
            if reason == EMPTY and filters.empty == "error" and mask.any():
                raise DataError(*_empty_sides(np.flatnonzero(mask)[:LISTED_LINES], chunk, encoded, corpus))
            counts.drop(reason, np.asarray(chunk.lines)[mask].tolist())
            keep &= ~mask
    if corpus.has_documents and corpus.held_out is not None:
        known = np.fromiter(map(corpus.held_out.has, chunk.sources), np.bool_, len(chunk.sources)) & keep
        counts.drop(HELD_OUT, np.asarray(chunk.lines)[known].tolist())
        keep &= ~known
    counts.kept += int(keep.sum())
    return keep


def _empty_sides(rows: npt.NDArray[np.intp], chunk: Chunk, encoded: EncodedChunk, corpus: Corpus) -> Iterator[str]:
    for row in rows:
        side = "source" if encoded.source.lengths[row] == 0 else "target"
        location = corpus.location(chunk.lines[row], "source" if side == "source" else "target")
        yield f"{location}: the {side} side is empty; mend it, or set data.filters.empty: drop"


def _wrong_alignments(alignments: EncodedLinks, chunk: Chunk, corpus: Corpus) -> list[str]:
    return [f"{corpus.location(chunk.lines[row], 'alignment')}: {problem}" for row, problem in alignments.problems]


def _count_duplicates(first: Mask, owners: Values, lines: Values, counts: Sequence[Counts]) -> None:
    for start in range(0, len(first), BLOCK):
        rows = start + np.flatnonzero(~first[start : start + BLOCK])
        owner = owners[rows]
        for number in np.unique(owner).tolist():
            dropped = lines[rows[owner == number]].tolist()
            counts[number].drop(DUPLICATE, dropped)
            counts[number].kept -= len(dropped)


def _refuse_empty(corpora: Sequence[Corpus], counts: Sequence[Counts]) -> None:
    problems = []
    for corpus, count in zip(corpora, counts, strict=True):
        if not count.read:
            problems.append(f"{corpus.name}: has no pairs")
        elif not count.kept:
            left_out = CorpusReport.of(corpus.name, count).dropped_text()
            problems.append(f"{corpus.name}: nothing is left of {count.read:,} pairs, see data.filters: {left_out}")
    if problems:
        raise DataError(*problems)


def _utf8(texts: Sequence[str]) -> tuple[Values, npt.NDArray[np.int64]]:
    encoded = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return np.frombuffer(b"".join(encoded), np.uint8), lengths


def _side_report(ids: Values, offsets: Offsets, pairs: Values | None, unknown: int) -> SideReport:
    """Of the sentences that are pairs, all of them without `pairs`; a block of rows at a time."""
    pieces = counted = longest = 0
    for start in range(0, len(offsets) - 1, _BLOCK_ROWS):
        bounds = offsets[start : start + _BLOCK_ROWS + 1]
        lengths, block = np.diff(bounds), ids[bounds[0] : bounds[-1]]
        if pairs is not None:
            keep = pairs[start : start + _BLOCK_ROWS].astype(np.bool_)
            lengths, block = lengths[keep], block[np.repeat(keep, lengths)]
        pieces += len(block)
        counted += count_equal(block, unknown)
        longest = max(longest, int(lengths.max(initial=0)))
    return SideReport(pieces, counted, longest)


def _count_filled(offsets: Offsets, pairs: Values | None) -> int:
    """Pairs that have something in this column."""
    filled = 0
    for start, lengths in enumerate(blocks_of_lengths(offsets)):
        block = slice(start * BLOCK, start * BLOCK + len(lengths))
        filled += int(np.count_nonzero(lengths if pairs is None else lengths * pairs[block]))
    return filled


def _write(path: Path, ragged: dict[str, tuple[Values, Offsets]], flat: dict[str, Values]) -> None:
    """One record batch in Arrow's streaming format, the one that `datasets.Dataset.from_file` reads as well."""
    columns = {
        name: (arrow_texts if name.endswith("_text") else arrow_lists)(values, offsets)
        for name, (values, offsets) in ragged.items()
    }
    columns |= {name: arrow_flat(values) for name, values in flat.items()}
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _shown(encoded: Iterable[tuple[Chunk, EncodedChunk]]) -> Generator[tuple[Chunk, EncodedChunk]]:
    # `disable=None` shows the bar on a terminal only.
    with tqdm(desc="tokenizing", unit=" pairs", unit_scale=True, disable=None, leave=False) as bar:
        for chunk, arrays in encoded:
            yield chunk, arrays
            bar.update(len(chunk.lines))
