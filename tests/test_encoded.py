"""The encoded cache: the tokenizer's ids, every pair accounted for, and never half a cache taken for a whole one."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from nmt.config.schema import DataConfig, FiltersConfig, TokenizerConfig
from nmt.data.cache import EncodedCorpus, EncodingReport, WeightedRows, encode_corpora
from nmt.data.cache.encoding import Chunk, encode_chunks
from nmt.data.cache.pair_encoding import PairTools, encode_pairs, first_occurrences, reasons_to_drop
from nmt.data.cache.store import report_json
from nmt.data.readers.corpora import Corpus, Pair, TextPairOptions, TsvPairOptions, open_corpus
from nmt.data.tokenizer import TokenizerPair, learn
from nmt.errors import DataError

WORDS = ["Hund", "Katze", "läuft", "schläft", "der", "die", "groß", "klein", "Haus", "und"]
Texts = Sequence[tuple[str, str]]


def sentences(count: int, seed: int = 0, longest: int = 12) -> list[tuple[str, str]]:
    """Pairs of random words, no two pairs alike: the number in front sees to that."""
    rng = np.random.default_rng(seed)

    def side() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, longest)))

    return [(f"{number} {side()}", f"{number} {side()}") for number in range(count)]


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    options = TokenizerConfig(vocabulary_size=90, shared=False, character_coverage=1.0)
    return learn(options, lambda: sentences(300), seed=1)


def corpus(folder: Path, pairs: Texts, name: str = "train", weight: float = 1.0, broken_utf8: str = "error") -> Corpus:
    folder.mkdir(exist_ok=True)
    for index, suffix in enumerate(("de", "en")):
        lines = (pair[index].encode("utf-8", "surrogateescape") + b"\n" for pair in pairs)
        (folder / f"{name}.{suffix}").write_bytes(b"".join(lines))
    options = TextPairOptions(source=str(folder / f"{name}.de"), target=str(folder / f"{name}.en"), weight=weight)
    return open_corpus(options, data(options, broken_utf8))


def data(options: TextPairOptions | TsvPairOptions, broken_utf8: str = "error") -> DataConfig:
    filters = FiltersConfig.model_validate({"broken_utf8": broken_utf8})
    return DataConfig(source_language="de", target_language="en", train=[options], validation=options, filters=filters)


def encode(
    folder: Path,
    corpora: Sequence[Corpus],
    tokenizers: TokenizerPair,
    filters: FiltersConfig | None = None,
    keep_text: bool = False,
) -> EncodedCorpus:
    return encode_corpora(corpora, tokenizers, filters, folder / "cache", workers=1, keep_text=keep_text)


def ids_of(encoded: EncodedCorpus) -> list[tuple[list[int], list[int]]]:
    """All pairs, row by row."""
    rows = np.arange(len(encoded))
    sides = []
    for ids, offsets in (encoded.source(rows), encoded.target(rows)):
        sides.append([ids[start:end].tolist() for start, end in pairwise(offsets)])
    return list(zip(*sides, strict=True))


def expected(tokenizers: TokenizerPair, pairs: Texts) -> list[tuple[list[int], list[int]]]:
    sources = tokenizers.source.encode([source for source, _ in pairs])
    targets = tokenizers.target.encode([target for _, target in pairs])
    return list(zip(sources, targets, strict=True))


def test_ids_are_the_tokenizers(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = sentences(5000)  # three chunks
    encoded = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers)
    truth = expected(tokenizers, pairs)
    assert ids_of(encoded) == truth
    rows = np.array([4999, 0, 2048, 0])
    lengths = [side.tolist() for side in encoded.lengths(rows)]
    assert lengths == [[len(truth[row][side]) for row in rows] for side in (0, 1)]


def test_any_rows_in_any_order(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = sentences(100)
    encoded = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers)
    ids, offsets = encoded.target(np.array([99, 3, 3, 0]))
    truth = [target for _, target in expected(tokenizers, [pairs[99], pairs[3], pairs[3], pairs[0]])]
    assert np.split(ids, offsets[1:-1])[0].tolist() == truth[0]
    assert ids.tolist() == list(chain.from_iterable(truth))
    assert offsets.tolist() == np.cumsum([0, *map(len, truth)]).tolist()
    assert ids.dtype == np.int32
    nothing, bounds = encoded.source(np.array([], np.int64))
    assert (nothing.tolist(), bounds.tolist()) == ([], [0])


def test_corpora_follow_each_other_with_their_weights_and_places(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    corpora = [corpus(tmp_path, sentences(3), "a"), corpus(tmp_path, sentences(2, seed=5), "b", weight=2.5)]
    encoded = encode(tmp_path, corpora, tokenizers)
    assert encoded.parts == [WeightedRows(0, 3, 1.0), WeightedRows(3, 5, 2.5)]
    assert encoded.location(4) == f"{tmp_path / 'b.de'}:2"
    # A weight is no part of the cache: changing it must not cost a second tokenization, nor be forgotten.
    reweighted = [corpus(tmp_path, sentences(3), "a", weight=0.5), corpora[1]]
    again = encode(tmp_path, reweighted, tokenizers)
    assert again.fingerprint == encoded.fingerprint
    assert again.parts == [WeightedRows(0, 3, 0.5), WeightedRows(3, 5, 2.5)]


def test_text_is_kept_where_asked_for(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = [("größer", "日本 😀"), ("", "x"), (" Rand ", "edge")]
    encoded = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers, keep_text=True)
    assert encoded.has_text
    assert encoded.text(np.array([2, 0, 1])) == ([" Rand ", "größer", ""], ["edge", "日本 😀", "x"])
    assert not encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers).has_text


def test_without_filters_every_pair_stays(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = [("", ""), ("Hund", ""), ("", "Katze"), ("Hund " * 300, "Hund"), ("Hund", "Katze"), ("Hund", "Katze")]
    encoded = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers)
    assert ids_of(encoded) == expected(tokenizers, pairs)
    assert (encoded.report.read, encoded.report.kept, encoded.report.dropped) == (6, 6, {})
    assert encoded.report.duplicates == 1


def test_filters_by_hand() -> None:
    # Fits, no source, no target, neither, too long, ratio 9 (allowed), ratio 10, too long and of ratio 100.
    source = np.array([1, 0, 4, 0, 100, 9, 1, 100])
    target = np.array([1, 4, 0, 0, 99, 1, 10, 1])
    reasons = reasons_to_drop(source, target, FiltersConfig(max_length=99, max_ratio=9.0))
    assert {reason: np.flatnonzero(mask).tolist() for reason, mask in reasons.items()} == {
        "empty side": [1, 2, 3],
        "too long": [4, 7],
        "length ratio": [6],
    }


@pytest.mark.parametrize("part_rows", [40, 300, 5000])
def test_first_occurrences_are_all_but_the_repeated_ones(tmp_path: Path, part_rows: int) -> None:
    hashes = np.random.default_rng(0).integers(0, 500, 2000).astype(np.uint64)
    seen: set[int] = set()
    truth = []
    for value in hashes.tolist():
        truth.append(value not in seen)
        seen.add(value)
    assert first_occurrences(hashes, tmp_path, part_rows).tolist() == truth
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    assert first_occurrences(np.empty(0, np.uint64), tmp_path).tolist() == []


def test_the_search_for_duplicates_needs_memory_for_a_part_of_them(tmp_path: Path) -> None:
    peaks = []
    for count in (1 << 14, 1 << 18):
        path = tmp_path / "hashes"
        np.random.default_rng(1).integers(0, 1 << 63, count, np.uint64).tofile(path)
        tracemalloc.start()
        first_occurrences(np.memmap(path, np.uint64), tmp_path, 1 << 12)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 100 * (1 << 12)


def test_every_pair_left_out_is_counted_with_its_line(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    def pieces(text: str) -> int:
        return len(tokenizers.source.encode([text])[0])

    long = "Hund " * 30
    short = "der"
    assert pieces(short) == 1
    assert pieces(long) > 20
    a = [("Hund", "Katze"), ("", "Katze"), (long, long), ("Hund", "Katze"), ("Hund", " ")]
    b = [("Hund", "Katze"), ("klein", "Katze"), ("\udcff", "x"), (short, "der die und der die und")]
    corpora = [corpus(tmp_path, a, "a"), corpus(tmp_path, b, "b", broken_utf8="drop")]
    filters = FiltersConfig(max_length=20, max_ratio=4.0, duplicates="drop", broken_utf8="drop")
    encoded = encode(tmp_path, corpora, tokenizers, filters)
    assert ids_of(encoded) == expected(tokenizers, [a[0], b[1]])
    report = encoded.report
    found = [
        {reason: (dropped.count, dropped.lines) for reason, dropped in each.dropped.items()} for each in report.corpora
    ]
    assert found[0] == {"empty side": (2, (2, 5)), "too long": (1, (3,)), "duplicate": (1, (4,))}
    assert found[1] == {"not UTF-8": (1, (3,)), "length ratio": (1, (4,)), "duplicate": (1, (1,))}
    assert [(each.read, each.kept) for each in report.corpora] == [(5, 1), (4, 1)]
    assert report.duplicates == 2
    assert report.dropped == {"empty side": 2, "too long": 1, "duplicate": 2, "not UTF-8": 1, "length ratio": 1}
    assert [encoded.location(row) for row in (0, 1)] == [f"{tmp_path / 'a.de'}:1", f"{tmp_path / 'b.de'}:2"]


def test_duplicates_stay_and_are_counted_unless_dropped(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = [("Hund", "Katze"), ("Hund", "Haus"), ("Hund", "Katze")]
    kept = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers, FiltersConfig())
    assert (len(kept), kept.report.duplicates, kept.report.dropped) == (3, 1, {})
    dropped = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers, FiltersConfig(duplicates="drop"))
    assert (len(dropped), dropped.report.duplicates, dropped.report.dropped) == (2, 1, {"duplicate": 1})


def test_report_counts_pieces_and_unknown_ones(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = [("Hund", "Katze"), ("Hund Ω Ж", "Katze Haus")]
    encoded = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers)
    truth = expected(tokenizers, pairs)
    unknown = sum(source.count(tokenizers.source.unk) for source, _ in truth)
    assert unknown == 2
    side = encoded.report.source
    assert (side.pieces, side.unknown) == (sum(len(source) for source, _ in truth), unknown)
    assert side.longest == max(len(source) for source, _ in truth)
    assert encoded.report.target.unknown == 0
    lines = encoded.report.lines()
    assert lines[0] == f"{tmp_path / 'train.de'} / {tmp_path / 'train.en'}: 2 pairs read, 2 kept"
    assert f"{unknown / side.pieces:.3%} unknown" in lines[1]
    assert TypeAdapter(EncodingReport).validate_json(report_json(encoded.report)) == encoded.report


def test_an_empty_side_can_be_an_error(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = [("Hund", "Katze"), ("", "Katze"), ("Hund", "  ")]
    with pytest.raises(DataError) as caught:
        encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers, FiltersConfig(empty="error"))
    first, second = caught.value.problems
    assert first.startswith(f"{tmp_path / 'train.de'}:2: the source side is empty")
    assert second.startswith(f"{tmp_path / 'train.en'}:3: the target side is empty")
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


@pytest.mark.parametrize(
    ("pairs", "filters", "message"),
    [
        ([], None, "has no pairs"),
        ([("", "Katze"), ("Hund Hund", "Hund")], FiltersConfig(max_length=1), "nothing is left of 2 pairs"),
    ],
)
def test_a_corpus_with_nothing_left_is_refused(
    tmp_path: Path, tokenizers: TokenizerPair, pairs: Texts, filters: FiltersConfig | None, message: str
) -> None:
    full, empty = corpus(tmp_path, [("Hund", "die")], "full"), corpus(tmp_path, pairs, "empty")
    with pytest.raises(DataError, match=message) as caught:
        encode(tmp_path, [full, empty], tokenizers, filters)
    assert len(caught.value.problems) == 1
    assert "empty.de" in caught.value.problems[0]


def test_what_is_wrong_with_a_file_is_said_once(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    with pytest.raises(DataError) as caught:
        encode(tmp_path, [corpus(tmp_path, [("Hund", "dog"), ("\udcff", "x")])], tokenizers)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path / 'train.de'}:2: not UTF-8")


def test_a_cache_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"data\.cache"):
        encode(tmp_path, [corpus(tmp_path, sentences(3))], tokenizers)


# The cache


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """How often something was encoded since the last call."""
    caplog.set_level(logging.INFO, "nmt")

    def count() -> int:
        messages = sum("written to" in record.message for record in caplog.records)
        caplog.clear()
        return messages

    return count


def test_a_second_run_finds_the_cache(tmp_path: Path, tokenizers: TokenizerPair, written: Callable[[], int]) -> None:
    pairs = [*sentences(50), ("", "Hund")]
    first = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers, FiltersConfig())
    assert written() == 1
    second = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers, FiltersConfig())
    assert written() == 0
    assert (second.report, second.fingerprint) == (first.report, first.fingerprint)
    assert ids_of(second) == ids_of(first)


def test_the_same_text_in_another_file_is_found_and_named(
    tmp_path: Path, tokenizers: TokenizerPair, written: Callable[[], int]
) -> None:
    pairs = sentences(20)
    encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers)
    (tmp_path / "x.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    options = TsvPairOptions(path=str(tmp_path / "x.tsv"))
    written()
    found = encode(tmp_path, [open_corpus(options, data(options))], tokenizers)
    assert written() == 0
    assert found.report.corpora[0].name == str(tmp_path / "x.tsv")


def test_everything_that_matters_is_in_the_key(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = sentences(200)
    other = learn(TokenizerConfig(vocabulary_size=80, shared=True), lambda: pairs, seed=1)
    base = corpus(tmp_path, pairs)
    changed = [
        encode(tmp_path, [base], tokenizers),
        encode(tmp_path, [base], tokenizers, FiltersConfig()),
        encode(tmp_path, [base], tokenizers, FiltersConfig(max_length=99)),
        encode(tmp_path, [base], tokenizers, FiltersConfig(duplicates="drop")),
        encode(tmp_path, [base], tokenizers, keep_text=True),
        encode(tmp_path, [base], other),
        encode(tmp_path, [base], TokenizerPair(tokenizers.target, tokenizers.source)),
        encode(tmp_path, [base, base], tokenizers),
        encode(tmp_path, [corpus(tmp_path, pairs[:-1], "shorter")], tokenizers),
        encode(tmp_path, [corpus(tmp_path, [(t, s) for s, t in pairs], "reverse")], tokenizers),
    ]
    assert len({each.fingerprint for each in changed}) == len(changed)


def cut_short(folder: Path) -> None:
    os.truncate(folder / "pairs.arrow", (folder / "pairs.arrow").stat().st_size // 2)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "pairs.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "pairs.arrow").write_bytes(content)


def lose_the_ids(folder: Path) -> None:
    (folder / "pairs.arrow").unlink()


def lose_the_checksums(folder: Path) -> None:
    (folder / "checksums.json").unlink()


def spoil_the_checksums(folder: Path) -> None:
    (folder / "checksums.json").write_text("[1]")


def spoil_the_report(folder: Path) -> None:
    (folder / "report.json").write_text("{}")


def break_the_offsets(folder: Path) -> None:
    """Offsets far outside of the values, and checksums that match: a file that another program has written."""
    file = folder / "pairs.arrow"
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        offsets = stream.read_next_batch().column("source").offsets.to_pylist()
    content = file.read_bytes()
    whole = np.asarray(offsets, np.int64).tobytes()
    assert content.count(whole) == 1
    broken = np.asarray([0, *(1 << 40 for _ in offsets[1:])], np.int64).tobytes()
    file.write_bytes(content.replace(whole, broken))
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(checksums))


def replace_the_report_by_a_pipe(folder: Path) -> None:
    (folder / "report.json").unlink()
    os.mkfifo(folder / "report.json")


@pytest.mark.parametrize(
    "damage",
    [
        *(cut_short, flip_a_bit, lose_the_ids, lose_the_checksums, spoil_the_checksums, spoil_the_report),
        break_the_offsets,
        replace_the_report_by_a_pipe,
    ],
)
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, tokenizers: TokenizerPair, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = encode(tmp_path, [corpus(tmp_path, sentences(50))], tokenizers)
    truth = ids_of(first)
    damage(tmp_path / "cache" / first.fingerprint)
    again = encode(tmp_path, [corpus(tmp_path, sentences(50))], tokenizers)
    assert [record.levelname for record in caplog.records if "is damaged" in record.message][:1] == ["WARNING"]
    assert ids_of(again) == truth
    assert again.report == first.report


def test_several_at_once_encode_once(tmp_path: Path, tokenizers: TokenizerPair, written: Callable[[], int]) -> None:
    pairs = sentences(3000)
    shared = corpus(tmp_path, pairs)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: encode(tmp_path, [shared], tokenizers), range(4)))
    assert written() == 1
    truth = expected(tokenizers, pairs)
    assert all(ids_of(result) == truth for result in results)


BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from nmt.config.schema import DataConfig
from nmt.data.readers.corpora import TextPairOptions, open_corpus
from nmt.data.cache import encode_corpora
from nmt.data.tokenizer import TokenizerPair
folder = Path(sys.argv[2])
options = TextPairOptions(source=str(folder / "train.de"), target=str(folder / "train.en"))
data = DataConfig(source_language="de", target_language="en", train=[options], validation=options)
encode_corpora([open_corpus(options, data)], TokenizerPair.load(folder), None, folder / "cache", 1, False)
"""


