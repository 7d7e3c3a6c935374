"""Documents as corpora: every format finds the same boundaries, and what cannot be one is one clear line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import TypeAdapter

from nmt.config.registry import PartOptions
from nmt.config.schema import DataConfig, FiltersConfig, TokenizerConfig
from nmt.data.cache import EncodedCorpus, EncodingReport, WeightedRows, encode_corpora, pair_encoding
from nmt.data.cache.encoding import DocumentsReport
from nmt.data.cache.store import report_json
from nmt.data.readers.base import Counts
from nmt.data.readers.corpora import (
    Corpus,
    HuggingFacePairOptions,
    JsonPairOptions,
    ParquetPairOptions,
    TextPairOptions,
    TsvPairOptions,
    open_corpus,
)
from nmt.data.tokenizer import TokenizerPair, learn
from nmt.errors import DataError

ROWS = [("a", "A", "x"), ("b", "B", "x"), ("c", "C", "y"), ("d", "D", "x"), ("e", "E", "x"), ("f", "F", "z")]
"""Source, target and the name of the document. A name that comes back begins another document."""
NUMBERS = [0, 0, 1, 2, 2, 3]


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def opened(options: PartOptions, broken_utf8: str = "error") -> Corpus:
    filters = FiltersConfig.model_validate({"broken_utf8": broken_utf8})
    data = DataConfig(source_language="de", target_language="en", train=[options], validation=options, filters=filters)
    return open_corpus(options, data)


def text_options(folder: Path, documents: str | None, rows: list[tuple[str, str, str]] = ROWS) -> TextPairOptions:
    return TextPairOptions(
        source=write(folder / "x.de", [row[0] for row in rows]),
        target=write(folder / "x.en", [row[1] for row in rows]),
        documents=documents,
    )


def by_file(folder: Path) -> PartOptions:
    return text_options(
        folder, write(folder / "x.docid", [f"{name}\t{line}" for line, (_, _, name) in enumerate(ROWS)])
    )


def by_blank_lines(folder: Path) -> PartOptions:
    rows = [*ROWS[:2], ("", " ", ""), ROWS[2], (" ", "", ""), ("", "", ""), *ROWS[3:5], ("", "", ""), ROWS[5]]
    return text_options(folder, "blank_lines", [("", "", ""), *rows, ("", "", "")])


def tsv(folder: Path) -> PartOptions:
    return TsvPairOptions(path=write(folder / "x.tsv", [f"{d}\t{s}\t{t}" for s, t, d in ROWS]), **columns(2, 3, 1))


def tsv_by_name(folder: Path) -> PartOptions:
    path = write(folder / "h.tsv", ["doc\tde\ten", *(f"{d}\t{s}\t{t}" for s, t, d in ROWS)])
    return TsvPairOptions(path=path, **columns("de", "en", "doc"))


def columns(source: int | str, target: int | str, documents: int | str) -> dict[str, int | str]:
    return {"source_column": source, "target_column": target, "documents_column": documents}


def json_lines(folder: Path) -> PartOptions:
    path = write(folder / "x.jsonl", [json.dumps({"de": s, "en": t, "at": {"doc": d}}) for s, t, d in ROWS])
    return JsonPairOptions(path=path, source="de", target="en", documents="at.doc")


def json_lines_with_numbers(folder: Path) -> PartOptions:
    path = write(folder / "n.jsonl", [json.dumps({"de": s, "en": t, "doc": ord(d)}) for s, t, d in ROWS])
    return JsonPairOptions(path=path, source="de", target="en", documents="doc")


def table() -> pa.Table:
    source, target, documents = zip(*ROWS, strict=True)
    return pa.table({"de": source, "en": target, "doc": documents, "number": list(map(ord, documents))})


def parquet(folder: Path) -> PartOptions:
    pyarrow.parquet.write_table(table(), folder / "x.parquet")
    return ParquetPairOptions(path=str(folder / "x.parquet"), source="de", target="en", documents="doc")


def parquet_with_numbers(folder: Path) -> PartOptions:
    pyarrow.parquet.write_table(table(), folder / "n.parquet")
    return ParquetPairOptions(path=str(folder / "n.parquet"), source="de", target="en", documents="number")


def hugging_face(folder: Path) -> PartOptions:
    datasets.Dataset(table()).save_to_disk(str(folder / "saved"))
    return HuggingFacePairOptions(dataset=str(folder / "saved"), documents="doc")


FORMATS = [
    *(by_file, by_blank_lines, tsv, tsv_by_name, json_lines, json_lines_with_numbers),
    *(parquet, parquet_with_numbers, hugging_face),
]


@pytest.mark.parametrize("options", FORMATS)
def test_every_format_has_the_same_documents(options: Callable[[Path], PartOptions], tmp_path: Path) -> None:
    corpus = opened(options(tmp_path))
    assert corpus.has_documents
    for _ in range(2):
        found = [(pair.source, pair.target, pair.document) for pair in corpus]
        assert found == [(s, t, number) for (s, t, _), number in zip(ROWS, NUMBERS, strict=True)]
    assert corpus.fingerprint() == opened(by_file(tmp_path)).fingerprint()


def test_lines_are_those_of_the_file_where_blank_lines_are_no_pairs(tmp_path: Path) -> None:
    corpus, counts = opened(by_blank_lines(tmp_path)), Counts()
    assert [pair.line for pair in corpus.read(counts)] == [2, 3, 5, 8, 9, 11]
    assert counts.read == 6


def test_without_documents_nothing_has_a_number_and_the_fingerprint_tells(tmp_path: Path) -> None:
    plain = opened(text_options(tmp_path, None))
    assert not plain.has_documents
    assert {pair.document for pair in plain} == {None}
    fingerprints = {plain.fingerprint(), opened(by_file(tmp_path)).fingerprint()}
    other = text_options(tmp_path, write(tmp_path / "y.docid", ["1", "1", "1", "1", "2", "2"]))
    assert len(fingerprints | {opened(other).fingerprint()}) == 3


def test_a_pair_that_is_not_utf8_does_not_begin_a_document_that_is_there_already(tmp_path: Path) -> None:
    """Dropped whole, at the beginning of a document and inside one."""
    (tmp_path / "x.de").write_bytes(b"a\n\xff\nb\n\n\xff\nc\n")
    (tmp_path / "x.en").write_bytes(b"A\nX\nB\n\nX\nC\n")
    options = TextPairOptions(source=f"{tmp_path}/x.de", target=f"{tmp_path}/x.en", documents="blank_lines")
    assert [(pair.source, pair.document) for pair in opened(options, "drop")] == [("a", 0), ("b", 0), ("c", 1)]


def test_limit_counts_pairs(tmp_path: Path) -> None:
    limited = by_blank_lines(tmp_path).model_copy(update={"limit": 3})
    assert [pair.document for pair in opened(limited)] == [0, 0, 1]


def test_blank_alignments_between_documents_and_within(tmp_path: Path) -> None:
    rows = [("a", "A", ""), ("b", "B", ""), ("", "", ""), ("c", "C", "")]
    options = text_options(tmp_path, "blank_lines", rows)
    links = write(tmp_path / "x.align", ["0-0", "", "", "0-0"])
    corpus = opened(options.model_copy(update={"alignments": links}))
    assert [(p.source, p.alignment, p.document) for p in corpus] == [("a", "0-0", 0), ("b", "", 0), ("c", "0-0", 1)]


def problem(options: PartOptions) -> str:
    with pytest.raises(DataError) as caught:
        list(opened(options))
    (found,) = caught.value.problems
    return found


def test_what_cannot_be_a_boundary_is_said(tmp_path: Path) -> None:
    rows = [("a", "A", ""), ("", "B", ""), ("c", "C", "")]
    found = problem(text_options(tmp_path, "blank_lines", rows))
    assert found.startswith(f"{tmp_path}/x.de:2: is blank, which ends a document, but the target is not")
    found = problem(text_options(tmp_path, "blank_lines", [("a", " ", "")]))
    assert found.startswith(f"{tmp_path}/x.en:1: is blank, which ends a document, but the source is not")
    options = text_options(tmp_path, "blank_lines", [("a", "A", ""), ("", "", "")])
    links = write(tmp_path / "x.align", ["0-0", "0-0"])
    found = problem(options.model_copy(update={"alignments": links}))
    assert found.startswith(f"{tmp_path}/x.align:2: links words where the text is blank")

    found = problem(text_options(tmp_path, write(tmp_path / "x.docid", ["x", "\t2", "x", "x", "x", "x"])))
    assert found == f"{tmp_path}/x.docid:2: names no document; every line names its own"
    found = problem(text_options(tmp_path, write(tmp_path / "x.docid", ["x", "x"])))
    assert f"{tmp_path}/x.docid has 2" in found


def test_what_names_no_document_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [json.dumps({"de": "a", "en": "b", "doc": value}) for value in ("x", None)])
    options = JsonPairOptions(path=path, source="de", target="en", documents="doc")
    assert problem(options) == f"{path}:2: field 'doc' is null, not a string or a whole number"
    path = write(tmp_path / "y.jsonl", [json.dumps({"de": "a", "en": "b", "doc": True})])
    assert problem(options.model_copy(update={"path": path})).endswith("is bool, not a string or a whole number")
    assert problem(options.model_copy(update={"source": "doc", "path": path})).endswith("is bool, not a string")
    pyarrow.parquet.write_table(pa.table({"de": ["a"], "en": ["b"], "doc": [1.5]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'doc' is double, not text or whole numbers"):
        opened(ParquetPairOptions(path=str(tmp_path / "x.parquet"), source="de", target="en", documents="doc"))
    with pytest.raises(DataError, match="no column 'document'"):
        opened(ParquetPairOptions(path=str(tmp_path / "x.parquet"), source="de", target="en", documents="document"))
    with pytest.raises(DataError, match=r"y\.docid: No such file"):
        opened(text_options(tmp_path, str(tmp_path / "y.docid")))


# The cache


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    words = [f"w{number} {chr(97 + number % 26)}{number}" for number in range(200)]
    options = TokenizerConfig(vocabulary_size=60, shared=True)
    return learn(options, lambda: list(zip(words, words, strict=True)), seed=1)


LONG = "a " * 40
DOCUMENTS = [
    [("a a", "a"), (LONG, "b"), ("b", "b b"), ("c", LONG)],
    [("d", "")],
    [("", "e"), ("f", "f"), ("a a", "a"), ("b a", "b a")],
]
"""Left out: too long on either side, an empty side on either, and a pair that was there before."""


def documents_corpus(
    folder: Path, documents: list[list[tuple[str, str]]], name: str = "d", weight: float = 1.0
) -> Corpus:
    rows = [(s, t, str(number)) for number, document in enumerate(documents) for s, t in document]
    options = TextPairOptions(
        source=write(folder / f"{name}.de", [row[0] for row in rows]),
        target=write(folder / f"{name}.en", [row[1] for row in rows]),
        documents=write(folder / f"{name}.docid", [row[2] for row in rows]),
        weight=weight,
    )
    return opened(options)


def sides(encoded: EncodedCorpus, tokenizers: TokenizerPair) -> list[tuple[str, str]]:
    rows = np.arange(len(encoded))
    found = []
    for (ids, offsets), tokenizer in (
        (encoded.source(rows), tokenizers.source),
        (encoded.target(rows), tokenizers.target),
    ):
        found.append(tokenizer.decode([ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]))
    return list(zip(*found, strict=True))


def pair_rows(encoded: EncodedCorpus) -> list[int]:
    return np.flatnonzero(encoded.is_pair(np.arange(len(encoded)))).tolist()


def test_what_is_left_out_of_a_document_stays_as_context(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    filters = FiltersConfig(max_length=30, duplicates="drop")
    corpus = documents_corpus(tmp_path, DOCUMENTS)
    encoded = encode_corpora([corpus], tokenizers, filters, tmp_path / "cache", 1, keep_text=True)
    texts = [pair for document in DOCUMENTS for pair in document if pair[0]]
    assert [(s.strip(), t.strip()) for s, t in texts] == sides(encoded, tokenizers)
    assert encoded.text(np.arange(len(encoded))) == tuple(list(side) for side in zip(*texts, strict=True))
    assert pair_rows(encoded) == [0, 2, 5, 7]
    assert encoded.document_positions.tolist() == [0, 1, 2, 3, 0, 0, 1, 2]
    assert encoded.location(7) == f"{tmp_path}/d.de:9"
    report = encoded.report
    assert (report.read, report.kept, report.duplicates) == (9, 4, 1)
    assert report.dropped == {"too long": 2, "empty side": 2, "duplicate": 1}
    assert report.documents == DocumentsReport(count=3, sentences=8, longest=4, context_alone=4)
    assert "documents: 3, 2.7 sentences each, longest 4; 4 sentences of context alone" in report.lines()
    # Pieces are counted of pairs alone.
    truth = tokenizers.source.encode([texts[row][0] for row in pair_rows(encoded)])
    assert report.source.pieces == sum(map(len, truth))
    assert report.source.longest == max(map(len, truth))
    assert TypeAdapter(EncodingReport).validate_json(report_json(report)) == report


def test_pairs_are_those_of_the_same_text_without_documents(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    filters = FiltersConfig(max_length=30, duplicates="drop")
    corpus = documents_corpus(tmp_path, DOCUMENTS)
    plain = opened(TextPairOptions(source=f"{tmp_path}/d.de", target=f"{tmp_path}/d.en"))
    documents, sentences = (
        encode_corpora([each], tokenizers, filters, tmp_path / "cache", 1, keep_text=False) for each in (corpus, plain)
    )
    assert sentences.document_positions is None
    assert sentences.report.documents is None
    known = sides(documents, tokenizers)
    assert [known[row] for row in pair_rows(documents)] == sides(sentences, tokenizers)
    assert documents.report.corpora[0].dropped == sentences.report.corpora[0].dropped
    assert (documents.report.source, documents.report.target) == (sentences.report.source, sentences.report.target)


def test_a_repeated_context_is_no_duplicate(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    """A pair that is too long is left out for that alone, wherever it stands."""
    corpus = documents_corpus(tmp_path, [[(LONG, "x"), (LONG, "x"), ("a", "a")]])
    encoded = encode_corpora([corpus], tokenizers, FiltersConfig(max_length=30), tmp_path / "cache", 1, keep_text=False)
    assert encoded.report.duplicates == 0


def test_without_filters_every_sentence_of_a_document_is_a_pair(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    encoded = encode_corpora(
        [documents_corpus(tmp_path, DOCUMENTS)], tokenizers, None, tmp_path / "cache", 1, keep_text=False
    )
    assert pair_rows(encoded) == list(range(9))
    assert encoded.document_positions.tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3]
    # An empty sentence, the sixth, is passed over.
    assert encoded.previous_rows(np.arange(-1, 9)).tolist() == [-1, -1, 0, 1, 2, -1, -1, -1, 6, 7]


def test_corpora_with_and_without_documents_mix(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    """A pair of the one without stands alone; one that is left out of it is gone."""
    lines = [("a", "a"), (LONG, "b"), ("c", "c")]
    plain = opened(
        TextPairOptions(
            source=write(tmp_path / "p.de", [s for s, _ in lines]),
            target=write(tmp_path / "p.en", [t for _, t in lines]),
        )
    )
    corpora = [
        documents_corpus(tmp_path, DOCUMENTS[:1], "one", weight=2.0),
        plain,
        documents_corpus(tmp_path, [[("x", "x"), ("y", "y")], [("z", "z")]], "two"),
    ]
    encoded = encode_corpora(corpora, tokenizers, FiltersConfig(max_length=30), tmp_path / "cache", 1, keep_text=False)
    assert encoded.document_positions.tolist() == [0, 1, 2, 3, 0, 0, 0, 1, 0]
    assert encoded.previous_rows(np.array([8, 7, 4, 3, 5])).tolist() == [-1, 6, -1, 2, -1]
    assert pair_rows(encoded) == [0, 2, 4, 5, 6, 7, 8]
    assert encoded.parts == [WeightedRows(0, 4, 2.0), WeightedRows(4, 6, 1.0), WeightedRows(6, 9, 1.0)]


def test_documents_go_on_from_chunk_to_chunk(
    tmp_path: Path, tokenizers: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_encoding, "CHUNK_PAIRS", 3)
    documents = [[(f"a{number}", "b")] * size for number, size in enumerate((4, 1, 7, 3, 2))]
    encoded = encode_corpora(
        [documents_corpus(tmp_path, documents)] * 2, tokenizers, None, tmp_path / "cache", 1, keep_text=False
    )
    assert encoded.document_positions.tolist() == [place for size in (4, 1, 7, 3, 2) * 2 for place in range(size)]


def test_what_goes_does_not_count_as_a_place_from_chunk_to_chunk(
    tmp_path: Path, tokenizers: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences without a source, at the border of a chunk and a whole chunk of them."""
    monkeypatch.setattr(pair_encoding, "CHUNK_PAIRS", 2)
    documents = [[("a", "b"), ("", "b"), ("", "b"), ("", "b"), ("c", "d")], [("", "x"), ("e", "f"), ("g", "h")]]
    encoded = encode_corpora(
        [documents_corpus(tmp_path, documents)], tokenizers, FiltersConfig(), tmp_path / "cache", 1, keep_text=False
    )
    assert encoded.document_positions.tolist() == [0, 1, 0, 1]


