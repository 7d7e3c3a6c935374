"""Lexicons: the likely translations of each source piece, estimated from encoded pairs and stored in a file.

A search takes shortlists of its vocabulary from them, and words in the place of unknown pieces.

IBM model 1 (Brown 1993, section 4.1) by expectation-maximisation. Every target piece of a pair is a translation of one
of its source pieces, or of the empty piece that is added to every source, all with the same prior:

    count(t | s) = sum over pairs and positions of t in them of w p(t | s) / sum over s' of the source of p(t | s')
    p(t | s)     = count(t | s) / sum over t' of count(t' | s)

A pair counts w times, the weight of its corpus. Model 1 has a single optimum except for ties, so that the result is a
function of the pairs, without random numbers.

Memory is bounded: pairs are read in blocks, and the table is a sorted array of the pieces that occur together, without
the rarest where there are too many.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nmt.data.cache import EncodedPairs, WeightedRows, packed_buckets
from nmt.data.tokenizer import TokenizerPair, tokens_of_spans
from nmt.errors import DataError

LEXICON_FILE = "lexicon.safetensors"
"""Name in a run or a checkpoint folder."""
LEXICON_FORMAT = 1
"""Version of the file's layout; other versions are refused."""
NO_CANDIDATE = -1
BLOCK = 1 << 21
"""Links between pieces that are processed together: 200 MB. A pair with more of them is left out."""
LARGEST_TABLE = 1 << 24
"""Most entries of a table: 16 bytes each, five times as much while it grows."""
MOST_ROWS = 1_000_000
"""Pairs of sentences that are read; of a larger corpus every n-th one."""

Numbers = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
PieceIds = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TranslationTable:
    """Probabilities of translations of pieces."""

    source: Numbers
    """Source pieces in ascending order; the empty piece is the number after the last one."""
    target: Numbers
    """The target piece of each entry, ascending for one source piece."""
    probability: Weights
    """p(target | source) of each entry."""
    occurrences: Weights
    """Number of occurrences of each target piece in an epoch, [target pieces]."""


@dataclass(frozen=True)
class _Links:
    """All pairs of a source and a target piece that may be translations of each other in some pairs of sentences."""

    keys: Numbers
    """source * target_size + target of each link; the links of one target position follow each other."""
    starts: Numbers
    """The first link of each target position."""
    sizes: Numbers
    """Number of links of each target position."""
    weights: Weights


