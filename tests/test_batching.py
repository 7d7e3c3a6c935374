"""Batches: every pair once, within the budget, the same for any split over ranks, and resumable anywhere."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from nmt.config.schema import DataConfig, TokenizerConfig
from nmt.data.batching import Batch, BatchStream, Position
from nmt.data.batching.plan import padded_buckets, plan_pairs
from nmt.data.batching.update_stream import Windows, prefetch
from nmt.data.cache import EncodedCorpus, WeightedRows, encode_corpora
from nmt.data.readers.corpora import TextPairOptions, open_corpus
from nmt.data.tokenizer import TokenizerPair, learn
from nmt.tasks.translation.text_translation import pad_sources

WORDS = ["Hund", "Katze", "läuft", "schläft", "der", "die", "groß", "klein", "Haus", "und"]
PAIRS = 700
BUDGET = 200


def sentences(count: int) -> list[tuple[str, str]]:
    """Pairs of random words; both sides of a pair are about as long."""
    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(count):
        words = int(rng.integers(1, 20))
        source, target = (rng.choice(WORDS, words + rng.integers(0, 4)) for _ in range(2))
        pairs.append((" ".join(source), " ".join(target)))
    return pairs


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    return learn(TokenizerConfig(vocabulary_size=60, shared=False), lambda: sentences(300), seed=1)


def encode(folder: Path, parts: Sequence[tuple[list[tuple[str, str]], float]], pair: TokenizerPair) -> EncodedCorpus:
    """Corpora with their weights, text kept."""
    corpora = []
    for number, (pairs, weight) in enumerate(parts):
        paths = [folder / f"{number}.{suffix}" for suffix in ("de", "en")]
        for path, side in zip(paths, zip(*pairs, strict=True), strict=True):
            path.write_text("".join(f"{line}\n" for line in side), encoding="utf-8")
        options = TextPairOptions(source=str(paths[0]), target=str(paths[1]), weight=weight)
        data = DataConfig(source_language="de", target_language="en", train=[options], validation=options)
        corpora.append(open_corpus(options, data))
    return encode_corpora(corpora, pair, None, folder / "cache", workers=1, keep_text=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizers: TokenizerPair) -> EncodedCorpus:
    return encode(tmp_path_factory.mktemp("corpus"), [(sentences(PAIRS), 1.0)], tokenizers)


@dataclasses.dataclass(frozen=True)
class Streams:
    """Makes streams that differ in what a test is about."""

    corpus: EncodedCorpus
    tokenizers: TokenizerPair

    def __call__(
        self, rank: int = 0, world: int = 1, accumulation: int = 1, seed: int = 1, sampling: float = 0.0
    ) -> BatchStream:
        return BatchStream(self.corpus, BUDGET, seed, rank, world, accumulation, self.tokenizers, sampling)


@pytest.fixture
def streams(corpus: EncodedCorpus, tokenizers: TokenizerPair) -> Streams:
    return Streams(corpus, tokenizers)


def epoch(stream: BatchStream, number: int = 0, update: int = 0) -> list[list[Batch]]:
    return list(stream.updates(Position(number, update)))


def batches(stream: BatchStream, number: int = 0) -> list[Batch]:
    return [batch for update in epoch(stream, number) for batch in update]


def assert_same(left: Batch, right: Batch) -> None:
    assert left.rows.tolist() == right.rows.tolist()
    assert (left.target_tokens, left.weight) == (right.target_tokens, right.weight)
    for name in ("source_BS", "source_lengths_B", "target_BT", "target_lengths_B"):
        assert torch.equal(getattr(left, name), getattr(right, name))


def row_order(stream: BatchStream, number: int = 0) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches(stream, number)]


# One epoch


def test_an_epoch_has_every_row_once(streams: Streams) -> None:
    rows = [row for batch in row_order(streams()) for row in batch]
    assert sorted(rows) == list(range(PAIRS))


def test_batches_stay_within_the_budget_and_waste_little(streams: Streams) -> None:
    whole = batches(streams())
    for batch in whole:
        sentences_, source = batch.source_BS.shape
        assert sentences_ * max(source, batch.target_BT.shape[1]) <= BUDGET or sentences_ == 1
    real = sum(batch.target_tokens for batch in whole)
    assert real / sum(batch.target_BT.numel() for batch in whole) > 0.9
    assert np.mean([max(b.source_BS.numel(), b.target_BT.numel()) for b in whole]) > 0.85 * BUDGET


def test_tensors_are_pieces_then_end_then_padding(
    streams: Streams, corpus: EncodedCorpus, tokenizers: TokenizerPair
) -> None:
    for batch in batches(streams())[:10]:
        texts = corpus.text(batch.rows)
        sides = [
            (batch.source_BS, batch.source_lengths_B, tokenizers.source, texts[0]),
            (batch.target_BT, batch.target_lengths_B, tokenizers.target, texts[1]),
        ]
        for padded, lengths, tokenizer, text in sides:
            ids = tokenizer.encode(text)
            width = max(map(len, ids)) + 1
            truth = [row + [tokenizer.eos] + [tokenizer.pad] * (width - len(row) - 1) for row in ids]
            assert padded.tolist() == truth
            assert lengths.tolist() == [len(row) + 1 for row in ids]
            assert padded.dtype == lengths.dtype == torch.int64
        assert batch.target_tokens == int(batch.target_lengths_B.sum())
        assert batch.weight == 1.0


def test_a_pair_longer_than_the_budget_is_a_batch_alone(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = [("Hund", "Katze"), ("Hund " * 300, "Katze " * 200), ("Haus", "Haus")]
    long = encode(tmp_path, [(pairs, 1.0)], tokenizers)
    found = row_order(BatchStream(long, 50, 1, 0, 1, 1, tokenizers, 0.0))
    assert sorted(map(sorted, found)) == [[0, 2], [1]]


def test_epochs_and_seeds_differ_and_repeat(streams: Streams) -> None:
    first = row_order(streams())
    assert row_order(streams()) == first
    assert row_order(streams(), 1) != first
    assert row_order(streams(seed=2)) != first
    # Not the order of the batches alone, but also who is together with whom.
    together = {frozenset(batch) for batch in first}
    assert len(together & {frozenset(batch) for batch in row_order(streams(), 1)}) < len(together) / 4


def test_order_is_not_by_length(streams: Streams) -> None:
    widths = [batch.target_BT.shape[1] for batch in batches(streams())]
    assert abs(np.corrcoef(widths, range(len(widths)))[0, 1]) < 0.5


def test_cut_is_the_greedy_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        longest = rng.integers(1, 30, rng.integers(1, 60))
        budget = int(rng.integers(1, 200))
        bounds = [0]
        for end in range(1, len(longest) + 1):
            start = bounds[-1]
            if end - start > 1 and (end - start) * longest[start:end].max() > budget:
                bounds.append(end - 1)
        assert padded_buckets(longest, budget).tolist() == [*bounds, len(longest)]


# Weights


def test_weights_are_how_often_a_pair_occurs(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    parts = [(sentences(200), 1.0), (sentences(200), 2.5), (sentences(200), 0.25)]
    weighted = encode(tmp_path, parts, tokenizers)
    stream = BatchStream(weighted, BUDGET, 1, 0, 1, 1, tokenizers, 0.0)
    times = []
    for number in range(2):
        counted = Counter(row for batch in row_order(stream, number) for row in batch)
        times.append(np.array([counted[row] for row in range(600)]))
    once, often, seldom = np.split(times[0], 3)
    assert set(once) == {1}
    assert set(often) == {2, 3}
    assert set(seldom) == {0, 1}
    # Five standard deviations of 200 draws.
    assert abs(often.mean() - 2.5) < 5 * np.sqrt(0.25 / 200)
    assert abs(seldom.mean() - 0.25) < 5 * np.sqrt(0.1875 / 200)
    assert times[0].tolist() != times[1].tolist()


# Ranks and accumulation


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_ranks_share_the_updates_of_one_rank(streams: Streams, accumulation: int) -> None:
    world = 2
    alone = epoch(streams(accumulation=world * accumulation))
    ranks = [epoch(streams(rank, world, accumulation)) for rank in range(world)]
    assert [len(each) for each in ranks] == [len(alone)] * world
    for update, *shares in zip(alone, *ranks, strict=True):
        assert [len(share) for share in shares] == [accumulation] * world
        shared = [batch for step in zip(*shares, strict=True) for batch in step]
        for left, right in zip(update, shared, strict=True):
            assert_same(left, right)


@pytest.mark.parametrize(("world", "accumulation"), [(3, 1), (4, 2), (1, 5), (7, 3)])
def test_every_rank_makes_the_same_steps_and_no_row_is_lost_or_repeated(
    streams: Streams, world: int, accumulation: int
) -> None:
    ranks = [streams(rank, world, accumulation) for rank in range(world)]
    epochs = [epoch(rank) for rank in ranks]
    assert {len(updates) for updates in epochs} == {rank.updates_per_epoch(0) for rank in ranks}
    assert {len(update) for updates in epochs for update in updates} == {accumulation}
    everything = [batch for updates in epochs for update in updates for batch in update]
    assert sorted(row for batch in everything for row in batch.rows) == list(range(PAIRS))
    # Only the last update may be incomplete.
    assert all(batch.weight == 1.0 for updates in epochs for update in updates[:-1] for batch in update)


def test_a_rank_without_a_batch_gets_one_that_weighs_nothing(streams: Streams, tokenizers: TokenizerPair) -> None:
    whole = len(batches(streams()))
    world = whole - 1  # one batch is left over, or the plan of this group size has a different one
    last = [epoch(streams(rank, world))[-1][0] for rank in range(world)]
    assert sum(batch.weight for batch in last) == 1
    dummy_batch = last[-1]
    assert (dummy_batch.weight, dummy_batch.target_tokens, len(dummy_batch.rows)) == (0.0, 0, 0)
    assert dummy_batch.source_BS.tolist() == [[tokenizers.source.eos]]
    assert dummy_batch.target_BT.tolist() == [[tokenizers.target.eos]]
    assert "weight 0" in dummy_batch.describe()


def test_batches_of_an_update_are_of_similar_length(streams: Streams) -> None:
    def spread(updates: list[list[Batch]]) -> float:
        return float(np.mean([np.std([batch.target_BT.shape[1] for batch in update]) for update in updates[:-1]]))

    alone = batches(streams())
    at_random = [alone[start : start + 4] for start in range(0, len(alone), 4)]
    assert spread(epoch(streams(accumulation=4))) < spread(at_random) / 3


def test_the_incomplete_update_is_of_any_length() -> None:
    lengths = np.repeat(np.arange(1, 51), 20)
    rows = np.arange(1000)
    plans = [plan_pairs(rows, lengths, lengths, 100, 7, np.random.default_rng(number)) for number in range(40)]
    assert all(len(plan) % 7 for plan in plans)
    leftover = [lengths[plan.batch(len(plan) - 1)].mean() for plan in plans]
    assert min(leftover) < 20
    assert max(leftover) > 35


# Resuming


@pytest.mark.parametrize("sampling", [0.0, 0.1])
def test_a_stream_resumes_at_any_update(streams: Streams, sampling: float) -> None:
    straight = epoch(streams(1, 2, 2, sampling=sampling), 3)
    total = streams(1, 2, 2).updates_per_epoch(3)
    assert len(straight) == total
    for start in (0, 1, total // 2, total - 1, total):
        resumed = epoch(streams(1, 2, 2, sampling=sampling), 3, start)
        assert len(resumed) == total - start
        for left, right in zip(straight[start:], resumed, strict=True):
            for one, other in zip(left, right, strict=True):
                assert_same(one, other)


# Windows


WINDOW, BLOCK = 150, 16


def windowed(
    streams: Streams, rank: int = 0, world: int = 1, accumulation: int = 1, sampling: float = 0.0
) -> BatchStream:
    """A stream of five windows."""
    corpus, pair = streams.corpus, streams.tokenizers
    return BatchStream(
        corpus, BUDGET, 1, rank, world, accumulation, pair, sampling, window_rows=WINDOW, block_rows=BLOCK
    )


def places(stream: BatchStream, number: int = 0) -> list[Position]:
    """The positions of an epoch, its end included."""
    found = [Position(number)]
    while not stream.ends_epoch(found[-1]):
        found.append(stream.following(found[-1]))
    return found


def test_an_epoch_of_windows_has_every_row_once(streams: Streams) -> None:
    windows = Windows(streams.corpus.parts, 1, WINDOW, BLOCK)
    assert len(windows) == 5
    by_window = [windows.rows(0, window).tolist() for window in range(5)]
    assert sorted(row for rows in by_window for row in rows) == list(range(PAIRS))
    assert all(abs(len(rows) - PAIRS / 5) <= BLOCK for rows in by_window)
    # In order, as they lie on the disk, but from everywhere, and other ones in another epoch.
    assert all(rows == sorted(rows) for rows in by_window)
    assert all(rows[0] < PAIRS / 4 and rows[-1] > PAIRS * 3 / 4 for rows in by_window)
    assert windows.rows(1, 0).tolist() != by_window[0]
    stream = windowed(streams)
    assert sorted(row for batch in row_order(stream) for row in batch) == list(range(PAIRS))
    # The batches come window by window.
    owner = {row: window for window, rows in enumerate(by_window) for row in rows}
    owners = [{owner[row] for row in batch} for batch in row_order(stream)]
    assert [*dict.fromkeys(window for each in owners for window in each)] == [0, 1, 2, 3, 4]
    assert all(len(each) == 1 for each in owners)


def test_positions_go_through_all_windows_and_a_stream_resumes_at_each(streams: Streams) -> None:
    for sampling in (0.0, 0.1):
        straight = epoch(windowed(streams, 1, 2, 2, sampling), 3)
        positions = places(windowed(streams, 1, 2, 2), 3)
        assert len(positions) == len(straight) + 1
        assert [*dict.fromkeys(position.window for position in positions)] == [0, 1, 2, 3, 4]
        for done, position in enumerate(positions):
            resumed = list(windowed(streams, 1, 2, 2, sampling).updates(position))
            assert len(resumed) == len(straight) - done
            for left, right in zip(straight[done:], resumed, strict=True):
                for one, other in zip(left, right, strict=True):
                    assert_same(one, other)


def test_ranks_share_the_windows_of_one_rank(streams: Streams) -> None:
    alone = epoch(windowed(streams, accumulation=4))
    ranks = [epoch(windowed(streams, rank, 2, 2)) for rank in range(2)]
    assert len(alone) == len(places(windowed(streams, accumulation=4))) - 1
    for update, *shares in zip(alone, *ranks, strict=True):
        for left, right in zip(update, [batch for step in zip(*shares, strict=True) for batch in step], strict=True):
            assert_same(left, right)


def test_updates_of_an_epoch_are_estimated_from_its_first_window(streams: Streams) -> None:
    stream = windowed(streams)
    assert stream.updates_per_epoch(0) == pytest.approx(len(places(stream)) - 1, rel=0.15)


def test_occurrences_of_a_weight_are_spread_over_the_windows() -> None:
    windows = Windows(
        [WeightedRows(0, 4000, 1.0), WeightedRows(4000, 6000, 2.5), WeightedRows(6000, 8000, 0.25)], 7, 1000, 50
    )
    assert len(windows) == 10
    by_window = [windows.rows(2, window) for window in range(10)]
    counts = np.bincount(np.concatenate(by_window), minlength=8000)
    assert set(counts[:4000]) == {1}
    assert set(counts[4000:6000]) == {2, 3}
    assert set(counts[6000:]) == {0, 1}
    # Five standard deviations of 2,000 draws.
    assert abs(counts[4000:6000].mean() - 2.5) < 5 * np.sqrt(0.25 / 2000)
    assert abs(counts[6000:].mean() - 0.25) < 5 * np.sqrt(0.1875 / 2000)
    # A tenth of the blocks' pairs of occurrences fall into the same window by chance.
    inside = np.mean([len(rows) - len(np.unique(rows)) for rows in by_window]) * 10
    assert inside < 0.25 * counts[4000:6000].sum()


def test_the_memory_of_a_window_does_not_grow_with_the_corpus() -> None:
    peaks = []
    for pairs in (10**7, 10**9):
        windows = Windows([WeightedRows(0, pairs, 1.0)], 1, 1 << 18)
        tracemalloc.start()
        rows = windows.rows(0, len(windows) // 2)
        lengths = rows % 50 + 1
        plan = plan_pairs(rows, lengths, lengths, 4096, 1, np.random.default_rng(0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(plan.rows) == pytest.approx(1 << 18, rel=0.05)
    # The list of blocks grows by 24 bytes for 4,096 rows; a permutation of the rows would be 8 GB.
    assert peaks[1] < peaks[0] + 64 * 10**9 / 4096
    assert peaks[0] < 80 * (1 << 18)


# Subword regularisation


def test_sampling_tokenizes_the_same_text_anew(
    streams: Streams, corpus: EncodedCorpus, tokenizers: TokenizerPair
) -> None:
    changed = 0
    for batch in batches(streams(sampling=0.3))[:10]:
        sources, targets = corpus.text(batch.rows)
        ends = (batch.source_lengths_B - 1).tolist()
        ids = [row[:end] for row, end in zip(batch.source_BS.tolist(), ends, strict=True)]
        assert tokenizers.source.decode(ids) == sources
        ends = (batch.target_lengths_B - 1).tolist()
        assert tokenizers.target.decode([r[:e] for r, e in zip(batch.target_BT.tolist(), ends, strict=True)]) == targets
        assert batch.target_tokens == int(batch.target_lengths_B.sum())
        changed += ids != tokenizers.source.encode(sources)
    assert changed == 10


def test_sampling_draws_again_in_every_epoch(streams: Streams) -> None:
    by_row = []
    for number in range(2):
        found = {}
        for batch in batches(streams(sampling=0.3), number):
            for row, ids, length in zip(batch.rows, batch.target_BT, batch.target_lengths_B, strict=True):
                found[int(row)] = ids[:length].tolist()
        by_row.append(found)
    assert sum(by_row[0][row] != by_row[1][row] for row in range(PAIRS)) > PAIRS / 2


def test_sampling_draws_again_where_the_batch_is_the_same(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    alone = encode(tmp_path, [([(" ".join(WORDS), " ".join(WORDS))], 1.0)], tokenizers)
    stream = BatchStream(alone, BUDGET, 1, 0, 1, 1, tokenizers, 0.3)
    drawn = [batches(stream, number)[0].source_BS.tolist() for number in range(4)]
    assert drawn[0] not in drawn[1:]


# Search, the largest batch


def padded_elements(batch: Batch) -> int:
    return batch.source_BS.numel() + batch.target_BT.numel()


def test_the_largest_batch_is_one_of_the_epoch_and_none_is_larger(streams: Streams) -> None:
    largest = streams().largest_batch()
    whole = batches(streams())
    assert padded_elements(largest) == max(map(padded_elements, whole))
    assert largest.rows.tolist() in [batch.rows.tolist() for batch in whole]


def test_pad_sources_by_hand() -> None:
    source_BS, lengths_B = pad_sources([[5, 6, 7], [], [8]], eos=3, pad=0)
    assert source_BS.tolist() == [[5, 6, 7, 3], [3, 0, 0, 0], [8, 3, 0, 0]]
    assert lengths_B.tolist() == [4, 1, 2]


def test_a_batch_describes_itself(streams: Streams) -> None:
    batch = batches(streams())[0]
    described = batch.describe()
    assert f"{len(batch.rows)} pairs" in described
    source, target = batch.source_BS.shape[1], batch.target_BT.shape[1]
    assert described.endswith(f", padded to {source} source and {target} target pieces")
    assert batch.describe(with_rows=True).startswith(f"{described}, rows {batch.rows[0]}")
    assert_same(batch.to(torch.device("cpu")), batch)


# Working ahead


def prefetching() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_prefetch_keeps_the_order_and_ends_its_thread() -> None:
    assert list(prefetch(iter(range(50)), 2)) == list(range(50))
    assert prefetching() == 0


def test_prefetch_hands_on_an_error_after_what_came_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("broken")

    items = prefetch(failing(), 1)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="broken"):
        next(items)
    assert prefetching() == 0


def test_prefetch_ends_when_the_consumer_stops(streams: Streams) -> None:
    stream = streams().updates(Position())
    next(stream)
    assert prefetching() == 1
    del stream
    assert prefetching() == 0
    for _ in streams().updates(Position()):
        break
    assert prefetching() == 0


def test_prefetch_makes_no_more_than_it_is_asked_to() -> None:
    made = []
    reached = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 4:
                reached.set()
            yield number

    items = prefetch(numbers(), 3)
    assert next(items) == 0
    # One handed out, three in the queue, one in the hand of the thread that waits to put it there.
    assert reached.wait(10)
    assert len(made) == 5
