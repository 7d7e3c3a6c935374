"""Forced decoding: given translations, each piece predicted from those before it (teacher forcing).

Loss and log-probabilities of the translations, attention weights and alignments.

Shapes: B sentences, T target positions, S source positions, N heads or target pieces of the batch, padding left out,
R readout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.data.batching import Batch, DocumentContext
from nmt.data.batching.document_context import Documents, add_context, sentences_before
from nmt.data.batching.pair_batches import collate
from nmt.data.batching.plan import document_buckets, documents_by_length, padded_buckets
from nmt.data.cache import Lengths, Rows, document_positions, flatten
from nmt.data.cache.pair_encoding import words_of
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError, ConfigError
from nmt.evaluation.alignment import Alignment, Linking, Unit, align
from nmt.model.attention import AttentionWeights
from nmt.model.context import ContextWeights
from nmt.model.translator import forced_readout
from nmt.runtime import gather_objects, in_halves
from nmt.tasks.base import gather_rows
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.text_translation import encode_lines
from nmt.training.objectives import TranslationObjective, target_rows
from nmt.visualization.attention_map import AttentionMap, ContextMap, Side

Ids = Sequence[Sequence[int]]
"""Rows of pieces, without end symbols."""
Advance = Callable[[int], object]
PairsResult = TypeVar("PairsResult")


def map_pairs(
    system: System,
    sources: Ids,
    targets: Ids,
    batch_tokens: int,
    work: Callable[[Sequence[Batch]], PairsResult],
    lines: Sequence[int],
    documents: Documents | None = None,
) -> Iterator[tuple[Sequence[int], PairsResult]]:
    """Yields rows and the result of `work` for batches of pairs of similar length, of this process's share.

    Pairs x longest side, its end included, is `batch_tokens` or less; a longer pair is a batch alone. The batches are
    the same whatever the number of processes. Empty sides are their end symbol. Computes without gradients, and in the
    runtime's format. `work` gets a batch for each translator, of the same pairs, with the sentences before them that
    this translator reads in their `documents`; without documents every pair stands alone.

    Raises:
        NmtError: a pair does not fit into memory; `lines` are the numbers of pairs in messages.
    """
    lengths = [np.fromiter(map(len, side), np.int64, len(side)) for side in (sources, targets)]
    contexts = [translator.context.document_context for translator in system.translators]
    before = sentences_before(range(len(sources)) if documents is None else documents, lengths[0])
    order, bounds = _planned(lengths[0] + 1, lengths[1] + 1, batch_tokens, contexts, documents)
    runtime = system.runtime

    def run(rows: Sequence[int]) -> PairsResult:
        batches = {
            document_context: _batch(rows, document_context).to(runtime.device) for document_context in set(contexts)
        }
        with torch.inference_mode(), runtime.autocast():
            return work([batches[context] for context in contexts])

    def _batch(rows: Sequence[int], context: DocumentContext | None) -> Batch:
        pairs = np.asarray(rows)
        read = add_context(pairs, before, context)
        return collate(
            flatten([sources[row] for row in read.rows]),
            flatten([targets[row] for row in read.rows[: read.translated]]),
            pairs,
            system.tokenizers,
            context=read.context,
        )

    def out_of_memory(row: int) -> str:
        pieces = f"{len(sources[row])} source and {len(targets[row])} target pieces"
        return f"line {lines[row]}: out of memory on {runtime.device} with this pair alone, of {pieces}; shorten it"

    for number in range(runtime.rank, len(bounds) - 1, runtime.world):
        yield from in_halves(run, order[bounds[number] : bounds[number + 1]].tolist(), out_of_memory)


def _planned(
    source: Lengths,
    target: Lengths,
    batch_tokens: int,
    contexts: Sequence[DocumentContext | None],
    documents: Documents | None,
) -> tuple[Rows, Rows]:
    """Order of the pairs, and the bounds of batches: by length, or document by document."""
    reach = max(0 if context is None else context.reach for context in contexts)
    longest = np.maximum(source, target)
    if documents is None or not reach:
        order: Rows = np.lexsort((source, target))
        return order, padded_buckets(longest[order], batch_tokens)
    sentences = document_positions(documents)
    order = documents_by_length(longest, sentences)
    return order, document_buckets(longest[order], np.full(len(order), True), sentences[order], reach, batch_tokens)[0]


def _forced(
    system: System, batches: Sequence[Batch]
) -> tuple[Tensor, list[AttentionWeights], list[dict[Side, ContextWeights]]]:
    """Returns log-probabilities [N] of the target pieces, attention weights of the translators that have any, and each
    translator's weights of previous sentences.

    The first are the log of the mean of the translators' probabilities, as the search averages them. The weights of a
    latent alignment are its posterior.
    """
    parts: list[Tensor] = []
    attentions: list[AttentionWeights] = []
    contexts: list[dict[Side, ContextWeights]] = []
    for translator, batch in zip(system.translators, batches, strict=True):
        rows_N = target_rows(batch).to(batch.target_BT.device)
        target_N = batch.target_BT.flatten()[rows_N]
        result = forced_readout(translator, batch)
        log_probabilities_N, weights = translator.target_log_probabilities(result, rows_N, target_N)
        parts.append(log_probabilities_N)
        if weights is not None:
            attentions.append(weights)
        sides: dict[Side, ContextWeights | None] = {"source": result.source_context, "target": result.target_context}
        contexts.append({side: each for side, each in sides.items() if each is not None})
    return torch.logsumexp(torch.stack(parts), 0) - math.log(len(parts)), attentions, contexts


# Loss


@dataclass(frozen=True)
class Loss:
    """Negative log-likelihood of given translations, without label smoothing."""

    total: float
    """Sum over the pieces, in nats."""
    pieces: int
    """Target pieces, the end of each sentence counted."""

    @property
    def per_piece(self) -> float:
        """The loss as training logs it."""
        return self.total / self.pieces

    @property
    def perplexity(self) -> float:
        """Per piece; comparable between systems of one target tokenizer only."""
        if self.per_piece >= 700.0:
            return math.inf
        return math.exp(self.per_piece) if self.total == self.total else math.nan

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.total + other.total, self.pieces + other.pieces)


def forced_loss(
    system: System,
    sources: Sequence[str],
    references: Sequence[str],
    batch_tokens: int,
    documents: Documents | None = None,
) -> Loss:
    """Returns the loss of the references; all processes share the work.

    The batches, and so the result, are the same whatever the number of processes. Empty sides are their end symbol. Of
    `documents`, translators with context read the references before a sentence.
    Raises `NmtError` where a pair does not fit into memory.
    """
    source, target = system.tokenizers.source.encode(sources), system.tokenizers.target.encode(references)

    def work(batches: Sequence[Batch]) -> float:
        if len(system.translators) == 1:
            return float(TranslationObjective(system.translators[0], 0.0)(batches[0]).reported()[0])
        return float(-_forced(system, batches)[0].sum())

    numbers = range(1, len(source) + 1)
    mine = [total for _, total in map_pairs(system, source, target, batch_tokens, work, numbers, documents)]
    # An exact sum: the order of the processes does not show in the last digit.
    total = math.fsum(part for share in gather_objects(mine) for part in share)
    return Loss(total, sum(len(ids) + 1 for ids in target))


# Scores


@dataclass(frozen=True)
class ScoreResult:
    """The log-probability of a given translation."""

    source: str
    target: str
    log_probability: float = -math.inf
    """In nats, the end of the sentence included; minus infinity if a side is empty."""
    pieces: tuple[str, ...] = ()
    """Of the target, without the end symbol."""
    piece_log_probabilities: tuple[float, ...] = ()
    """Of each piece and, last, of the end."""

    @property
    def is_scored(self) -> bool:
        """Whether both sides have a piece."""
        return self.log_probability > -math.inf

    @property
    def per_piece(self) -> float:
        """Log-probability divided by the number of pieces, the end counted."""
        return self.log_probability / (len(self.pieces) + 1)


def forced_scores(
    system: System,
    sources: Sequence[str],
    targets: Sequence[str],
    batch_tokens: int,
    max_length: int | None = None,
    first_line: int = 1,
    advance: Advance | None = None,
) -> list[ScoreResult]:
    """Returns the log-probability of each target under teacher forcing.

    Arguments and errors are those of `forced_attention`, but no attention is needed. Every pair stands alone.
    """
    rows, source, target = _encoded_pairs(system, sources, targets, max_length, first_line, advance)
    lines = [first_line + row for row in rows]
    results = list(map(ScoreResult, sources, targets))

    def work(batches: Sequence[Batch]) -> list[ScoreResult]:
        log_probabilities_N = _forced(system, batches)[0]
        totals, terms = _totals(batches[0], log_probabilities_N), iter(log_probabilities_N.tolist())
        scores = []
        for row, total in zip(batches[0].rows, totals, strict=True):
            _require_finite(total, lines[row])
            pieces = tuple(system.tokenizers.target.pieces(target[row]))
            parts = tuple(islice(terms, len(pieces) + 1))
            pair = results[rows[row]]
            scores.append(ScoreResult(pair.source, pair.target, total, pieces, parts))
        return scores

    by_row = gather_rows(map_pairs(system, source, target, batch_tokens, work, lines), advance)
    for index, row in enumerate(rows):
        results[row] = by_row[index]
    return results


def _encoded_pairs(
    system: System,
    sources: Sequence[str],
    targets: Sequence[str],
    max_length: int | None,
    first_line: int,
    advance: Advance | None,
) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Returns the rows of the pairs without an empty side, and their pieces; the others are done."""
    assert len(sources) == len(targets), "a source and a target make a pair"
    tokenizers = system.tokenizers
    numbers = range(first_line, first_line + len(sources))
    _, source = encode_lines(tokenizers.source, sources, max_length, numbers, ", source")
    _, target = encode_lines(tokenizers.target, targets, max_length, numbers, ", target")
    rows = [row for row in range(len(source)) if source[row] and target[row]]
    if advance is not None:
        advance(len(source) - len(rows))
    return rows, [source[row] for row in rows], [target[row] for row in rows]


