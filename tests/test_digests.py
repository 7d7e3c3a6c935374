"""Digests are computed once for files that stay as they are, and again for any that do not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nmt.config.schema import DataConfig, TokenizerConfig
from nmt.data.cache import EncodedCorpus, encode_corpora, store
from nmt.data.cache.store import Digests
from nmt.data.readers.corpora import (
    Corpus,
    CorpusOptions,
    JsonPairOptions,
    ParquetPairOptions,
    TextPairOptions,
    TsvPairOptions,
    open_corpus,
)
from nmt.data.tokenizer import TokenizerPair, learn


class Counted:
    """Reads files, and counts how often."""

    def __init__(self, *files: Path, seconds: float = 0.0) -> None:
        self.files = files
        self.seconds = seconds
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        time.sleep(self.seconds)
        return " ".join(path.read_text() for path in self.files)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough at once: clocks of files go in steps, so a little in the future will do."""
    monkeypatch.setattr(store, "SETTLED_SECONDS", -1.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "text").write_text("one")
    return tmp_path / "text"


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once_until_it_changes(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other"
    other.write_text("two")
    compute = Counted(file, other)
    for _ in range(3):
        assert Digests(tmp_path).of("sum", [file, other], compute) == "one two"
    assert compute.times == 1
    other.write_text("2 more")
    for _ in range(2):
        assert Digests(tmp_path).of("sum", [file, other], compute) == "one 2 more"
    assert compute.times == 2
    # Another digest, and that of other files, are computed anew.
    assert Digests(tmp_path).of("length", [file, other], lambda: "10") == "10"
    assert Digests(tmp_path).of("sum", [other, file], lambda: "2 more one") == "2 more one"


@pytest.mark.usefixtures("settled")
def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, file: Path) -> None:
    times = file.stat()
    compute = Counted(file)
    Digests(tmp_path).of("sum", [file], compute)
    time.sleep(0.05)
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Digests(tmp_path).of("sum", [file], compute) == "two"


def test_what_may_still_change_within_the_same_second_is_not_remembered(tmp_path: Path, file: Path) -> None:
    compute = Counted(file)
    for _ in range(2):
        Digests(tmp_path).of("sum", [file], compute)
    assert compute.times == 2


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path: Path, file: Path) -> None:
    def changing() -> str:
        file.write_text("longer than before")
        return "one"

    assert Digests(tmp_path).of("sum", [file], changing) == "one"
    assert Digests(tmp_path).of("sum", [file], Counted(file)) == "longer than before"


@pytest.mark.usefixtures("settled")
def test_without_files_or_with_a_missing_one_it_is_computed_each_time(tmp_path: Path, file: Path) -> None:
    compute = Counted(file)
    for _ in range(2):
        assert Digests(tmp_path).of("sum", [], compute) == "one"
        assert Digests(tmp_path).of("sum", [file, tmp_path / "missing"], compute) == "one"
    assert compute.times == 4


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"a": 3}', '{"[\\"sum\\"]": {"state": 1}}'])
def test_damaged_notes_are_written_again(tmp_path: Path, file: Path, damage: str) -> None:
    (tmp_path / "digests.json").write_text(damage)
    compute = Counted(file)
    for _ in range(2):
        assert Digests(tmp_path).of("sum", [file], compute) == "one"
    assert compute.times == 1


@pytest.mark.usefixtures("settled")
def test_files_that_are_gone_are_forgotten(tmp_path: Path, file: Path) -> None:
    gone = tmp_path / "gone"
    gone.write_text("x")
    Digests(tmp_path).of("sum", [gone], Counted(gone))
    gone.unlink()
    Digests(tmp_path).of("sum", [file], Counted(file))
    notes = (tmp_path / "digests.json").read_text()
    assert str(file) in notes
    assert str(gone) not in notes


@pytest.mark.usefixtures("settled")
def test_several_at_once_read_once(tmp_path: Path, file: Path) -> None:
    compute = Counted(file, seconds=0.1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Digests(tmp_path).of("sum", [file], compute), range(8)))
    assert found == ["one"] * 8
    assert compute.times == 1


# The encoded corpora


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    pairs = [("ein Hund", "a dog"), ("eine Katze", "a cat"), ("ein Haus", "a house")]
    return learn(TokenizerConfig(vocabulary_size=26), lambda: pairs, seed=1)


@pytest.fixture
def encode(tmp_path: Path, tokenizers: TokenizerPair) -> Callable[..., EncodedCorpus]:
    def run(limit: int | None = None, weight: float = 1.0) -> EncodedCorpus:
        options = TextPairOptions(source=str(tmp_path / "de"), target=str(tmp_path / "en"), limit=limit, weight=weight)
        data = DataConfig(source_language="de", target_language="en", train=[options], validation=options)
        return encode_corpora([open_corpus(options, data)], tokenizers, None, tmp_path / "cache", 1, keep_text=False)

    (tmp_path / "de").write_text("ein Hund\neine Katze\n")
    (tmp_path / "en").write_text("a dog\na cat\n")
    return run


@pytest.mark.usefixtures("settled")
def test_a_finished_cache_is_opened_without_reading_text_or_ids(
    encode: Callable[..., EncodedCorpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode()
    encode()  # The ids are checked once after they were written.
    monkeypatch.setattr(Corpus, "fingerprint", lambda _: pytest.fail("the text was read again"))
    monkeypatch.setattr(store, "checksum", lambda _: pytest.fail("the ids were read again"))
    assert encode().fingerprint == first.fingerprint
    assert encode(weight=2.0).fingerprint == first.fingerprint


@pytest.mark.usefixtures("settled")
def test_what_is_read_differently_or_was_changed_is_another_corpus(
    encode: Callable[..., EncodedCorpus], tmp_path: Path
) -> None:
    fingerprints = [encode().fingerprint, encode(limit=1).fingerprint]
    (tmp_path / "en").write_text("a dog\na cow\n")
    fingerprints += [encode().fingerprint, encode(limit=1).fingerprint]
    assert len(set(fingerprints)) == 3
    assert fingerprints[1] == fingerprints[3]


def test_every_kind_of_corpus_names_all_of_its_files(tmp_path: Path) -> None:
    for name in ("de", "en", "links"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "table.jsonl").write_text('{"a": "x", "b": "y"}\n')
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "table.parquet")
    kinds: list[tuple[CorpusOptions, list[str]]] = [
        (TextPairOptions(source=f"{tmp_path}/de", target=f"{tmp_path}/en"), ["de", "en"]),
        (
            TextPairOptions(source=f"{tmp_path}/de", target=f"{tmp_path}/en", alignments=f"{tmp_path}/links"),
            ["de", "en", "links"],
        ),
        (TsvPairOptions(path=f"{tmp_path}/links"), ["links"]),
        (JsonPairOptions(path=f"{tmp_path}/table.jsonl", source="a", target="b"), ["table.jsonl"]),
        (ParquetPairOptions(path=f"{tmp_path}/table.parquet", source="a", target="b"), ["table.parquet"]),
    ]
    for options, names in kinds:
        data = DataConfig(source_language="de", target_language="en", train=[options], validation=options)
        assert [path.name for path in open_corpus(options, data).files] == names


@pytest.mark.usefixtures("settled")
def test_damage_to_a_cache_that_was_checked_is_seen(encode: Callable[..., EncodedCorpus], tmp_path: Path) -> None:
    first = encode()
    encode()
    path = tmp_path / "cache" / first.fingerprint / "pairs.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    time.sleep(0.05)
    path.write_bytes(content)
    encode()
    content[len(content) // 2] ^= 1
    assert path.read_bytes() == content
