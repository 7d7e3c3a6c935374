"""A finished cache of documents is opened without reading text, labels or ids again, and what has changed is seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nmt.config.schema import DocumentFiltersConfig, LabelledDataConfig, SentencePieceConfig
from nmt.data.cache import DocumentTokenizer, EncodedCollection, encode_collections, known_labels, store
from nmt.data.readers.labelled import COLLECTIONS, Collection, open_collection
from nmt.data.tokenizer import Tokenizer, learn_one
from nmt.errors import DataError
from tests.support.labelled_documents import some_documents, write_documents

DOCUMENTS = some_documents(40, 1)
Encode = Callable[..., EncodedCollection]


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough at once: clocks of files go in steps, so a little in the future will do."""
    monkeypatch.setattr(store, "SETTLED_SECONDS", -1.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_one(SentencePieceConfig(vocabulary_size=60), [one for each, _ in DOCUMENTS for one in each], 1, "")


def opened(folder: Path, **options: object) -> Collection:
    some = COLLECTIONS["text"].options(docs=f"{folder}/some.txt", labels=f"{folder}/some.tsv", **options)
    return open_collection(some, LabelledDataConfig(train=[some], validation=some))


@pytest.fixture
def encode(tmp_path: Path, tokenizer: Tokenizer) -> Encode:
    def run(**options: object) -> EncodedCollection:
        collections, filters, cache = [opened(tmp_path, **options)], DocumentFiltersConfig(), tmp_path / "cache"
        labels = known_labels(collections, cache)
        return encode_collections(
            collections, DocumentTokenizer.of(tokenizer, "en", filters), labels, filters, cache, 1
        )

    write_documents(tmp_path, "some", DOCUMENTS)
    return run


def test_nothing_is_read_again(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encode()
    encode()  # The ids are checked once after they were written.
    monkeypatch.setattr(Collection, "_records", lambda _: pytest.fail("the text was read again"))
    monkeypatch.setattr(store, "checksum", lambda _: pytest.fail("the ids were read again"))
    assert encode().fingerprint == first.fingerprint
    weighted = encode(weight=2.5)
    assert weighted.fingerprint == first.fingerprint
    assert [(part.start, part.stop, part.weight) for part in weighted.parts] == [(0, 40, 2.5)]


def test_what_is_read_differently_or_was_changed_is_another_collection(encode: Encode, tmp_path: Path) -> None:
    fingerprints = [encode().fingerprint, encode(limit=20).fingerprint, encode(skip=1).fingerprint]
    changed = [(["now a dog"], "animals"), *DOCUMENTS[1:]]
    write_documents(tmp_path, "some", changed)
    fingerprints += [encode().fingerprint, encode(limit=20).fingerprint, encode(skip=1).fingerprint]
    assert len(set(fingerprints)) == 5
    assert fingerprints[2] == fingerprints[5]


def test_labels_are_those_of_the_files_as_they_are(tmp_path: Path) -> None:
    write_documents(tmp_path, "some", DOCUMENTS)
    for _ in range(2):
        assert known_labels([opened(tmp_path)], tmp_path / "cache") == ("animals", "tools", "weather")
    write_documents(tmp_path, "some", [(["a"], "b"), (["b"], "ä"), (["c"], "b")])
    for _ in range(2):
        assert known_labels([opened(tmp_path)], tmp_path / "cache") == ("b", "ä")
    for _ in range(2):
        with pytest.raises(DataError, match="all documents have the label 'b'; there is nothing to tell apart"):
            known_labels([opened(tmp_path, limit=1)], tmp_path / "cache")


def test_broken_text_is_refused_though_it_was_dropped_before(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_bytes(b"a\nb\n\xff\n")
    (tmp_path / "some.tsv").write_text("x\ny\nz\n")
    some = COLLECTIONS["text"].options(docs=f"{tmp_path}/some.txt", labels=f"{tmp_path}/some.tsv")
    dropping = LabelledDataConfig.model_validate(
        {"train": [some], "validation": some, "filters": {"broken_utf8": "drop"}}
    )
    assert known_labels([open_collection(some, dropping)], tmp_path / "cache") == ("x", "y")
    with pytest.raises(DataError, match=r"some\.txt:3"):
        known_labels([opened(tmp_path)], tmp_path / "cache")


def test_every_kind_names_all_of_its_files(tmp_path: Path) -> None:
    write_documents(tmp_path, "some", DOCUMENTS)
    (tmp_path / "table.tsv").write_text("text\tlabel\na\tb\n")
    (tmp_path / "lines.jsonl").write_text(json.dumps({"text": ["a"], "label": "b"}) + "\n")
    pq.write_table(pa.table({"text": ["a"], "label": ["b"]}), tmp_path / "table.parquet")
    kinds = [
        (COLLECTIONS["text"].options(docs=f"{tmp_path}/some.txt", labels=f"{tmp_path}/some.tsv"), "some.txt some.tsv"),
        (COLLECTIONS["tsv"].options(path=f"{tmp_path}/table.tsv"), "table.tsv"),
        (COLLECTIONS["jsonl"].options(path=f"{tmp_path}/lines.jsonl"), "lines.jsonl"),
        (COLLECTIONS["parquet"].options(path=f"{tmp_path}/table.parquet"), "table.parquet"),
    ]
    # A held-out part has the files of the training text; the files of a data set are unknown.
    assert {options.kind for options, _ in kinds} == set(COLLECTIONS) - {"split", "huggingface"}
    for options, names in kinds:
        collection = COLLECTIONS.build(options, LabelledDataConfig(train=[options], validation=options))
        assert " ".join(path.name for path in collection.files) == names


def test_damage_to_documents_that_were_checked_is_seen(encode: Encode, tmp_path: Path) -> None:
    first, rows = encode(), np.arange(40)
    expected = first.documents(rows)
    encode()
    path = tmp_path / "cache" / first.fingerprint / "documents.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    time.sleep(0.05)
    path.write_bytes(content)
    assert all(np.array_equal(a, b) for a, b in zip(encode().documents(rows), expected, strict=True))
    content[len(content) // 2] ^= 1
    assert path.read_bytes() == content