def test_duplicates_go_from_one_corpus_and_stay_as_context_in_another(
    tmp_path: Path, tokenizers: TokenizerPair
) -> None:
    lines = [("a", "a"), ("b", "b"), ("a", "a"), ("c", "c")]
    plain = TextPairOptions(
        source=write(tmp_path / "p.de", [s for s, _ in lines]), target=write(tmp_path / "p.en", [t for _, t in lines])
    )
    corpora = [opened(plain), documents_corpus(tmp_path, [lines[:2], [("d", "d"), ("b", "b"), ("e", "e")]])]
    encoded = encode_corpora(
        corpora, tokenizers, FiltersConfig(duplicates="drop"), tmp_path / "cache", 1, keep_text=True
    )
    rows = np.arange(len(encoded))
    assert encoded.text(rows)[0] == ["a", "b", "c", "a", "b", "d", "b", "e"]
    assert encoded.is_pair(rows).tolist() == [True, True, True, False, False, True, False, True]
    assert encoded.document_positions.tolist() == [0, 0, 0, 0, 1, 0, 1, 2]
    assert encoded.report.documents == DocumentsReport(count=5, sentences=8, longest=3, context_alone=3)
    assert [(each.read, each.kept) for each in encoded.report.corpora] == [(4, 3), (5, 2)]
    assert encoded.parts == [WeightedRows(0, 3, 1.0), WeightedRows(3, 8, 1.0)]


def test_a_document_ends_with_its_corpus(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    corpora = [documents_corpus(tmp_path, [[("a", "b")] * 2], name) for name in ("one", "two", "three")]
    encoded = encode_corpora(corpora, tokenizers, None, tmp_path / "cache", 1, keep_text=False)
    assert encoded.document_positions.tolist() == [0, 1] * 3
