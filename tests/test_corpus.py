"""Corpora: every format gives the same pairs, no pair ever shifts, and every mistake is one clear line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import zstandard

from nmt.config.registry import PartOptions
from nmt.config.schema import DataConfig, FiltersConfig
from nmt.data.readers.base import Counts, Dropped
from nmt.data.readers.corpora import (
    CORPORA,
    HuggingFacePairOptions,
    JsonPairOptions,
    Pair,
    TextPairOptions,
    TsvPairOptions,
    open_corpus,
)
from nmt.data.readers.files import iterate_lines, read_lines
from nmt.errors import DataError, try_each

# Characters at which `str.splitlines` would split, and blanks that stripping would eat.
SENTENCES = ["Ein Hund rennt.", "", "a\u2028b\u0085c\x0bd\x0ce\x1cf", " Rand ", "Zwei\rTeile", "日本語 😀"]
TRANSLATIONS = ["A dog runs.", "nothing there", "", "edge", "two parts", "Japanese"]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def data(broken_utf8: str = "error") -> DataConfig:
    anything = TextPairOptions(source="unused", target="unused")
    filters = FiltersConfig.model_validate({"broken_utf8": broken_utf8})
    return DataConfig(
        source_language="de", target_language="en", train=[anything], validation=anything, filters=filters
    )


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def text_options(folder: Path, source: str | bytes, target: str | bytes, limit: int | None = None) -> TextPairOptions:
    return TextPairOptions(source=write(folder / "x.de", source), target=write(folder / "x.en", target), limit=limit)


def problems(options: PartOptions, broken_utf8: str = "error") -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        list(open_corpus(options, data(broken_utf8)))
    return caught.value.problems


@pytest.fixture(params=["text", "text.gz", "text.bz2", "text.xz", "text.zst", "tsv", "jsonl"])
def same_content(request: pytest.FixtureRequest, tmp_path: Path) -> PartOptions:
    """The sentences above in each format."""
    kind, _, suffix = request.param.partition(".")
    pairs = list(zip(SENTENCES, TRANSLATIONS, strict=True))
    if kind == "tsv":
        return TsvPairOptions(path=write(tmp_path / "x.tsv", "".join(f"{s}\t{t}\n" for s, t in pairs)))
    if kind == "jsonl":
        lines = "".join(json.dumps({"translation": {"de": s, "en": t}}, ensure_ascii=False) + "\n" for s, t in pairs)
        path = write(tmp_path / "x.jsonl", lines)
        return JsonPairOptions(path=path, source="translation.de", target="translation.en")
    compress = COMPRESS[f".{suffix}" if suffix else ""]
    paths = [tmp_path / f"x.{language}{request.param.removeprefix('text')}" for language in ("de", "en")]
    for path, lines_of_side in zip(paths, (SENTENCES, TRANSLATIONS), strict=True):
        write(path, compress("".join(f"{line}\n" for line in lines_of_side).encode()))
    return TextPairOptions(source=str(paths[0]), target=str(paths[1]))


def test_every_format_gives_the_same_pairs_at_every_pass(same_content: PartOptions) -> None:
    corpus = open_corpus(same_content, data())
    expected = [Pair(s, t, line) for line, (s, t) in enumerate(zip(SENTENCES, TRANSLATIONS, strict=True), start=1)]
    assert list(corpus) == expected
    assert list(corpus) == expected


def test_every_format_has_the_fingerprint_of_its_text(same_content: PartOptions, tmp_path: Path) -> None:
    plain = text_options(tmp_path, "\n".join(SENTENCES), "\n".join(TRANSLATIONS) + "\n")
    assert open_corpus(same_content, data()).fingerprint() == open_corpus(plain, data()).fingerprint()


def test_the_fingerprint_changes_with_text_sides_and_limit(tmp_path: Path) -> None:
    texts = [("ab\nx\n", "c\ny\n"), ("a\nx\n", "bc\ny\n"), ("c\ny\n", "ab\nx\n"), ("x\nab\n", "y\nc\n")]
    prints = [open_corpus(text_options(tmp_path, s, t), data()).fingerprint() for s, t in texts]
    prints.append(open_corpus(text_options(tmp_path, *texts[0], limit=1), data()).fingerprint())
    assert len(set(prints)) == len(prints)


def test_options_are_registered_under_their_kind() -> None:
    assert list(CORPORA) == ["split", "huggingface", "jsonl", "opus", "parquet", "tmx", "tsv", "text"]
    for kind, entry in CORPORA.items():
        assert entry.options.model_fields["kind"].default == kind
        assert kind == "split" or {"weight", "limit"} <= set(entry.options.model_fields)


def test_line_ends_and_byte_order_mark() -> None:
    stream = io.BytesIO(b"\xef\xbb\xbfa\r\nb\r\r\n\n\xef\xbb\xbfc\nlast\r")
    assert list(iterate_lines(stream, "<stdin>")) == ["a", "b\r", "", "\ufeffc", "last\r"]
    assert list(iterate_lines(io.BytesIO(b""), "<stdin>")) == []


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    corpus = open_corpus(text_options(tmp_path, "a\nb", "A\nB\n"), data())
    assert [pair.target for pair in corpus] == ["A", "B"]


def test_limit_and_weight(tmp_path: Path) -> None:
    options = text_options(tmp_path, "1\n2\n3\n", "1\n2\n", limit=2)
    corpus = open_corpus(options.model_copy(update={"weight": 2.5}), data())
    assert [pair.line for pair in corpus] == [1, 2]
    assert corpus.weight == 2.5


@pytest.mark.parametrize(("source_lines", "target_lines"), [(5, 2), (2, 5), (0, 3), (3, 0), (2, 3)])
def test_unequal_line_counts_name_both_files_and_both_counts(
    tmp_path: Path, source_lines: int, target_lines: int
) -> None:
    [problem] = problems(text_options(tmp_path, "s\n" * source_lines, "t\n" * target_lines))
    assert f"{tmp_path / 'x.de'} has {source_lines} lines and {tmp_path / 'x.en'} has {target_lines};" in problem


def test_missing_files_are_all_reported_at_once(tmp_path: Path) -> None:
    write(tmp_path / "there.de.gz", gzip.compress(b""))
    missing = TextPairOptions(source=str(tmp_path / "there.de"), target=str(tmp_path / "no.en"))
    folder = JsonPairOptions(path=str(tmp_path), source="de", target="en")
    with pytest.raises(DataError) as caught:
        try_each(partial(open_corpus, data=data()), [missing, folder, missing])
    assert caught.value.problems == (
        f"{tmp_path / 'there.de'}: No such file or directory; there is {tmp_path / 'there.de.gz'}",
        f"{tmp_path / 'no.en'}: No such file or directory",
        f"{tmp_path}: is a folder, not a file",
    )


def test_a_missing_relative_path_names_the_folder_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert problems(TextPairOptions(source="data/x.de", target="data/x.de")) == (
        f"data/x.de: No such file or directory in {tmp_path}, where relative paths begin",
    )


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    [problem] = problems(JsonPairOptions(path="x" * 5000, source="de", target="en"))
    assert problem.startswith("xxx")
    assert "File name too long" in problem
    [problem] = problems(JsonPairOptions(path="a\0b", source="de", target="en"))
    assert problem == "'a\\x00b': not the name of a file; a name has no NUL in it"


def test_pipes_and_devices_are_no_corpora_but_can_be_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    advice = "a corpus is read several times, so write it to a file first"
    assert problems(TextPairOptions(source=str(pipe), target="/dev/zero")) == (
        f"{pipe}: is a pipe, not a file; {advice}",
        f"/dev/zero: is a device, not a file; {advice}",
    )
    with subprocess.Popen(["sh", "-c", f"printf 'a\\nb' > {pipe}"]):
        assert list(read_lines(pipe)) == ["a", "b"]


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    lines = read_lines("/dev/zero")
    with pytest.raises(DataError, match=r"^/dev/zero:1: a line of 64 MiB or more; is this a text file\?$"):
        next(lines)


@pytest.mark.parametrize(
    ("header", "warned"), [("de\ten", True), (" Source\tTARGET", True), ("de\tfr", False), ("Hallo\tde", False)]
)
def test_a_header_that_is_read_as_text_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str, warned: bool
) -> None:
    path = write(tmp_path / "x.tsv", f"{header}\nHallo\thello\n")
    assert len(list(open_corpus(TsvPairOptions(path=path), data()))) == 2
    names = ", ".join(repr(cell.strip()) for cell in header.split("\t"))
    message = f"{path}:1: looks like a header ({names}), but is read as text; give columns by these names instead of"
    assert [text.startswith(message) for text in caplog.messages] == [True] * warned
    caplog.clear()
    first, second = header.split("\t")
    [pair] = open_corpus(TsvPairOptions(path=path, source_column=first, target_column=second), data())
    assert (pair.source, caplog.messages) == ("Hallo", [])


def test_utf16_is_recognized(tmp_path: Path) -> None:
    path = write(tmp_path / "x.de", "ab\n".encode("utf-16"))
    [problem] = problems(TextPairOptions(source=path, target=path))
    assert "position 1 of the text; the file looks like UTF-16: save it as UTF-8;" in problem


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_file_without_permission_is_one_line(tmp_path: Path) -> None:
    secret = tmp_path / "secret.de"
    secret.write_text("a\n")
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "x.tsv").write_text("a\tb\n")
    for path in (secret, folder):
        path.chmod(0)
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o111)
    read, write_end = os.pipe()
    if (child := os.fork()) == 0:
        # In a process of its own, which gives up the rights of root.
        os.setuid(65534)
        found = [
            problems(TextPairOptions(source=str(secret), target=str(secret))),
            problems(TsvPairOptions(path=str(folder / "x.tsv"))),
            problems(HuggingFacePairOptions(dataset=str(folder / "saved"))),
        ]
        os.write(write_end, json.dumps(found).encode())
        os._exit(0)
    os.close(write_end)
    with open(read, "rb") as pipe:
        found = json.loads(pipe.read() or b"[]")
    os.waitpid(child, 0)
    folder.chmod(0o700)
    assert found == [
        [f"{secret}: no permission to read it"],
        [f"{folder / 'x.tsv'}: Permission denied"],
        [f"{folder / 'saved'}: no such folder, and not the name of a data set on the hub"],
    ]


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_file_is_named(tmp_path: Path, side: str, suffix: str, damage: str) -> None:
    content = "".join(f"{number} {hash(number * 7919)}\n" for number in range(20_000)).encode()
    whole = COMPRESS[suffix](content)
    bad = whole[: len(whole) // 2] if damage == "cut" else b"not compressed at all\n" * 50
    sides = {"source": whole, "target": whole, side: bad}
    paths = {name: write(tmp_path / f"{name}{suffix}", text) for name, text in sides.items()}
    [problem] = problems(TextPairOptions(source=paths["source"], target=paths["target"]))
    assert problem.startswith(f"{paths[side]}: damaged or cut short (")


def test_zstd_frames_are_joined(tmp_path: Path) -> None:
    frames = b"".join(zstandard.ZstdCompressor().compress(text) for text in (b"a\nb", b"c\n", b"", b"d\n" * 100_000))
    path = write(tmp_path / "x.zst", frames)
    assert list(read_lines(path)) == ["a", "bc", *["d"] * 100_000]


def test_broken_utf8_names_file_and_line(tmp_path: Path) -> None:
    good, bad = "a\nb\n", b"A\nB\xe9\n"
    [problem] = problems(text_options(tmp_path, good, bad))
    assert problem.startswith(f"{tmp_path / 'x.en'}:2: not UTF-8, byte 0xe9 at position 2")
    [problem] = problems(text_options(tmp_path, bad, good))
    assert problem.startswith(f"{tmp_path / 'x.de'}:2: not UTF-8")
    with pytest.raises(DataError, match=r"<stdin>:2: not UTF-8"):
        list(iterate_lines(io.BytesIO(bad), "<stdin>"))


def test_broken_utf8_drops_the_pair_whole_and_counts_it(tmp_path: Path) -> None:
    source, target = b"1\n\xff\n3\n4\n5\n", b"1\n2\n3\n\xc3\n5\n"
    corpus = open_corpus(text_options(tmp_path, source, target), data("drop"))
    counts = Counts()
    assert [(pair.source, pair.target, pair.line) for pair in corpus.read(counts)] == [
        ("1", "1", 1),
        ("3", "3", 3),
        ("5", "5", 5),
    ]
    assert (counts.read, counts.dropped_total) == (5, 2)
    assert counts.dropped == {"not UTF-8": Dropped(2, (2, 4))}


@pytest.mark.parametrize("spelling", [b'"\xff"', rb'"\ud800"'])
def test_broken_utf8_in_json_lines(tmp_path: Path, spelling: bytes) -> None:
    content = b'{"de": "a", "en": "A"}\n{"de": "b", "en": ' + spelling + b"}\n"
    options = JsonPairOptions(path=write(tmp_path / "x.jsonl", content), source="de", target="en")
    [problem] = problems(options)
    assert problem.startswith(f"{options.path}:2: not UTF-8")
    assert [pair.source for pair in open_corpus(options, data("drop"))] == ["a"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no field 'de'"),
        ('{"en": "a"}', "no field 'de'"),
        ('{"de": null, "en": "a"}', "field 'de' is null, not a string"),
        ('{"de": "a", "en": 3}', "field 'en' is int, not a string"),
    ],
)
def test_json_lines_mistakes_name_file_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    content = f'{{"de": "a", "en": "b"}}\n{line}\n'
    options = JsonPairOptions(path=write(tmp_path / "x.jsonl", content), source="de", target="en")
    [problem] = problems(options)
    assert problem.startswith(f"{options.path}:2: {complaint}")


def test_a_json_field_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"a.de": "flat", "a": {"de": "nested", "en": "N"}}\n')
    corpus = open_corpus(JsonPairOptions(path=path, source="a.de", target="a.en"), data())
    assert list(corpus) == [Pair("flat", "N", 1)]


def test_tsv_columns_by_number_or_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv.gz", gzip.compress(b'id\ten\tde\n7\t"a" dog\tein "Hund"\n'))
    by_name = open_corpus(TsvPairOptions(path=path, source_column="de", target_column="en"), data())
    assert list(by_name) == [Pair('ein "Hund"', '"a" dog', 2)]
    by_number = open_corpus(TsvPairOptions(path=path, source_column=3, target_column=2), data())
    assert list(by_number) == [Pair("de", "en", 1), Pair('ein "Hund"', '"a" dog', 2)]


def test_tsv_mistakes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", "de\ten\nein\ta\nallein\n")
    assert problems(TsvPairOptions(path=path)) == (f"{path}:3: 1 column separated by tabs, but column 2 is needed",)
    with pytest.raises(DataError) as caught:
        open_corpus(TsvPairOptions(path=path, source_column="fr", target_column=2), data())
    assert caught.value.problems == (f"{path}:1: no column 'fr'; the header has 'de', 'en'",)


def test_counts_add_up() -> None:
    counts = Counts(read=10, kept=3)
    for line in (1, 2, 3, 4):
        counts.drop("too long", [line])
    counts.drop("too long", [8, 9])
    counts.drop("empty side", [3])
    counts.drop("duplicate", [])
    assert counts.read == counts.kept + counts.dropped_total == 10
    assert counts.dropped == {"too long": Dropped(6, (1, 2, 3, 4, 8)), "empty side": Dropped(1, (3,))}