def _totals(batch: Batch, log_probabilities_N: Tensor) -> list[float]:
    """The sum of each pair's pieces."""
    lengths_B = batch.target_lengths_B[: batch.pairs]
    sentence_N = torch.repeat_interleave(torch.arange(batch.pairs), lengths_B).to(log_probabilities_N.device)
    totals_B = log_probabilities_N.new_zeros(batch.pairs).index_add(0, sentence_N, log_probabilities_N)
    return list(map(float, totals_B.tolist()))


def _require_finite(log_probability: float, line: int, weights_NTS: npt.ArrayLike = ()) -> None:
    # Weights that are not finite are refused when a model is loaded; large ones overflow here.
    if not (math.isfinite(log_probability) and np.isfinite(weights_NTS).all()):
        raise CheckpointError(
            f"line {line}: the model gives no finite probability to this pair; use an earlier checkpoint"
        )


# Attention weights


def forced_attention(
    system: System,
    sources: Sequence[str],
    targets: Sequence[str],
    batch_tokens: int,
    max_length: int | None = None,
    first_line: int = 1,
    advance: Advance | None = None,
) -> list[AttentionMap | None]:
    """Returns the attention weights under teacher forcing of each pair; None for a pair with an empty side.

    Several processes share the batches out and all return all results.

    Args:
        system: translators. Of several, the weights are the mean of those that have attention.
        sources, targets: text without line ends, as many of one as of the other.
        batch_tokens: bound of pairs x longest side of a batch, ends included.
        max_length: pieces after which either side is cut off, with a warning; None takes every pair whole.
        first_line: number of the first pair, for messages.
        advance: is called with the number of pairs done since the last call; with several processes, of its own share.

    Raises:
        ConfigError: no translator has attention.
        CheckpointError: a pair has no finite probability.
        NmtError: a pair does not fit into memory.
    """
    rows, source, target = _encoded_pairs(system, sources, targets, max_length, first_line, advance)
    lines = [first_line + row for row in rows]
    weights = forced_attention_of_ids(system, source, target, batch_tokens, lines, advance)
    results: list[AttentionMap | None] = [None] * len(sources)
    for row, one in zip(rows, weights, strict=True):
        results[row] = replace(one, source=sources[row], target=targets[row])
    return results


