"""Word alignments of a corpus: they stay with their pairs from the file to the batch, and every mistake is one line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from pydantic import TypeAdapter

from nmt.config.registry import PartOptions
from nmt.config.schema import DataConfig, FiltersConfig, TokenizerConfig
from nmt.data.batching import Batch, BatchStream, Position
from nmt.data.batching.pair_batches import Links, link_pieces
from nmt.data.cache import EncodedCorpus, EncodingReport, Ragged, encode_corpora, flatten
from nmt.data.cache.pair_encoding import parse_links
from nmt.data.cache.store import report_json
from nmt.data.readers.corpora import (
    Corpus,
    HuggingFacePairOptions,
    JsonPairOptions,
    Pair,
    ParquetPairOptions,
    TextPairOptions,
    TsvPairOptions,
    open_corpus,
)
from nmt.data.tokenizer import SPACE, Tokenizer, TokenizerPair, learn
from nmt.errors import DataError

ROWS = [("ein Hund", "a dog", "0-0 1-1"), ("läuft", "runs fast", ""), ("der Ball ist rot", "red ball", "3-0 1-1")]
WORDS = ["Hund", "Katze", "läuft", "schläft", "der", "die", "groß", "klein", "Haus", "und"]


def data(broken_utf8: str = "error") -> DataConfig:
    anything = TextPairOptions(source="unused", target="unused")
    filters = FiltersConfig.model_validate({"broken_utf8": broken_utf8})
    return DataConfig(
        source_language="de", target_language="en", train=[anything], validation=anything, filters=filters
    )


def write(path: Path, lines: Sequence[str]) -> str:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    return str(path)


def text_options(
    folder: Path, rows: Sequence[tuple[str, str, str]], name: str = "x", aligned: bool = True, **options: object
) -> TextPairOptions:
    paths = [
        write(folder / f"{name}.{suffix}", [row[column] for row in rows])
        for column, suffix in enumerate(("de", "en", "align"))
    ]
    alignments = paths[2] if aligned else None
    return TextPairOptions.model_validate({"source": paths[0], "target": paths[1], "alignments": alignments, **options})


def opened(options: PartOptions, broken_utf8: str = "error") -> Corpus:
    return open_corpus(options, data(broken_utf8))


def problems(options: PartOptions) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        list(opened(options))
    return caught.value.problems


# Corpora


@pytest.fixture(params=["text", "tsv", "tsv by name", "jsonl", "parquet", "huggingface"])
def same_content(request: pytest.FixtureRequest, tmp_path: Path) -> PartOptions:
    """The rows above in each format."""
    table = {name: [row[column] for row in ROWS] for column, name in enumerate(("de", "en", "links"))}
    match request.param:
        case "text":
            return text_options(tmp_path, ROWS)
        case "tsv":
            path = write(tmp_path / "x.tsv", [f"{links}\t{target}\t{source}" for source, target, links in ROWS])
            return TsvPairOptions(path=path, source_column=3, target_column=2, alignments_column=1)
        case "tsv by name":
            path = write(tmp_path / "x.tsv", ["de\ten\tlinks", *("\t".join(row) for row in ROWS)])
            return TsvPairOptions(path=path, alignments_column="links")
        case "jsonl":
            lines = [json.dumps({"pair": {"de": s, "en": t}, "links": links}) for s, t, links in ROWS]
            path = write(tmp_path / "x.jsonl", lines)
            return JsonPairOptions(path=path, source="pair.de", target="pair.en", alignments="links")
        case "parquet":
            parquet.write_table(pa.table(table), tmp_path / "x.parquet")
            return ParquetPairOptions(path=str(tmp_path / "x.parquet"), source="de", target="en", alignments="links")
        case _:
            datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
            return HuggingFacePairOptions(dataset=str(tmp_path / "saved"), alignments="links")


def test_every_format_gives_the_same_alignments(same_content: PartOptions, tmp_path: Path) -> None:
    corpus = opened(same_content)
    assert corpus.has_alignments
    # A header is a line of its own.
    first = 2 if isinstance(same_content, TsvPairOptions) and isinstance(same_content.alignments_column, str) else 1
    assert list(corpus) == [Pair(s, t, line, links) for line, (s, t, links) in enumerate(ROWS, start=first)]
    assert corpus.fingerprint() == opened(text_options(tmp_path, ROWS, "plain")).fingerprint()


def test_the_fingerprint_changes_with_the_alignments(tmp_path: Path) -> None:
    variants = {
        "none": text_options(tmp_path, ROWS, aligned=False),
        "these": text_options(tmp_path, ROWS, "these"),
        "blank": text_options(tmp_path, [(s, t, "") for s, t, _ in ROWS], "blank"),
        "moved": text_options(tmp_path, [(*ROWS[row][:2], ROWS[2 - row][2]) for row in range(3)], "moved"),
    }
    assert len({opened(options).fingerprint() for options in variants.values()}) == len(variants)


def test_a_pair_never_shifts_against_its_alignment(tmp_path: Path) -> None:
    for count in (0, 2, 4):
        options = text_options(tmp_path, ROWS)
        write(tmp_path / "x.align", ["0-0"] * count)
        [problem] = problems(options)
        sides = f"{tmp_path / 'x.de'} has 3 lines and {tmp_path / 'x.en'} has 3"
        assert problem == f"{sides} and {tmp_path / 'x.align'} has {count}; line n of each must belong to the same pair"


def test_a_missing_alignment_is_said_with_its_place(tmp_path: Path) -> None:
    options = TextPairOptions(source="no.de", target="no.en", alignments=str(tmp_path / "no.align"))
    with pytest.raises(DataError) as caught:
        opened(options)
    assert caught.value.problems[2] == f"{tmp_path / 'no.align'}: No such file or directory"
    tsv = TsvPairOptions(path=write(tmp_path / "x.tsv", ["a\tb\t0-0", "a\tb"]), alignments_column=3)
    assert problems(tsv) == (f"{tsv.path}:2: 2 columns separated by tabs, but column 3 is needed",)
    jsonl = JsonPairOptions(
        path=write(tmp_path / "x.jsonl", ['{"s": "a", "t": "b", "l": null}']), source="s", target="t", alignments="l"
    )
    assert problems(jsonl) == (f"{jsonl.path}:1: field 'l' is null, not a string",)
    path = str(tmp_path / "x.parquet")
    parquet.write_table(pa.table({"s": ["a"], "t": ["b"], "l": pa.array([None], pa.string())}), path)
    columns = {"path": path, "source": "s", "target": "t"}
    assert problems(ParquetPairOptions(**columns, alignments="l")) == (f"{path}:1: no value in column 'l'",)
    assert problems(ParquetPairOptions(**columns, alignments="m")) == (
        f"{path}: no column 'm'; there are 's', 't', 'l'",
    )


def test_broken_utf8_in_an_alignment_counts_as_in_a_side(tmp_path: Path) -> None:
    options = text_options(tmp_path, [("a", "b", "0-0"), ("a", "b", "0-0\udcff"), ("c", "d", "")])
    [problem] = problems(options)
    assert problem.startswith(f"{tmp_path / 'x.align'}:2: not UTF-8")
    assert [(pair.line, pair.alignment) for pair in opened(options, "drop")] == [(1, "0-0"), (3, "")]


# The format


@pytest.mark.parametrize(
    ("line", "links"),
    [
        ("0-0 2-1", [0, 0, 2, 1]),
        ("", []),
        ("  \t ", []),
        (" 2-1  0-0\t1-3 ", [2, 1, 0, 0, 1, 3]),
        ("0-0 1-1 0-0 00-0", [0, 0, 1, 1]),
    ],
)
def test_links_of_a_line(line: str, links: list[int]) -> None:
    assert parse_links(line, source_words=3, target_words=4) == links


@pytest.mark.parametrize(
    "link", ["3-", "-3", "0", "0-0-0", "0:0", "0?0", "a-b", "0-0,1-1", "−1-0", "0.5-1", "٠-٠", "-1-0"]
)
def test_what_is_no_link_is_said(link: str) -> None:
    with pytest.raises(ValueError, match="is not a link such as 0-0") as caught:
        parse_links(f"0-0 {link} 1-1", 3, 4)
    assert repr(link) in str(caught.value)


@pytest.mark.parametrize("link", ["3-0", "0-4", "99999999999999999999999-0"])
def test_a_link_outside_of_the_pair_is_said(link: str) -> None:
    with pytest.raises(ValueError, match=f"^{link} is outside of the pair of 3 source and 4 target words, which count"):
        parse_links(f"2-3 {link}", 3, 4)


# From words to pieces


def words(*rows: list[int]) -> Ragged:
    return flatten(rows, np.int64)


def shares(links: Links) -> dict[tuple[int, int, int], float]:
    """(row, target piece, source piece) -> share."""
    columns = (links.row_L.tolist(), links.target_L.tolist(), links.source_L.tolist(), links.share_L.tolist())
    found = {(row, target, source): share for row, target, source, share in zip(*columns, strict=True)}
    assert len(found) == len(links.row_L), "a link stands there twice"
    return found


def test_links_between_words_are_links_between_all_their_pieces() -> None:
    # Pair 0: source words of pieces [0], [1, 2], [3]; target words of pieces [0, 1], [2]. Linked are 1-0 and 2-1.
    # Pair 1 has no links; its words were left out.
    # Pair 2: source words [0, 1], [2]; target words [0], [1, 2]. Linked are 0-0, 1-0 and 1-1.
    links = link_pieces(
        links=words([1, 0, 2, 1], [], [0, 0, 1, 0, 1, 1]),
        source_words=words([0, 1, 1, 2], [], [0, 0, 1]),
        target_words=words([0, 0, 1], [], [0, 1, 1]),
    )
    assert shares(links) == pytest.approx(
        {
            (0, 0, 1): 1 / 2,
            (0, 0, 2): 1 / 2,
            (0, 1, 1): 1 / 2,
            (0, 1, 2): 1 / 2,
            (0, 2, 3): 1.0,
            # Piece 0 is linked with both pieces of word 0 and the one of word 1.
            (2, 0, 0): 1 / 3,
            (2, 0, 1): 1 / 3,
            (2, 0, 2): 1 / 3,
            (2, 1, 2): 1.0,
            (2, 2, 2): 1.0,
        }
    )
    assert links.target_pieces == 6
    assert [part.dtype for part in (links.row_L, links.target_L, links.source_L)] == [torch.int64] * 3
    assert links.share_L.dtype == torch.float32


def test_a_word_that_normalisation_removed_has_no_links() -> None:
    # Source word 1 has no piece; target piece 1 keeps the link with word 2 alone, target piece 0 has none left.
    links = link_pieces(words([1, 0, 1, 1, 2, 1]), words([0, 2]), words([0, 1, 2]))
    assert shares(links) == {(0, 1, 1): 1.0}
    assert links.target_pieces == 1


def test_no_links_at_all() -> None:
    links = link_pieces(words([], []), words([], []), words([], []))
    assert shares(links) == {}
    assert links.target_pieces == 0


# The cache


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    options = TokenizerConfig(vocabulary_size=60, shared=False)
    rng = np.random.default_rng(0)
    return learn(options, lambda: [(" ".join(rng.choice(WORDS, 8)),) * 2 for _ in range(300)], seed=1)


def encode(
    folder: Path,
    corpora: Sequence[PartOptions],
    tokenizers: TokenizerPair,
    filters: FiltersConfig | None = None,
    keep_text: bool = False,
) -> EncodedCorpus:
    return encode_corpora(list(map(opened, corpora)), tokenizers, filters, folder / "cache", 1, keep_text)


def test_the_cache_changes_with_the_alignments_and_knows_how_many_there_are(
    tmp_path: Path, tokenizers: TokenizerPair
) -> None:
    without = encode(tmp_path, [text_options(tmp_path, ROWS, aligned=False)], tokenizers)
    encoded = encode(tmp_path, [text_options(tmp_path, ROWS)], tokenizers)
    other = encode(tmp_path, [text_options(tmp_path, [*ROWS[:2], (*ROWS[2][:2], "3-0")], "other")], tokenizers)
    assert len({without.fingerprint, encoded.fingerprint, other.fingerprint}) == 3
    assert (without.has_links, encoded.has_links) == (False, True)
    assert (without.report.aligned, encoded.report.aligned) == (None, 2)
    assert "alignments: 2 of 3 pairs have links" in encoded.report.lines()
    assert TypeAdapter(EncodingReport).validate_json(report_json(encoded.report)) == encoded.report
    again = encode(tmp_path, [text_options(tmp_path, ROWS)], tokenizers)
    assert again.report == encoded.report


def test_wrong_lines_are_told_at_once_with_file_and_line(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    good = [("ein Hund", "a dog", "0-0")] * 2500
    rows = list(good)
    for line, links in ((3, "0-2"), (5, "1-1 x"), (2200, "2-0"), (2300, "0=0"), (2400, "0"), (2450, "1")):
        rows[line - 1] = (*rows[line - 1][:2], links)
    path = tmp_path / "x.align"
    with pytest.raises(DataError) as caught:
        encode(tmp_path, [text_options(tmp_path, good, "good"), text_options(tmp_path, rows)], tokenizers)
    outside = "is outside of the pair of 2 source and 2 target words, which count from 0; words are what spaces"
    found = caught.value.problems
    assert found[0].startswith(f"{path}:3: 0-2 {outside}")
    assert found[1] == f"{path}:5: 'x' is not a link such as 0-0"
    assert found[2].startswith(f"{path}:2200: 2-0 {outside}")
    assert found[3:] == (f"{path}:2300: '0=0' is not a link such as 0-0", f"{path}:2400: '0' is not a link such as 0-0")
    assert {entry.suffix for entry in (tmp_path / "cache").iterdir()} == {".lock"}


def test_words_are_those_of_the_raw_text(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    """Spaces in a row separate once; a no-break space, which the tokenizer takes for a space, does not separate."""
    rows = [("der  Hund\u00a0und Haus", "die Katze und", "0-0 2-2")]
    encoded = encode(tmp_path, [text_options(tmp_path, rows)], tokenizers)
    word_of_source = np.array(encoded.words("source_words", np.array([0]))[0])
    pieces = tokenizers.source.pieces(encoded.source(np.array([0]))[0])
    spelled = ["".join(p for p, w in zip(pieces, word_of_source, strict=True) if w == word) for word in range(3)]
    assert spelled == [f"{SPACE}der", f"{SPACE}Hund{SPACE}und", f"{SPACE}Haus"]
    with pytest.raises(DataError, match="3-0 is outside of the pair of 3 source and 3 target words"):
        encode(tmp_path, [text_options(tmp_path, [(*rows[0][:2], "3-0")], "y")], tokenizers)


# Batches


def numbered(count: int) -> list[tuple[str, str, str]]:
    """Pairs of random words, each with links of its own; every fifth has none, and every seventh is too long."""
    rng = np.random.default_rng(2)
    rows = []
    for number in range(count):
        sizes = rng.integers(1, 12, 2) if number % 7 else (30, 30)
        source, target = (" ".join(rng.choice(WORDS, size)) for size in sizes)
        links = {(int(rng.integers(sizes[0])), int(rng.integers(sizes[1]))) for _ in range(rng.integers(1, 6))}
        rows.append((source, target, "" if number % 5 == 0 else " ".join(f"{s}-{t}" for s, t in links)))
    return rows


def naive(pieces: tuple[list[str], list[str]], alignment: str) -> set[tuple[int, int]]:
    """(target piece, source piece) by a loop; a piece that begins with a space begins a word."""
    starts = [[index for index, piece in enumerate(side) if piece.startswith(SPACE)] + [len(side)] for side in pieces]
    linked = set()
    for link in alignment.split():
        source, target = (
            range(start[int(word)], start[int(word) + 1]) for start, word in zip(starts, link.split("-"), strict=True)
        )
        linked |= {(t, s) for t in target for s in source}
    return linked


def sentence(row: torch.Tensor, length: int, tokenizer: Tokenizer) -> list[str]:
    """The pieces of a row of a batch, without the end symbol."""
    return tokenizer.pieces(row[: length - 1].tolist())


def check_links(batch: Batch, expected: dict[tuple[str, str], str], tokenizers: TokenizerPair) -> Counter[str]:
    """Every pair has the links of its own line, and shares that add up; counts the pairs that were seen."""
    assert batch.links is not None
    found = shares(batch.links)
    seen: Counter[str] = Counter()
    linked_pieces = 0
    for row in range(len(batch.rows)):
        source = sentence(batch.source_BS[row], int(batch.source_lengths_B[row]), tokenizers.source)
        target = sentence(batch.target_BT[row], int(batch.target_lengths_B[row]), tokenizers.target)
        text = tuple("".join(side).replace(SPACE, " ").strip() for side in (source, target))
        mine = {(t, s): share for (r, t, s), share in found.items() if r == row}
        links = naive((source, target), expected[text])
        assert mine.keys() == links
        pieces = Counter(t for t, _ in links)
        assert mine == pytest.approx({(t, s): 1 / pieces[t] for t, s in links})
        linked_pieces += len(pieces)
        seen["linked" if links else "bare"] += 1
    assert batch.links.target_pieces == batch.linked_pieces == linked_pieces
    return seen


@pytest.mark.parametrize("sampling", [0.0, 0.3])
def test_every_pair_keeps_its_own_links_through_filters_and_shuffling(
    tmp_path: Path, tokenizers: TokenizerPair, sampling: float
) -> None:
    """Several corpora, one without alignments, weights, a limit, duplicates, pairs too long, ranks and accumulation."""
    rows, bare = numbered(400), [(f"{s} Hund", t, "9-9") for s, t, _ in numbered(60)]
    doubled = [row for row in rows for _ in range(2)]
    corpora = [
        text_options(tmp_path, doubled[:700], "a", weight=1.5),
        text_options(tmp_path, bare, "b", aligned=False),
        text_options(tmp_path, rows, "c", limit=390),
    ]
    expected = {(s, t): links for s, t, links in rows} | {(s, t): "" for s, t, _ in bare}
    filters = FiltersConfig(max_length=40, max_ratio=5.0, duplicates="drop")
    encoded = encode(tmp_path, corpora, tokenizers, filters, keep_text=sampling > 0)
    assert set(encoded.report.dropped) == {"too long", "length ratio", "duplicate"}
    seen: Counter[str] = Counter()
    for rank in range(2):
        stream = BatchStream(encoded, 300, 1, rank, 2, 2, tokenizers, sampling, with_links=True)
        for update in stream.updates(Position(1, 0)):
            for batch in update:
                if batch.weight:
                    seen += check_links(batch, expected, tokenizers)
                else:
                    assert batch.links is None
        check_links(stream.largest_batch(), expected, tokenizers)
    assert seen["linked"] > 200
    assert seen["bare"] > 60
    for batch in next(iter(BatchStream(encoded, 300, 1, 0, 1, 2, tokenizers, sampling).updates(Position()))):
        assert batch.links is None


def test_sampled_pieces_are_those_of_sampling_and_change_with_the_epoch(
    tmp_path: Path, tokenizers: TokenizerPair
) -> None:
    """With and without links the same ids are drawn."""
    encoded = encode(tmp_path, [text_options(tmp_path, numbered(40))], tokenizers, keep_text=True)
    drawn = {
        (epoch, links): [
            batch.source_BS.tolist()
            for update in BatchStream(encoded, 200, 1, 0, 1, 1, tokenizers, 0.3, links).updates(Position(epoch))
            for batch in update
        ]
        for epoch in (0, 1)
        for links in (False, True)
    }
    assert drawn[0, True] == drawn[0, False]
    assert drawn[1, True] == drawn[1, False]
    assert drawn[0, True] != drawn[1, True]
    alphas = tokenizers.source.sample_spans(["der Hund  läuft "], 0.5, 4)
    assert alphas[0] == tokenizers.source.sample(["der Hund  läuft "], 0.5, 4)


def test_links_go_to_the_device_with_the_batch(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    encoded = encode(tmp_path, [text_options(tmp_path, ROWS)], tokenizers)
    stream = BatchStream(encoded, 300, 1, 0, 1, 1, tokenizers, 0.0, with_links=True)
    there = stream.largest_batch().to(torch.device("meta")).links
    assert there is not None
    assert {part.device.type for part in (there.row_L, there.target_L, there.source_L, there.share_L)} == {"meta"}
    assert there.target_pieces == stream.largest_batch().linked_pieces
