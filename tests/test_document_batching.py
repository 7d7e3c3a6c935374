"""Batches of documents: as many words as fit, seeded, shared out to ranks, and resumable at any update."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nmt.config.schema import DocumentFiltersConfig, LabelledDataConfig, SentencePieceConfig
from nmt.data.batching import DocumentBatch, DocumentStream, Position, documents_batch
from nmt.data.batching.plan import plan_documents
from nmt.data.batching.update_stream import Windows
from nmt.data.cache import DocumentTokenizer, EncodedCollection, encode_collections, known_labels, packed_buckets
from nmt.data.readers.labelled import COLLECTIONS, open_collection
from nmt.data.tokenizer import learn_one
from tests.support.labelled_documents import some_documents, write_documents


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> EncodedCollection:
    folder = tmp_path_factory.mktemp("documents")
    documents = some_documents(200, 1)
    write_documents(folder, "some", documents)
    options = COLLECTIONS["text"].options(docs=f"{folder}/some.txt", labels=f"{folder}/some.tsv")
    data = LabelledDataConfig(train=[options], validation=options)
    tokenizer = learn_one(
        SentencePieceConfig(vocabulary_size=60), [one for each, _ in documents for one in each], 1, ""
    )
    collections = [open_collection(options, data)]
    reader = DocumentTokenizer.of(tokenizer, "en", data.filters)
    return encode_collections(
        collections, reader, known_labels(collections, folder / "cache"), DocumentFiltersConfig(), folder / "cache", 1
    )


def stream(collection: EncodedCollection, rank: int = 0, world: int = 1, accumulation: int = 1) -> DocumentStream:
    return DocumentStream(collection, 200, 5, rank, world, accumulation)


def epoch(one: DocumentStream, position: Position | None = None) -> list[list[DocumentBatch]]:
    return list(one.updates(position or Position()))


def test_batches_are_filled_by_words() -> None:
    assert packed_buckets(np.array([3, 3, 3, 20, 1, 1]), 7).tolist() == [0, 2, 3, 4, 6]
    assert packed_buckets(np.array([], np.int64), 7).tolist() == [0]


def test_an_epoch_has_every_document_once_and_batches_fit(collection: EncodedCollection) -> None:
    batches = [batch for update in epoch(stream(collection)) for batch in update]
    assert sorted(row for batch in batches for row in batch.rows) == list(range(200))
    assert all(batch.words <= 200 for batch in batches)
    assert sum(batch.words for batch in batches) == collection.sizes(np.arange(200))[0].sum()
    # Full but for the last ones of a size: a batch and any document that follows it would not fit.
    assert np.mean([batch.words for batch in batches]) > 150
    assert max(batch.words for batch in batches) == stream(collection).largest_batch().words


def test_a_batch_has_documents_of_similar_size(collection: EncodedCollection) -> None:
    batches = [batch for update in epoch(stream(collection)) for batch in update]
    words, _ = collection.sizes(np.arange(200))
    spreads = [float(np.ptp(words[batch.rows])) for batch in batches]
    assert np.mean(spreads) < 0.2 * float(np.ptp(words))


def test_a_batch_holds_its_documents(collection: EncodedCollection) -> None:
    batch = epoch(stream(collection))[3][0]
    assert int(batch.words_N.sum()) == len(batch.ids_W) == batch.words
    assert int(batch.sentences_B.sum()) == len(batch.words_N)
    assert batch.documents == len(batch.rows) == len(batch.sentences_B)
    assert batch.labels_B.tolist() == collection.labels(batch.rows).tolist()
    ids, words, sentences = collection.documents(batch.rows[1:2])
    start, size = int(batch.sentences_B[0]), int(batch.sentences_B[1])
    assert sentences.tolist() == [size]
    assert batch.words_N[start : start + size].tolist() == words.tolist()
    first = int(batch.words_N[:start].sum())
    assert batch.ids_W[first : first + len(ids)].tolist() == ids.tolist()
    size = f"{batch.documents} documents, {batch.words:,} words in {len(batch.words_N):,} sentences"
    assert batch.describe() == size
    assert batch.describe(with_rows=True).startswith(f"{size}, rows {batch.rows[0]}")


def same(one: DocumentBatch, other: DocumentBatch) -> bool:
    names = ("ids_W", "words_N", "sentences_B", "labels_B")
    return one.weight == other.weight and all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_it_goes_on_at_any_update(collection: EncodedCollection) -> None:
    for number in (0, 1):
        whole = epoch(stream(collection), Position(number))
        for update in (0, 5, len(whole) - 1, len(whole)):
            rest = epoch(stream(collection), Position(number, update))
            assert len(rest) == len(whole) - update
            assert all(same(*one, *other) for one, other in zip(rest, whole[update:], strict=True))
    first, second = (epoch(stream(collection), Position(number))[0][0] for number in (0, 1))
    assert not same(first, second)


def test_two_ranks_make_the_updates_of_one_that_accumulates(collection: EncodedCollection) -> None:
    alone = epoch(stream(collection, accumulation=2))
    ranks = [epoch(stream(collection, rank, world=2)) for rank in (0, 1)]
    assert len(alone) == len(ranks[0]) == len(ranks[1]) == stream(collection, world=2).updates_per_epoch(0)
    for together, one, other in zip(alone, *ranks, strict=True):
        assert all(same(a, b) for a, b in zip(together, [*one, *other], strict=True))
    dummies = [batch for update in alone for batch in update if not batch.weight]
    assert len(dummies) <= 1
    assert all((batch.words, batch.documents) == (0, 0) for batch in dummies)


def windowed(collection: EncodedCollection, rank: int = 0, world: int = 1, accumulation: int = 1) -> DocumentStream:
    """A stream of four windows."""
    return DocumentStream(collection, 200, 5, rank, world, accumulation, window_rows=50, block_rows=5)


def test_an_epoch_of_windows_has_every_document_once_window_by_window(collection: EncodedCollection) -> None:
    windows = Windows(collection.parts, 5, 50, 5)
    owner = {row: window for window in range(4) for row in windows.rows(0, window).tolist()}
    assert len(windows) == 4
    assert sorted(owner) == list(range(200))
    batches = [batch for update in epoch(windowed(collection)) for batch in update]
    assert sorted(row for batch in batches for row in batch.rows) == list(range(200))
    owners = [{owner[row] for row in batch.rows} for batch in batches]
    assert all(len(each) == 1 for each in owners)
    assert [*dict.fromkeys(window for each in owners for window in each)] == [0, 1, 2, 3]


def test_it_goes_on_at_any_position_of_any_window(collection: EncodedCollection) -> None:
    one = windowed(collection, 1, 2, 2)
    whole, position = epoch(one, Position(2)), Position(2)
    for done in range(len(whole)):
        rest = epoch(windowed(collection, 1, 2, 2), position)
        assert len(rest) == len(whole) - done
        assert all(same(*pair) for a, b in zip(rest, whole[done:], strict=True) for pair in zip(a, b, strict=True))
        assert not one.ends_epoch(position)
        position = one.following(position)
    assert one.ends_epoch(position)
    assert position.window == 3


def test_a_plan_has_all_rows_and_neighbours_are_alike() -> None:
    rows = np.arange(1000) * 3
    words = np.arange(1000) % 37 + 1
    plan = plan_documents(rows, words, np.minimum(words, 5), 100, 4, np.random.default_rng(0))
    assert sorted(plan.rows.tolist()) == rows.tolist()
    assert sorted(plan.order.tolist()) == list(range(len(plan)))
    sizes = words[plan.rows // 3]
    assert np.all(np.add.reduceat(sizes, plan.bounds[:-1]) <= 100)
    # Lengths are disturbed by 2%, which is no more than a word here, of either neighbour.
    assert np.all(np.diff(sizes) >= -2)


def test_lists_of_ids_are_a_batch() -> None:
    batch = documents_batch([[[1, 2], [], [3]], [[]]], [4, 5])
    assert batch.ids_W.tolist() == [1, 2, 3]
    assert batch.words_N.tolist() == [2, 0, 1, 0]
    assert batch.sentences_B.tolist() == [3, 1]
    assert batch.labels_B.tolist() == [4, 5]
    assert (batch.words, batch.documents) == (3, 2)