def estimate(
    pairs: EncodedPairs,
    source_size: int,
    target_size: int,
    *,
    iterations: int,
    parts: Sequence[WeightedRows] = (),
    most_rows: int = MOST_ROWS,
    largest: int = LARGEST_TABLE,
    block: int = BLOCK,
) -> TranslationTable:
    """Returns the table after some iterations, of which the first begins with equal probabilities.

    `parts` are the weights of the pairs; without them each pair counts once.
    """
    assert iterations >= 1
    rows = np.arange(min(len(pairs), most_rows), dtype=np.int64) * len(pairs) // max(min(len(pairs), most_rows), 1)
    weights = np.ones(len(rows))
    if parts:
        owner = np.searchsorted([part.stop for part in parts], rows, side="right")
        weights = np.asarray([part.weight for part in parts])[owner]
    read = partial(_read_links, pairs, rows, weights, source_size, target_size, block)
    keys, counts, occurrences = _first_counts(read, target_size, largest, block)
    probability = _normalized(keys, counts, target_size)
    for _ in range(iterations - 1):
        counts = np.zeros(len(keys))
        for links in read():
            indices = np.searchsorted(keys, links.keys)
            indices[indices == len(keys)] = 0
            shares = np.where(keys[indices] == links.keys, probability[indices], 0.0)
            totals = np.add.reduceat(shares, links.starts)
            # A position whose links are all left out of the table counts nothing: 0 / 1.
            shares /= np.repeat(np.where(totals > 0.0, totals, 1.0) / links.weights, links.sizes)
            counts += np.bincount(indices, shares, len(keys))
        probability = _normalized(keys, counts, target_size)
    return TranslationTable(keys // target_size, keys % target_size, probability, occurrences)


def _read_links(
    pairs: EncodedPairs, rows: Numbers, weights: Weights, source_size: int, target_size: int, block: int
) -> Iterator[_Links]:
    """Yields the links of all pairs of these rows, a bounded number at a time."""
    for start in range(0, len(rows), block // 16):
        chunk, chunk_weights = rows[start : start + block // 16], weights[start : start + block // 16]
        source_lengths, target_lengths = (lengths.astype(np.int64) for lengths in pairs.lengths(chunk))
        sizes = (source_lengths + 1) * target_lengths
        fits = pairs.is_pair(chunk) & (sizes > 0) & (sizes <= block)
        chunk, chunk_weights = chunk[fits], chunk_weights[fits]
        for first, last in pairwise(packed_buckets(sizes[fits], block)):
            yield _links(pairs, chunk[first:last], chunk_weights[first:last], source_size, target_size)


def _links(pairs: EncodedPairs, rows: Numbers, weights: Weights, source_size: int, target_size: int) -> _Links:
    source, source_offsets = pairs.source(rows)
    target, target_offsets = pairs.target(rows)
    # The empty piece before each source.
    source = np.insert(source.astype(np.int64), source_offsets[:-1], source_size)
    first_source = source_offsets[:-1] + np.arange(len(rows))
    row = np.repeat(np.arange(len(rows)), np.diff(target_offsets))
    sizes = (np.diff(source_offsets) + 1)[row]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    indices = np.arange(ends[-1]) + np.repeat(first_source[row] - starts, sizes)
    keys = source[indices] * target_size + np.repeat(target.astype(np.int64), sizes)
    return _Links(keys, starts, sizes, weights[row])


def _first_counts(
    read: Callable[[], Iterator[_Links]], target_size: int, largest: int, block: int
) -> tuple[Numbers, Weights, Weights]:
    """The sorted keys of pieces that occur together, their first counts, and the occurrences of target pieces."""
    keys, counts = np.empty(0, np.int64), np.empty(0)
    occurrences = np.zeros(target_size)
    waiting: list[tuple[Numbers, Weights]] = []
    for links in read():
        targets = links.keys[links.starts] % target_size
        occurrences += np.bincount(targets, links.weights, target_size)
        waiting.append(_summed(links.keys, np.repeat(links.weights / links.sizes, links.sizes)))
        # Merged when as much waits as was merged before: each entry is sorted a few times, not once a block.
        if sum(len(part) for part, _ in waiting) > max(len(keys), block):
            keys, counts = _merged_counts([(keys, counts), *waiting], largest)
            waiting.clear()
    return *_merged_counts([(keys, counts), *waiting], largest), occurrences


def _merged_counts(parts: list[tuple[Numbers, Weights]], largest: int) -> tuple[Numbers, Weights]:
    """The sum of the parts. Of more than `largest` entries about half remain, those with the largest counts."""
    keys, counts = _summed(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    if len(keys) > largest:
        bound = np.partition(counts, len(counts) - largest // 2)[len(counts) - largest // 2]
        keep = counts >= bound
        if np.count_nonzero(keep) > largest:  # Many have the same count.
            keep = counts > bound
        keys, counts = keys[keep], counts[keep]
    return keys, counts


def _summed(keys: Numbers, weights: Weights) -> tuple[Numbers, Weights]:
    """Each key once, in ascending order, with the sum of its weights."""
    unique, indices = np.unique(keys, return_inverse=True)
    return unique, np.bincount(indices, weights, len(unique)).astype(np.float64, copy=False)


def _normalized(keys: Numbers, counts: Weights, target_size: int) -> Weights:
    sources = keys // target_size
    totals = np.bincount(sources, counts)
    return counts / np.where(totals > 0.0, totals, 1.0)[sources] if len(keys) else counts


@dataclass(frozen=True)
class Lexicon:
    """Selects a target vocabulary for every source sentence (Jean 2015, section 3.2): the pieces that are most frequent
    in the training text, and the most likely translations of each source piece."""

    frequent: PieceIds
    """All target pieces, the most frequent in an epoch first."""
    candidates: PieceIds
    """[source pieces, candidates] translations of each source piece, the most likely first, -1 after the last one."""
    tokenizers: tuple[str, str]
    """Fingerprints of the tokenizers of both sides."""

    @classmethod
    def of(cls, table: TranslationTable, most: int, tokenizers: TokenizerPair) -> Lexicon:
        """Returns the lexicon with at most `most` candidates of each source piece; of equal ones the lower ids."""
        real = (table.source < tokenizers.source.size) & (table.probability > 0.0)
        source, target = table.source[real], table.target[real]
        order = np.lexsort((target, -table.probability[real], source))
        source, target = source[order], target[order]
        rank = np.arange(len(source)) - np.searchsorted(source, source)
        keep = rank < most
        candidates = np.full((tokenizers.source.size, most), NO_CANDIDATE, np.int32)
        candidates[source[keep], rank[keep]] = target[keep]
        frequent = np.argsort(-table.occurrences, kind="stable").astype(np.int32)
        return cls(frequent, candidates, tokenizers.fingerprints)

    @property
    def most(self) -> int:
        return int(self.candidates.shape[1])

    def pieces(self, source: Sequence[int], frequent: int, candidates: int) -> PieceIds:
        """Returns the target pieces for a sentence, ascending, its own pieces included if the vocabulary is shared."""
        assert candidates <= self.most
        ids = np.asarray(source, np.int64)
        copied = ids.astype(np.int32) if self.tokenizers[0] == self.tokenizers[1] else ids[:0].astype(np.int32)
        likely = self.candidates[ids, :candidates].ravel()
        pieces = np.unique(np.concatenate((self.frequent[:frequent], likely, copied)))
        return pieces[np.searchsorted(pieces, 0) :]

    def to_bytes(self) -> bytes:
        """Returns the content of its file."""
        about = {"format": LEXICON_FORMAT, "tokenizers": self.tokenizers}
        return save({"frequent": self.frequent, "candidates": self.candidates}, {"lexicon": json.dumps(about)})

    @classmethod
    def load(cls, path: Path, tokenizers: TokenizerPair) -> Lexicon:
        """Reads a lexicon; raises `DataError` where the file is damaged, or made for other tokenizers."""
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["lexicon"])
                if about["format"] != LEXICON_FORMAT:
                    raise DataError(
                        f"{path}: format {about['format']}, not {LEXICON_FORMAT}; build it again with nmt-lexicon"
                    )
                frequent, candidates = file.get_tensor("frequent"), file.get_tensor("candidates")
                lexicon = cls(frequent, candidates, (about["tokenizers"][0], about["tokenizers"][1]))
            if lexicon.tokenizers != tokenizers.fingerprints:
                raise DataError(f"{path}: made for other tokenizers than the model's; build it again with nmt-lexicon")
            if frequent.shape != (tokenizers.target.size,) or candidates.shape[:1] != (tokenizers.source.size,):
                raise ValueError("another number of pieces")
            ids = np.concatenate((frequent, candidates.ravel()))
            if (
                candidates.ndim != 2
                or ids.dtype != np.int32
                or not NO_CANDIDATE <= ids.min() <= ids.max() < len(frequent)
            ):
                raise ValueError("not ids of pieces")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a lexicon, or damaged; build it again with nmt-lexicon") from error
        return lexicon


@dataclass(frozen=True)
class SourceTokens:
    """The words of a source line, with the punctuation at their edges as words of its own, and their translations.

    By them unknown pieces of a translation are replaced (Luong 2015b, section 3; Jean 2015, section 4.1).

    Shapes: T target pieces, S source pieces, both with the end symbol last; U words of the source.
    """

    tokenizers: TokenizerPair
    texts_U: Sequence[str]
    """The words as they stand in the line."""
    token_S: Sequence[int]
    """The word that each piece belongs to, without the end symbol."""
    ids_S: Sequence[int]
    lexicon: Lexicon | None
    """Translates words of one piece; None copies all."""

    @classmethod
    def of(cls, line: str, ids: Sequence[int], tokenizers: TokenizerPair, lexicon: Lexicon | None) -> SourceTokens:
        """Returns the words of a line; `ids` are its pieces, which may be fewer than the line has."""
        texts, tokens = tokens_of_spans(line, tokenizers.source.spans(line))
        return cls(tokenizers, texts, tokens[: len(ids)], ids, lexicon)

    def replacements(self, ids: Sequence[int], attention_TS: npt.NDArray[np.floating]) -> dict[int, str]:
        """Returns the text for each unknown piece of a translation, by its index.

        It is that of the word with the most attention when the piece was predicted, the sum over its pieces, of equal
        ones the first. A piece without attention on any word has none.
        """
        found: dict[int, str] = {}
        for index in (index for index, id_ in enumerate(ids) if id_ == self.tokenizers.target.unk):
            weights_U = np.bincount(self.token_S, attention_TS[index, :-1], len(self.texts_U))
            if weights_U.any():
                token = int(weights_U.argmax())
                found[index] = self._translation(token) or self.texts_U[token]
        return found

    def _translation(self, token: int) -> str:
        """The best translation of a word in the lexicon; empty if it is unknown, of several pieces, or has none."""
        pieces = [id_ for id_, each in zip(self.ids_S, self.token_S, strict=True) if each == token]
        if self.lexicon is None or len(pieces) != 1 or pieces[0] == self.tokenizers.source.unk:
            return ""
        best, target = int(self.lexicon.candidates[pieces[0], 0]), self.tokenizers.target
        return "" if best < 0 or best == target.unk else target.decode([[best]])[0].strip()