def test_a_killed_build_leaves_nothing_that_is_taken_as_whole(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = sentences(2000) * 30
    interrupted = corpus(tmp_path, pairs)
    tokenizers.save(tmp_path)
    root = Path(__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(root), str(tmp_path)])
    ids = None
    while process.poll() is None and not (ids and ids[0].stat().st_size):
        ids = list((tmp_path / "cache").glob("*.partial/scratch/all/source.values"))
        time.sleep(0.005)
    process.kill()
    assert process.wait() < 0, "the build was over before it could be killed"
    (partial,) = (tmp_path / "cache").glob("*.partial")
    encoded = encode(tmp_path, [interrupted], tokenizers)
    assert not partial.exists()
    rows = np.array([0, 59999])
    ids_found, offsets = encoded.source(rows)
    truth = tokenizers.source.encode([pairs[0][0], pairs[-1][0]])
    assert (len(encoded), ids_found.tolist(), offsets[1]) == (60000, truth[0] + truth[1], len(truth[0]))


def test_opening_a_cache_imports_no_pandas(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    """It takes a second and 40 MB, in every process of a training."""
    pairs = sentences(3)
    encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers)
    tokenizers.save(tmp_path)
    root = Path(__file__).parent.parent
    imported = f"{BUILD}print('pandas' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", imported, str(root), str(tmp_path)], check=True, stdout=subprocess.PIPE, text=True
    )
    assert found.stdout == "False\n"