def forced_attention_of_ids(
    system: System,
    sources: Ids,
    targets: Ids,
    batch_tokens: int,
    lines: Sequence[int] | None = None,
    advance: Advance | None = None,
    documents: Documents | None = None,
) -> list[AttentionMap]:
    """The same for pieces as a search returns them, without end symbols; an empty side is its end symbol alone.

    Text is the decoded pieces. `lines` are the numbers of the pairs in messages, by default from 1. Of `documents`,
    translators with context read the pairs before a pair.
    """
    assert len(sources) == len(targets), "a source and a target make a pair"
    lines = lines or range(1, len(sources) + 1)

    def work(batches: Sequence[Batch]) -> list[AttentionMap]:
        rows = batches[0].rows
        results = list(_attention(system, batches, sources, targets, lines))
        for row, one in zip(rows, results, strict=True):
            _require_finite(one.log_probability, lines[row], one.weights_NTS)
        return results

    parts = map_pairs(system, sources, targets, batch_tokens, work, lines, documents)
    by_row = gather_rows(parts, advance)
    return [by_row[row] for row in range(len(sources))]


def _attention(
    system: System, batches: Sequence[Batch], all_sources: Ids, all_targets: Ids, lines: Sequence[int]
) -> Iterator[AttentionMap]:
    log_probabilities_N, attentions, contexts = _forced(system, batches)
    if not attentions:
        raise ConfigError("model.attention: no model has attention to look at; choose one that has")
    batch = batches[0]
    sources, targets = ([ids[row] for row in batch.rows] for ids in (all_sources, all_targets))
    totals_B = _totals(batch, log_probabilities_N)
    single = attentions[0] if len(system.translators) == 1 else None
    context_maps: list[list[ContextMap]] | None = None
    if single and system.translators[0].context.document_context is not None:
        context_maps = _context_maps(batch, contexts[0], {"source": all_sources, "target": all_targets}, lines)
    if single:
        weights_BTNS = single.dense()
    else:
        # The batches of translators may have longer sentences as context.
        longest_target, longest_source = (max(map(len, side)) + 1 for side in (targets, sources))
        parts = [weights.mean()[: len(sources), :longest_target, :longest_source] for weights in attentions]
        weights_BTNS = torch.stack(parts).mean(0)[:, :, None]
    # One transfer for the batch, not one for each sentence.
    weights_BNTS = weights_BTNS.transpose(1, 2).float().cpu().numpy()
    centers_BNT = None
    if single is not None and single.centers_BQN is not None:
        centers_BNT = single.centers_BQN.transpose(1, 2).float().cpu().numpy()
    tokenizers = system.tokenizers
    texts = zip(tokenizers.source.decode(sources), tokenizers.target.decode(targets), strict=True)
    for row, (source, target) in enumerate(texts):
        positions = len(targets[row]) + 1
        yield AttentionMap(
            source=source,
            target=target,
            source_pieces=tuple(tokenizers.source.pieces(sources[row])),
            target_pieces=tuple(tokenizers.target.pieces(targets[row])),
            # Copies, so that a short sentence does not hold on to the padding of its batch.
            weights_NTS=weights_BNTS[row, :, :positions, : len(sources[row]) + 1].copy(),
            centers_NT=None if centers_BNT is None else centers_BNT[row, :, :positions].copy(),
            half_width=single.half_width if single else None,
            log_probability=totals_B[row],
            context=None if context_maps is None else tuple(context_maps[row]),
        )


