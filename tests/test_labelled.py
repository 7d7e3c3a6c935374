"""Labelled documents: from files of every kind to ids, and what a mistake in them is told."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from nmt.config.schema import DocumentFiltersConfig, LabelledDataConfig, SentencePieceConfig
from nmt.data import sentences
from nmt.data.cache import DocumentTokenizer, EncodedCollection, collection, encode_collections, encoding, known_labels
from nmt.data.readers.labelled import (
    COLLECTIONS,
    Collection,
    Document,
    open_collection,
)
from nmt.data.sentences import Splitter
from nmt.data.tokenizer import Tokenizer, learn_one
from nmt.errors import DataError, try_each
from tests.support.labelled_documents import some_documents, write_documents

TEXT = "Dr. Miller's dog barked. It was late!\nNobody slept."
SENTENCES = ["Dr. Miller's dog barked.", "It was late!", "Nobody slept."]
LABELS = ("animals", "tools", "weather")


def data(**filters: Any) -> LabelledDataConfig:
    anything = COLLECTIONS["text"].options(docs="a", labels="b")
    return LabelledDataConfig(train=[anything], validation=anything, filters=DocumentFiltersConfig(**filters))


def opened(kind: str, **options: Any) -> Collection:
    return open_collection(COLLECTIONS[kind].options(**options), data())


def mistake(kind: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(opened(kind, **options))
    (problem,) = caught.value.problems
    return problem


def read(collection: Collection) -> list[tuple[list[str], str]]:
    splitter = Splitter("en")
    return [(document.sentences(splitter), document.label) for document in collection]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs.txt").write_text("One.\tTwo.\n\nThree.\n")
    (tmp_path / "labels.tsv").write_text("a\t9\tx\nb \t8\ny\t7\n")
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    sentences = [sentence for document, _ in some_documents(200, 7) for sentence in document]
    return learn_one(SentencePieceConfig(vocabulary_size=60), sentences, 1, "")


# Kinds


def test_two_files(folder: Path) -> None:
    docs, labels = str(folder / "docs.txt"), str(folder / "labels.tsv")
    assert read(opened("text", docs=docs, labels=labels)) == [(["One.", "Two."], "a"), ([""], "b"), (["Three."], "y")]
    numbers = opened("text", docs=docs, labels=labels, label_column=2, skip=1, limit=1)
    assert list(numbers) == [Document("", True, "8", 2)]
    (folder / "docs.txt.gz").write_bytes(gzip.compress((folder / "docs.txt").read_bytes()))
    assert read(opened("text", docs=f"{docs}.gz", labels=labels)) == read(opened("text", docs=docs, labels=labels))


def test_running_text_is_split_into_sentences(folder: Path) -> None:
    pytest.importorskip("sentencex")
    assert Splitter("en").split(TEXT) == SENTENCES
    assert Splitter("en").split(" \n ") == []
    (folder / "text.txt").write_text("He met Dr. Miller today. Then he left.\n")
    (folder / "one.tsv").write_text("a\n")
    found = opened("text", docs=str(folder / "text.txt"), labels=str(folder / "one.tsv"), split=True)
    assert read(found) == [(["He met Dr. Miller today.", "Then he left."], "a")]


def test_a_table_with_and_without_header(folder: Path) -> None:
    pytest.importorskip("sentencex")
    table = folder / "a.tsv"
    table.write_text('id\tlabel\ttext\n1\tgood\tIt is "good". Very.\n2\tbad\t\n')
    assert read(opened("tsv", path=str(table))) == [(['It is "good".', "Very."], "good"), ([""], "bad")]
    numbered = opened("tsv", path=str(table), text_column=3, label_column=2, skip=1)
    assert [document.label for document in numbered] == ["good", "bad"]


def test_json_lines_of_text_and_of_sentences(folder: Path) -> None:
    lines = folder / "a.jsonl"
    rows = [{"text": ["A b.", "C\td.", ""], "label": "x"}, {"text": [], "label": 3}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(opened("jsonl", path=str(lines))) == [(["A b.", "C d.", ""], "x"), ([""], "3")]
    pytest.importorskip("sentencex")
    lines.write_text(json.dumps({"doc": {"body": TEXT}, "stars": 5}) + "\n")
    assert read(opened("jsonl", path=str(lines), text="doc.body", label="stars")) == [(SENTENCES, "5")]


def test_arrow_tables_of_text_and_of_sentences(folder: Path) -> None:
    table = pa.table({"text": [["A b.", "C\td.", ""], []], "label": [3, 5], "doc": pa.array([{"name": "x"}] * 2)})
    parquet.write_table(table, folder / "a.parquet")
    datasets.Dataset(table).save_to_disk(str(folder / "saved"))
    for kind, options in (
        ("parquet", {"path": f"{folder}/a.parquet"}),
        ("huggingface", {"dataset": f"{folder}/saved"}),
    ):
        assert read(opened(kind, **options)) == [(["A b.", "C d.", ""], "3"), ([""], "5")]
        assert read(opened(kind, **options, label="doc.name", skip=1)) == [([""], "x")]
        assert mistake(kind, **options, text="label").endswith("column 'label' is int64, not text or lists of text")
        assert mistake(kind, **options, label="text").endswith("not text or whole numbers")
    pytest.importorskip("sentencex")
    parquet.write_table(pa.table({"text": [TEXT], "label": ["a"]}), folder / "b.parquet")
    assert read(opened("parquet", path=f"{folder}/b.parquet")) == [(SENTENCES, "a")]
    parquet.write_table(pa.table({"text": [["A.", None]], "label": ["a"]}), folder / "c.parquet")
    assert mistake("parquet", path=f"{folder}/c.parquet") == f"{folder}/c.parquet:1: no value in column 'text'"


def test_the_same_documents_have_one_fingerprint_in_every_format(folder: Path) -> None:
    documents = some_documents(9, 1)
    write_documents(folder, "some", documents)
    files = opened("text", docs=str(folder / "some.txt"), labels=str(folder / "some.tsv"))
    rows = [{"text": sentences, "label": label} for sentences, label in documents]
    (folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = opened("jsonl", path=str(folder / "some.jsonl"))
    assert files.fingerprint() == lines.fingerprint()
    columns = dict(zip(("text", "label"), map(list, zip(*documents, strict=True)), strict=True))
    parquet.write_table(pa.table(columns), folder / "some.parquet")
    assert opened("parquet", path=str(folder / "some.parquet")).fingerprint() == lines.fingerprint()
    fewer = opened("jsonl", path=str(folder / "some.jsonl"), limit=8)
    assert fewer.fingerprint() != lines.fingerprint()


def test_labels_are_sorted_and_more_than_one(folder: Path) -> None:
    collection = opened("text", docs=str(folder / "docs.txt"), labels=str(folder / "labels.tsv"))
    assert known_labels([collection], folder / "cache") == ("a", "b", "y")
    one = opened("text", docs=str(folder / "docs.txt"), labels=str(folder / "labels.tsv"), limit=1)
    with pytest.raises(DataError, match="all documents have the label 'a'; there is nothing to tell apart"):
        known_labels([one], folder / "cache")
    (folder / "empty").touch()
    empty = opened("text", docs=str(folder / "empty"), labels=str(folder / "empty"))
    with pytest.raises(DataError, match="has no documents"):
        known_labels([collection, empty], folder / "cache")


def test_a_label_for_each_document_is_no_label(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "MOST_LABELS", 2)
    (folder / "three.tsv").write_text("a\tx\nb\ty\nc\tz\n")
    table = opened("tsv", path=str(folder / "three.tsv"), text_column=1, label_column=2)
    with pytest.raises(DataError, match=r"three.tsv: 3 labels, more than 2; is this the column of the labels\?"):
        known_labels([table], folder / "cache")


# Mistakes


def test_files_of_unequal_length(folder: Path) -> None:
    (folder / "labels.tsv").write_text("a\nb\n")
    assert mistake("text", docs=str(folder / "docs.txt"), labels=str(folder / "labels.tsv")) == (
        f"{folder}/docs.txt has 3 lines and {folder}/labels.tsv has 2; line n of each must belong to the same document"
    )


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ("a\n\nb\n", ":2: no label; give the document one, or take it out"),
        ("a\t1\nb\t2\nc\n", ":3: 1 column separated by tabs, but column 2 is needed"),
        (
            b"a\n\xff\nb\n",
            ":2: not UTF-8, byte 0xff at position 1 of the text; mend it, or set data.filters.broken_utf8",
        ),
    ],
)
def test_wrong_labels(folder: Path, labels: str | bytes, problem: str) -> None:
    path = folder / "labels.tsv"
    path.write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    column = 2 if "1" in str(labels) else 1
    assert mistake("text", docs=str(folder / "docs.txt"), labels=str(path), label_column=column).startswith(
        f"{path}{problem}"
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", ":1: not JSON"),
        ('{"text": ["a"]}', ":1: no field 'label'"),
        ('{"text": 3, "label": "a"}', ":1: field 'text' is int, not a string or a list of strings"),
        (
            '{"text": [3], "label": "a"}',
            ":1: field 'text' is a list of other things, not a string or a list of strings",
        ),
        ('{"text": ["a"], "label": null}', ":1: field 'label' is null, not a string or a whole number"),
        ('{"text": ["a"], "label": "x\\ny"}', ":1: the label 'x\\ny' has a line break or TAB in it"),
        ('{"text": ["a"], "label": "x\\ty"}', ":1: the label 'x\\ty' has a line break or TAB in it"),
        ('{"text": ["a"], "label": "x\\u2028y"}', ":1: the label 'x\\u2028y' has a line break or TAB in it"),
        ('{"text": ["a"], "label": true}', ":1: field 'label' is bool, not a string or a whole number"),
    ],
)
def test_wrong_json(folder: Path, line: str, problem: str) -> None:
    path = folder / "a.jsonl"
    path.write_text(line + "\n")
    assert mistake("jsonl", path=str(path)).startswith(f"{path}{problem}")


def test_wrong_columns_and_missing_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Splitter, "check", lambda *_: None)
    path = folder / "a.tsv"
    path.write_text("txt\tlabel\nA.\tb\n")
    assert mistake("tsv", path=str(path)) == f"{path}:1: no column 'text'; the header has 'txt', 'label'"
    assert mistake("tsv", path=str(path), text_column=1, label_column=3) == (
        f"{path}:1: 2 columns separated by tabs, but column 3 is needed"
    )
    options = [COLLECTIONS["text"].options(docs=str(folder / name), labels=str(folder / "x")) for name in ("y", "z")]
    with pytest.raises(DataError) as caught:
        try_each(partial(open_collection, data=data()), options)
    assert caught.value.problems == tuple(f"{folder}/{name}: No such file or directory" for name in "yxz")


def test_without_the_package_text_is_not_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "find_spec", lambda _: None)
    path = folder / "a.tsv"
    path.write_text("text\tlabel\nA.\tb\n")
    assert mistake("tsv", path=str(path)) == (
        f"{path}: to split text into sentences takes the package sentencex; pip install sentencex, or separate "
        "the sentences by TAB"
    )
    assert read(opened("text", docs=str(folder / "docs.txt"), labels=str(folder / "labels.tsv")))


# Reading


def reader(tokenizer: Tokenizer, max_length: int | None = None, max_sentence_length: int = 100) -> DocumentTokenizer:
    return DocumentTokenizer(tokenizer, Splitter("en"), max_length, max_sentence_length)


def test_long_sentences_go_on_and_long_documents_end(tokenizer: Tokenizer) -> None:
    document = ["the cat and the dog", "", "rain"]
    (whole,) = reader(tokenizer).encode([document])
    assert [len(ids) for ids in whole] == [len(ids) for ids in tokenizer.encode(document)]
    flat = [id_ for ids in whole for id_ in ids]
    (parts,) = reader(tokenizer, max_sentence_length=2).encode([document])
    assert [id_ for ids in parts for id_ in ids] == flat
    assert {len(ids) for ids in parts} <= {0, 1, 2}
    assert [] in parts
    (short,) = reader(tokenizer, max_length=len(whole[0]) + 1).encode([document])
    assert [id_ for ids in short for id_ in ids] == flat[: len(whole[0]) + 1]


@pytest.mark.parametrize("max_length", [None, 9, 3])
@pytest.mark.parametrize("max_sentence_length", [100, 4, 1])
def test_what_is_shown_is_what_is_read(tokenizer: Tokenizer, max_length: int | None, max_sentence_length: int) -> None:
    document = ["the  storm saw a horse .", "", " hammér\tknife", "it"]
    one = reader(tokenizer, max_length, max_sentence_length)
    shown = one.encode_with_text(document)
    assert [list(sentence.ids) for sentence in shown] == one.encode([document])[0]
    for sentence in shown:
        assert len(sentence.word_of_piece) == len(sentence.ids)
        assert sorted(set(sentence.word_of_piece)) == list(range(len(sentence.words)))
        assert sentence.text == " ".join(sentence.words)
    if max_length is None and max_sentence_length == 100:
        assert [sentence.words for sentence in shown] == [
            ("the", "storm", "saw", "a", "horse", "."),
            (),
            ("hammér", "knife"),
            ("it",),
        ]


# The cache


def encoded(folder: Path, tokenizer: Tokenizer, names: Sequence[str] = ("some",), **filters: Any) -> EncodedCollection:
    options = [
        COLLECTIONS["text"].options(docs=f"{folder}/{name}.txt", labels=f"{folder}/{name}.tsv") for name in names
    ]
    described = data(**filters)
    made = DocumentTokenizer.of(tokenizer, described.language, described.filters)
    collections = [open_collection(each, described) for each in options]
    return encode_collections(collections, made, LABELS, described.filters, folder / "cache", workers=1)


def test_the_cache_holds_what_the_reader_reads(tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents = some_documents(700, 1)
    write_documents(tmp_path, "some", documents)
    found = encoded(tmp_path, tokenizer)
    assert len(found) == 700
    expected = reader(tokenizer).encode([sentences for sentences, _ in documents])
    rows = np.array([3, 699, 0, 3])
    ids, words, sentences = found.documents(rows)
    chosen = [expected[row] for row in rows]
    assert ids.tolist() == [id_ for document in chosen for sentence in document for id_ in sentence]
    assert words.tolist() == [len(sentence) for document in chosen for sentence in document]
    assert sentences.tolist() == [len(document) for document in chosen]
    assert [LABELS[label] for label in found.labels(np.arange(700))] == [label for _, label in documents]
    words_of_each, longest = found.sizes(rows)
    assert words_of_each.tolist() == [sum(map(len, document)) for document in chosen]
    assert longest.tolist() == [max(map(len, document)) for document in chosen]
    again = encoded(tmp_path, tokenizer)
    assert again.report == found.report
    assert len(list((tmp_path / "cache").glob("*/documents.arrow"))) == 1


def test_documents_without_a_word_are_dropped_or_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_documents(tmp_path, "some", [(["the cat"], "animals"), (["", " "], "tools"), (["rain", ""], "weather")])
    found = encoded(tmp_path, tokenizer)
    assert found.labels(np.arange(2)).tolist() == [0, 2]
    name = f"{tmp_path}/some.txt / {tmp_path}/some.tsv"
    assert found.report.lines() == [
        f"{name}: 3 documents read, 2 kept; left out: without a word 1 (line 2)",
        found.report.lines()[1],
        "labels: animals 1, tools 0, weather 1",
    ]
    with pytest.raises(DataError, match=r"some\.txt:2: has no word; mend it, or set data\.filters\.empty: drop"):
        encoded(tmp_path, tokenizer, empty="error")


def test_an_unknown_label_and_an_empty_collection(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_documents(tmp_path, "some", [(["the cat"], "animals"), (["rain"], "wether")])
    with pytest.raises(DataError) as caught:
        encoded(tmp_path, tokenizer)
    assert caught.value.problems == (
        f"{tmp_path}/some.tsv:2: the label 'wether' does not occur in the training text; did you mean 'weather'? "
        "(choose from animals, tools, weather)",
    )
    write_documents(tmp_path, "some", [])
    write_documents(tmp_path, "blank", [([""], "animals")])
    with pytest.raises(DataError) as caught:
        encoded(tmp_path, tokenizer, ["some", "blank"])
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "has no documents",
        "nothing is left of 1 document, see data.filters: without a word 1 (line 1)",
    ]


def test_worker_processes_change_nothing(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_documents(tmp_path, "some", some_documents(40, 1))
    one = encoded(tmp_path, tokenizer)
    monkeypatch.setattr(collection, "CHUNK_DOCUMENTS", 5)
    monkeypatch.setattr(encoding, "CHUNKS_BEFORE_WORKERS", 2)
    monkeypatch.setattr(collection, "FORMAT", 0)
    options = COLLECTIONS["text"].options(docs=f"{tmp_path}/some.txt", labels=f"{tmp_path}/some.tsv")
    made = reader(tokenizer)
    other = encode_collections(
        [open_collection(options, data())], made, LABELS, DocumentFiltersConfig(), tmp_path / "cache", workers=2
    )
    rows = np.arange(40)
    assert all(np.array_equal(a, b) for a, b in zip(one.documents(rows), other.documents(rows), strict=True))
    assert np.array_equal(one.labels(rows), other.labels(rows))