def test_the_file_is_an_ordinary_data_set(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = sentences(10)
    encoded = encode(tmp_path, [corpus(tmp_path, pairs)], tokenizers, keep_text=True)
    found = datasets.Dataset.from_file(str(tmp_path / "cache" / encoded.fingerprint / "pairs.arrow"))
    assert found["source"][:] == [source for source, _ in expected(tokenizers, pairs)]
    assert found["target_text"][:] == [target for _, target in pairs]


# Worker processes


def small_chunks(pairs: Texts, size: int) -> Iterator[Chunk[Pair]]:
    for start in range(0, len(pairs), size):
        part = enumerate(pairs[start : start + size], start=start + 1)
        yield Chunk(0, [Pair(source, target, line) for line, (source, target) in part])


def test_workers_give_the_same_in_the_same_order(tokenizers: TokenizerPair) -> None:
    pairs, tools = sentences(450), PairTools(tokenizers, with_text=False, with_links=False)

    def run(workers: int) -> list[tuple[list[int], list[int], list[int], list[int]]]:
        encoded = []
        for chunk, (columns, _) in encode_chunks(small_chunks(pairs, 10), encode_pairs, tools, workers, " pairs"):
            ragged, flat = columns.ragged, columns.flat
            lengths = np.diff(ragged["target"].offsets).tolist()
            assert flat["line"].tolist() == [pair.line for pair in chunk.rows]
            encoded.append((flat["line"].tolist(), ragged["source"].values.tolist(), lengths, flat["hash"].tolist()))
        return encoded

    assert run(2) == run(1)


def test_a_killed_worker_is_one_clear_line(tokenizers: TokenizerPair) -> None:
    def stream() -> Iterator[Chunk[Pair]]:
        for number, chunk in enumerate(small_chunks(sentences(450), 10)):
            if number == 36:
                workers = multiprocessing.active_children()
                assert workers
                for worker in workers:
                    worker.kill()
                    worker.join()
            yield chunk

    with pytest.raises(DataError, match=r"data\.workers"):
        list(encode_chunks(stream(), encode_pairs, PairTools(tokenizers, False, False), 2, " pairs"))
    assert not multiprocessing.active_children()