def _context_maps(
    batch: Batch, contexts: Mapping[Side, ContextWeights], ids: Mapping[Side, Ids], lines: Sequence[int]
) -> list[list[ContextMap]]:
    """The maps of each pair, a map for each side with previous sentences. `ids` and `lines` are those of all pairs."""
    maps: list[list[ContextMap]] = [[] for _ in range(batch.pairs)]
    for side, weights in contexts.items():
        assert batch.context is not None, "weights are those of previous sentences"
        rows, previous = batch.context.rows.tolist(), weights.previous
        words_NQS, sentences_LQP = (each.float().cpu().numpy() for each in (weights.words_NQS, weights.sentences_LQP))
        # Nearest first in the batch, and in order in a map.
        read = list(zip(previous.row_N.tolist(), words_NQS, strict=True))
        for pair, sentences_QP, count in zip(
            previous.sentence_L.tolist(), sentences_LQP, previous.count_L.tolist(), strict=True
        ):
            own, read = read[:count][::-1], read[count:]
            # Sentences that are read as context alone have context as well.
            if pair >= batch.pairs:
                continue
            positions = min(len(words_NQS[0]), len(ids[side][rows[pair]]) + 1)
            maps[pair].append(
                ContextMap(
                    side,
                    tuple(lines[rows[row]] for row, _ in own),
                    sentences_QP[:positions, :count][:, ::-1].copy(),
                    tuple(words_QS[:positions, : len(ids[side][rows[row]]) + 1].copy() for row, words_QS in own),
                )
            )
    return maps


def align_pair(
    attention: AttentionMap, tokenizers: TokenizerPair, unit: Unit, linking: Linking = "grow-diag"
) -> Alignment:
    """Aligns a pair by its attention weights, the mean of the heads."""
    sides = [(attention.source, attention.source_pieces, tokenizers.source)]
    sides.append((attention.target, attention.target_pieces, tokenizers.target))
    # A pair that was cut off has fewer pieces than its text.
    source, target = (
        range(len(pieces)) if unit == "pieces" else words_of(text, tokenizer)[: len(pieces)]
        for text, pieces, tokenizer in sides
    )
    return align(attention.weights_NTS.mean(0), source, target, linking)
