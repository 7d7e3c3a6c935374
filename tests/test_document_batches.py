"""Batches of documents: every pair once, with exactly the sentences that stand before it, for any split and resumed."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from nmt.config.schema import DataConfig, FiltersConfig, TokenizerConfig
from nmt.data.batching import Batch, BatchStream, DocumentContext, Position, PreviousSentences
from nmt.data.batching.document_context import add_context
from nmt.data.batching.plan import document_buckets, plan_pairs_with_context
from nmt.data.batching.update_stream import Windows
from nmt.data.cache import EncodedCorpus, encode_corpora
from nmt.data.readers.corpora import Corpus, TextPairOptions, open_corpus
from nmt.data.tokenizer import TokenizerPair, learn

WORDS = ["Hund", "Katze", "läuft", "schläft", "der", "die", "groß", "klein", "Haus", "und"]
BUDGET = 600
MAX_LENGTH = 40
SOURCES, TARGETS, BOTH = (
    DocumentContext(3, True, False),
    DocumentContext(3, False, True),
    DocumentContext(2, True, True),
)
EVERY = pytest.mark.parametrize("document_context", [SOURCES, TARGETS, BOTH], ids=["sources", "targets", "both"])

Document = list[tuple[str, str]]


def documents(count: int, seed: int = 3) -> list[Document]:
    """Of 1 to 12 sentences, each with a number of its own; one in ten is too long to be a pair."""
    rng = np.random.default_rng(seed)
    number = itertools.count()

    def sentence() -> tuple[str, str]:
        words = int(rng.integers(1, 12)) if rng.random() > 0.1 else 50
        source, target = (" ".join(rng.choice(WORDS, words)) for _ in range(2))
        return f"{next(number)} {source}", target

    return [[sentence() for _ in range(int(rng.integers(1, 13)))] for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    pairs = [pair for document in documents(60) for pair in document]
    return learn(TokenizerConfig(vocabulary_size=80, shared=False), lambda: pairs, seed=1)


def opened(folder: Path, parts: list[Document], named: bool = True, weight: float = 1.0, name: str = "x") -> Corpus:
    rows = [(s, t, str(number)) for number, document in enumerate(parts) for s, t in document]
    paths = [folder / f"{name}.{suffix}" for suffix in ("de", "en", "docid")]
    for path, column in zip(paths, zip(*rows, strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in column), encoding="utf-8")
    source, target, docid = map(str, paths)
    options = TextPairOptions(source=source, target=target, documents=docid if named else None, weight=weight)
    return open_corpus(
        options, DataConfig(source_language="de", target_language="en", train=[options], validation=options)
    )


def encode(folder: Path, corpora: list[Corpus], pair: TokenizerPair) -> EncodedCorpus:
    return encode_corpora(corpora, pair, FiltersConfig(max_length=MAX_LENGTH), folder / "cache", 1, keep_text=True)


@dataclasses.dataclass(frozen=True)
class Streams:
    """Makes streams that differ in what a test is about."""

    corpus: EncodedCorpus
    tokenizers: TokenizerPair

    def __call__(
        self,
        document_context: DocumentContext | None = SOURCES,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        sampling: float = 0.0,
        **windows: int,
    ) -> BatchStream:
        fixed = (self.corpus, BUDGET, 1, rank, world, accumulation, self.tokenizers, sampling)
        return BatchStream(*fixed, context=document_context, **windows)


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory, tokenizers: TokenizerPair) -> Streams:
    folder = tmp_path_factory.mktemp("corpus")
    return Streams(encode(folder, [opened(folder, documents(60))], tokenizers), tokenizers)


def batches(stream: BatchStream, epoch: int = 0, update: int = 0) -> list[Batch]:
    return [batch for update_ in stream.updates(Position(epoch, update)) for batch in update_]


def pair_rows(corpus: EncodedCorpus) -> list[int]:
    return np.flatnonzero(corpus.is_pair(np.arange(len(corpus)))).tolist()


def before(corpus: EncodedCorpus, row: int, count: int) -> list[int]:
    """Rows before a row in its document, nearest first, one at a time."""
    place = int(corpus.document_positions[row])
    return [row - back for back in range(1, min(count, place) + 1)]


def padded_elements(batch: Batch) -> int:
    return batch.source_BS.numel() + batch.target_BT.numel()


def links(past: PreviousSentences) -> dict[int, list[int]]:
    """By sentence, where those before it are found, nearest first."""
    width = past.present_LP.shape[1]
    assert past.index_N.tolist() == past.present_LP.flatten().nonzero().squeeze(1).tolist()
    found: dict[int, list[int]] = {sentence: [] for sentence in past.sentence_L.tolist()}
    for place, row in zip(past.index_N.tolist(), past.row_N.tolist(), strict=True):
        found[int(past.sentence_L[place // width])].append(row)
        assert len(found[int(past.sentence_L[place // width])]) == place % width + 1
    return found


def source_texts(batch: Batch, tokenizers: TokenizerPair) -> list[str]:
    ends = (batch.source_lengths_B - 1).tolist()
    return tokenizers.source.decode([ids[:end] for ids, end in zip(batch.source_BS.tolist(), ends, strict=True)])


def target_texts(batch: Batch, tokenizers: TokenizerPair) -> list[str]:
    ends = (batch.target_lengths_B - 1).tolist()
    return tokenizers.target.decode([ids[:end] for ids, end in zip(batch.target_BT.tolist(), ends, strict=True)])


def test_a_past_by_hand() -> None:
    past = PreviousSentences.of(np.array([[-1, -1, -1], [0, -1, -1], [5, 0, -1], [-1, -1, -1], [2, 1, 0]]))
    assert past.sentence_L.tolist() == [1, 2, 4]
    assert past.present_LP.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert past.index_N.tolist() == [0, 3, 4, 6, 7, 8]
    assert past.row_N.tolist() == [0, 5, 0, 2, 1, 0]
    assert len(PreviousSentences.of(np.full((4, 2), -1))) == 0


def test_what_is_read_beside_by_hand() -> None:
    """A document of six rows, 10 to 15; the pairs are the rows 15 and 12."""

    def rows_before(rows: np.ndarray) -> np.ndarray:
        return np.where(rows > 10, rows - 1, -1)

    rows = np.array([15, 12])
    read = add_context(rows, rows_before, DocumentContext(2, True, False))
    assert (read.rows.tolist(), read.translated) == ([15, 12, 10, 11, 13, 14], 2)
    assert links(read.context.sources) == {0: [5, 4], 1: [3, 2]}
    assert read.context.targets is None
    read = add_context(rows, rows_before, DocumentContext(2, False, True))
    assert (read.rows.tolist(), read.translated) == ([15, 12, 10, 11, 13, 14], 6)
    assert links(read.context.targets) == {0: [5, 4], 1: [3, 2]}
    assert read.context.sources is None
    read = add_context(rows[:1], rows_before, DocumentContext(2, True, True))
    assert (read.rows.tolist(), read.translated) == ([15, 13, 14, 11, 12], 3)
    assert links(read.context.targets) == {0: [2, 1]}
    assert links(read.context.sources) == {0: [2, 1], 1: [4, 3], 2: [1, 4]}
    assert read.context.pairs == 1
    # A document that occurs twice in a batch looks back to either.
    read = add_context(np.array([11, 10, 11]), rows_before, DocumentContext(1, True, False))
    assert links(read.context.sources) == {0: [1], 2: [1]}


@EVERY
def test_every_pair_has_exactly_the_sentences_before_it(
    streams: Streams, document_context: DocumentContext, tokenizers: TokenizerPair
) -> None:
    corpus, seen = streams.corpus, []
    texts = corpus.text(np.arange(len(corpus)))
    for batch in batches(streams(document_context)):
        seen += batch.rows.tolist()
        past = batch.context
        assert past.pairs == batch.pairs == len(batch.rows)
        sources, targets = source_texts(batch, tokenizers), target_texts(batch, tokenizers)
        assert sources[: batch.pairs] == [texts[0][row] for row in batch.rows]
        assert targets[: batch.pairs] == [texts[1][row] for row in batch.rows]
        assert batch.target_tokens == int(batch.target_lengths_B[: batch.pairs].sum())
        row_of = {text: row for row, text in enumerate(texts[0])}
        rows = [row_of[text] for text in sources]
        assert len(set(rows)) == len(rows)
        # Whatever looks back finds what stands before it: the pairs, and what is translated beside them.
        for side, looking, found in (
            (past.targets, batch.rows, targets),
            (past.sources, rows[: len(targets)], sources),
        ):
            if side is None:
                continue
            linked = links(side)
            for number, row in enumerate(looking):
                there = linked.pop(number, [])
                assert [rows[place] for place in there] == before(corpus, row, document_context.sentences)
                assert [found[place] for place in there] == [
                    texts[found is targets][each] for each in before(corpus, row, document_context.sentences)
                ]
            assert not linked
    assert sorted(seen) == pair_rows(corpus)
    assert len(pair_rows(corpus)) < len(corpus) - 20


@EVERY
def test_batches_stay_within_the_budget_with_all_that_is_read(
    streams: Streams, document_context: DocumentContext
) -> None:
    whole = batches(streams(document_context))
    alone = 0
    for batch in whole:
        size = len(batch.source_BS) * max(batch.source_BS.shape[1], batch.target_BT.shape[1])
        if size > BUDGET:
            alone += 1
            assert batch.pairs == 1
    assert alone < len(whole) / 3


def test_sentences_of_a_document_stay_together(streams: Streams) -> None:
    """Sentences beside the pairs of a batch are context that was cut off, or sentences without a translation."""
    corpus = streams.corpus
    whole = batches(streams())
    beside = sum(len(batch.source_BS) - batch.pairs for batch in whole)
    assert beside < 3 * len(whole) + len(corpus) - len(pair_rows(corpus))
    order = [row for batch in sorted(whole, key=lambda each: each.rows[0]) for row in batch.rows.tolist()]
    assert sum(b - a != 1 for a, b in itertools.pairwise(order)) < len(order) / 2
    for batch in whole:
        first_rows = [int(row - corpus.document_positions[row]) for row in batch.rows]
        assert len([first for first, _ in itertools.groupby(first_rows)]) == len(set(first_rows))


def test_documents_are_shuffled_from_epoch_to_epoch(streams: Streams) -> None:
    first, again, other = ([batch.rows.tolist() for batch in batches(streams(), epoch)] for epoch in (0, 0, 1))
    assert first == again
    assert {tuple(rows) for rows in first} != {tuple(rows) for rows in other}
    widths = [batch.target_BT.shape[1] for batch in batches(streams())]
    assert abs(np.corrcoef(widths, range(len(widths)))[0, 1]) < 0.5


def assert_same(left: Batch, right: Batch) -> None:
    assert left.rows.tolist() == right.rows.tolist()
    assert (left.target_tokens, left.weight) == (right.target_tokens, right.weight)
    for name in ("source_BS", "source_lengths_B", "target_BT", "target_lengths_B"):
        assert torch.equal(getattr(left, name), getattr(right, name))
    assert (left.context is None) == (right.context is None)
    if left.context is not None and right.context is not None:
        assert left.context.pairs == right.context.pairs
        for one, other in (
            (left.context.sources, right.context.sources),
            (left.context.targets, right.context.targets),
        ):
            assert (one is None) == (other is None)
            assert one is None or links(one) == links(other)


@pytest.mark.parametrize("windows", [{}, {"window_rows": 100, "block_rows": 16}], ids=["one window", "windows"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_ranks_share_the_updates_of_one_rank(streams: Streams, accumulation: int, windows: dict[str, int]) -> None:
    alone = list(streams(BOTH, accumulation=2 * accumulation, **windows).updates(Position()))
    ranks = [list(streams(BOTH, rank, 2, accumulation, **windows).updates(Position())) for rank in range(2)]
    assert [len(each) for each in ranks] == [len(alone)] * 2
    for update, *shares in zip(alone, *ranks, strict=True):
        shared = [batch for step in zip(*shares, strict=True) for batch in step]
        for left, right in zip(update, shared, strict=True):
            assert_same(left, right)


@pytest.mark.parametrize("sampling", [0.0, 0.1])
@pytest.mark.parametrize("windows", [{}, {"window_rows": 100, "block_rows": 16}], ids=["one window", "windows"])
def test_a_stream_resumes_at_any_update(streams: Streams, sampling: float, windows: dict[str, int]) -> None:
    straight = list(streams(BOTH, 1, 2, 2, sampling, **windows).updates(Position(3)))
    stream, position = streams(BOTH, 1, 2, 2, sampling, **windows), Position(3)
    for done in range(len(straight) + 1):
        assert stream.ends_epoch(position) == (done == len(straight))
        if done % 3 == 0:
            resumed = list(streams(BOTH, 1, 2, 2, sampling, **windows).updates(position))
            assert len(resumed) == len(straight) - done
            for left, right in zip(straight[done:], resumed, strict=True):
                for one, other in zip(left, right, strict=True):
                    assert_same(one, other)
        position = stream.following(position)


def test_windows_hold_whole_documents(streams: Streams) -> None:
    corpus = streams.corpus
    windows = Windows(corpus.parts, 1, 100, 16, corpus.document_positions)
    assert len(windows) > 3
    found = [windows.rows(0, window) for window in range(len(windows))]
    assert sorted(np.concatenate(found).tolist()) == list(range(len(corpus)))
    for rows in found:
        first = rows - corpus.document_positions[rows]
        sizes = Counter(first.tolist())
        ends = np.append(np.flatnonzero(corpus.document_positions == 0), len(corpus))
        assert all(ends[np.searchsorted(ends, each) + 1] - each == size for each, size in sizes.items())
    stream = streams(window_rows=100, block_rows=16)
    assert sorted(row for batch in batches(stream) for row in batch.rows) == pair_rows(corpus)


def test_a_document_may_be_longer_than_a_block(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    parts = [documents(1)[0], [(f"{number} Hund", "Katze") for number in range(10_000)], documents(1, seed=5)[0]]
    corpus = encode(tmp_path, [opened(tmp_path, parts)], tokenizers)
    windows = Windows(corpus.parts, 1, 4000, 512, corpus.document_positions)
    found = [windows.rows(0, window) for window in range(len(windows))]
    assert sorted(np.concatenate(found).tolist()) == list(range(len(corpus)))
    assert max(map(len, found)) >= 10_000


def test_weights_are_how_often_a_document_occurs(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    """As a whole: all its pairs as often as each other."""
    corpora = [
        opened(tmp_path, documents(60), weight=2.0, name="a"),
        opened(tmp_path, documents(300, seed=5), weight=0.25, name="b"),
    ]
    corpus = encode(tmp_path, corpora, tokenizers)
    streams = Streams(corpus, tokenizers)
    counted = Counter(row for batch in batches(streams(BOTH)) for row in batch.rows.tolist())
    first = {row: int(row - corpus.document_positions[row]) for row in pair_rows(corpus)}
    stop = corpus.parts[0].stop
    assert {counted[row] for row in first if row < stop} == {2}
    by_document: dict[int, set[int]] = {}
    for row, document in first.items():
        if row >= stop:
            by_document.setdefault(document, set()).add(counted[row])
    assert all(len(times) == 1 for times in by_document.values())
    share = np.mean([max(times) for times in by_document.values()])
    # Five standard deviations of 300 draws.
    assert abs(share - 0.25) < 5 * np.sqrt(0.1875 / 300)


def test_without_context_batches_are_those_of_a_corpus_without_documents(
    streams: Streams, tmp_path: Path, tokenizers: TokenizerPair
) -> None:
    plain = Streams(encode(tmp_path, [opened(tmp_path, documents(60), named=False)], tokenizers), tokenizers)
    for epoch in range(2):
        for left, right in zip(batches(streams(None), epoch), batches(plain(None), epoch), strict=True):
            assert torch.equal(left.source_BS, right.source_BS)
            assert torch.equal(left.target_BT, right.target_BT)
            assert left.context is None


def test_sampling_tokenizes_context_anew_as_well(streams: Streams, tokenizers: TokenizerPair) -> None:
    texts = streams.corpus.text(np.arange(len(streams.corpus)))[0]
    changed = 0
    for batch in batches(streams(BOTH, sampling=0.3))[:10]:
        sources = source_texts(batch, tokenizers)
        assert set(sources) <= set(texts)
        encoded = [len(ids) + 1 for ids in tokenizers.source.encode(sources)]
        changed += any(
            a != b for a, b in zip(encoded[batch.pairs :], batch.source_lengths_B[batch.pairs :], strict=True)
        )
    assert changed > 5


def test_the_largest_batch_is_the_largest(streams: Streams) -> None:
    for document_context in (SOURCES, TARGETS, BOTH):
        largest, whole = streams(document_context).largest_batch(), batches(streams(document_context))
        assert largest.rows.tolist() in [batch.rows.tolist() for batch in whole]
        assert padded_elements(largest) > 0.9 * max(map(padded_elements, whole))


def test_a_corpus_without_documents_beside_one_with(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    """Its pairs have nothing before them."""
    corpora = [
        opened(tmp_path, documents(20), name="a"),
        opened(tmp_path, documents(20, seed=5), named=False, name="b"),
    ]
    corpus = encode(tmp_path, corpora, tokenizers)
    stop = corpus.parts[0].stop
    for batch in batches(Streams(corpus, tokenizers)()):
        looking = [int(batch.rows[sentence]) for sentence in batch.context.sources.sentence_L]
        assert all(row < stop for row in looking)


def test_document_buckets_are_the_greedy_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 8, rng.integers(1, 8))
        sentences = np.concatenate([np.arange(size) for size in sizes])
        longest = rng.integers(1, 30, len(sentences))
        is_pair = rng.random(len(sentences)) < 0.8
        reach, budget = int(rng.integers(0, 4)), int(rng.integers(1, 200))
        places = np.flatnonzero(is_pair)
        number = 0
        bounds, reads = document_buckets(longest, is_pair, sentences, reach, budget)
        assert bounds[-1] == len(places)
        for first, read in zip(bounds[:-1], reads, strict=True):
            assert first == number
            start = places[number] - min(reach, sentences[places[number]])
            assert read.start == start
            inside = slice(start, read.stop)
            fits = (inside.stop - start) * longest[inside].max() <= budget
            assert fits or inside.stop == places[number] + 1
            assert is_pair[inside.stop - 1]
            further = places[places >= inside.stop]
            if len(further):
                one_more = slice(start, further[0] + 1)
                assert (one_more.stop - start) * longest[one_more].max() > budget
            number += int(is_pair[places[number] : inside.stop].sum())
        assert number == len(places)


def test_documents_of_like_sentences_are_neighbours() -> None:
    lengths = np.repeat(np.arange(1, 51), 40)
    rng = np.random.default_rng(1)
    plan = plan_pairs_with_context(
        np.arange(2000), np.ones(2000, np.bool_), np.tile(np.arange(4), 500), lengths, lengths, 3, False, 200, 1, rng
    )
    spread = [np.ptp(lengths[plan.batch(number)]) / lengths[plan.batch(number)].max() for number in range(len(plan))]
    assert np.mean(spread) < 0.25
    assert sorted(plan.rows.tolist()) == list(range(2000))
