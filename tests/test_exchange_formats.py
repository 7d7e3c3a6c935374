"""Translation memories (TMX) and zip files of OPUS: the pairs of a table, little memory, and mistakes in one line."""

from __future__ import annotations

import gzip
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from nmt.config.schema import DataConfig
from nmt.data.readers.base import HeldOut
from nmt.data.readers.corpora import Corpus, CorpusOptions, OpusPairOptions, TmxPairOptions, TsvPairOptions, open_corpus
from nmt.errors import DataError
from nmt.tasks.training import train
from tests.support.training_runs import records, run_config, write_corpus

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")

TMX = """\
<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4">
  <header creationtool="x" segtype="sentence" srclang="en"><note>no text</note></header>
  <body>
    <tu tuid="1">
      <prop type="a">neither</prop>
      <tuv xml:lang="en-US"><seg>A &lt;dog&gt; &amp; a cat.</seg></tuv>
      <tuv xml:lang="DE_de"><note>nor this</note><seg>Ein &lt;Hund&gt; &amp; eine K&#228;tzin.</seg></tuv>
      <tuv xml:lang="fr"><seg>Un chien.</seg></tuv>
    </tu>
    <tu>
      <tuv lang="de"><seg>
        Ein <bpt i="1">&lt;b&gt;<sub>code</sub></bpt>großer<ept i="1">&lt;/b&gt;</ept>  <hi>Hund</hi>
        rennt<ph x="1">{{1}}</ph>.
      </seg></tuv>
      <tuv lang="en"><seg>A big\u00a0 dog\u2028runs.</seg></tuv>
      <tuv lang="en-GB"><seg>A second English.</seg></tuv>
    </tu>
    <tu><tuv xml:lang="en"><seg>alone</seg></tuv></tu>
    <tu><tuv xml:lang="den"><seg>Slavey</seg></tuv></tu><tu><tuv xml:lang="de"><seg/></tuv><tuv xml:lang="en"><seg>x</seg></tuv></tu>
  </body>
</tmx>
"""  # noqa: E501
PAIRS = [
    ("Ein <Hund> & eine Kätzin.", "A <dog> & a cat.", 6),
    ("Ein großer Hund rennt.", "A big\u00a0 dog\u2028runs.", 12),
    ("", "alone", 20),
    ("", "", 21),
    ("", "x", 21),
]


def opened(options: CorpusOptions, target: str = "en") -> Corpus:
    return open_corpus(
        options, DataConfig(source_language="de", target_language=target, train=[options], validation=options)
    )


def tmx(path: Path, **languages: str) -> Corpus:
    return opened(TmxPairOptions(path=str(path), **languages))


def units(*pairs: tuple[str, str], head: str = "") -> str:
    body = "\n".join(
        f'<tu><tuv xml:lang="de"><seg>{source}</seg></tuv><tuv xml:lang="en"><seg>{target}</seg></tuv></tu>'
        for source, target in pairs
    )
    return f'{head}<tmx version="1.4">\n<body>\n{body}\n</body></tmx>\n'


# Translation memories


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_units_are_pairs(tmp_path: Path, encoding: str, suffix: str) -> None:
    content = TMX.format(encoding=encoding.removesuffix("-sig")).encode(encoding)
    path = tmp_path / f"a.tmx{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    corpus = tmx(path)
    assert [pair[:3] for pair in corpus] == PAIRS
    assert [pair[:3] for pair in corpus] == PAIRS, "from the beginning again"
    assert corpus.location(12, "target") == f"{path}:12"
    # Equal text has equal fingerprints in every format.
    table = tmp_path / "a.tsv"
    table.write_text("".join(f"{source}\t{target}\n" for source, target, _ in PAIRS), encoding="utf-8")
    assert corpus.fingerprint() == opened(TsvPairOptions(path=str(table))).fingerprint()


def test_other_languages_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx"
    path.write_text(TMX.format(encoding="utf-8"), encoding="utf-8")
    assert [pair[:2] for pair in tmx(path, source="fr", target="en-GB")][:2] == [
        ("Un chien.", ""),
        ("", "A second English."),
    ]
    with pytest.raises(DataError) as caught:
        list(tmx(path, target="it"))
    assert caught.value.problems == (
        f"{path}: no segment in the language 'it'; there are 'en-US', 'DE_de', 'fr', 'de', 'en', 'en-GB', 'den'; name "
        "one with `target: CODE`",
    )


LAUGHS = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (units(("&b;", "x"), head=LAUGHS), "1: declares the entity 'a', which a corpus must not do"),
        (
            units(("&a;", "x"), head='<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/hostname">]>'),
            "1: declares the entity 'a', which a corpus must not do",
        ),
        (
            units(("&nbsp;", "x"), head='<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n'),
            "4: the entity &nbsp; is not one of XML's; write the character instead",
        ),
        (units(("a", "b"), ("&nbsp;", "x")), "4: damaged or cut short, not XML (undefined entity)"),
        (units(("a", "b"), ("c", "d"))[:-20], "4: damaged or cut short, not XML (no element found)"),
        (units(("a", "b & c")), "3: damaged or cut short, not XML (not well-formed (invalid token))"),
        ("<html><body/></html>", "1: is no TMX file: it begins with <html>, not with <tmx>"),
        ("", "1: damaged or cut short, not XML (no element found)"),
        ("de\ten\n", "1: damaged or cut short, not XML (syntax error)"),
        ("<tmx>\n<tu><tuv><seg>a</seg></tuv></tu></tmx>", "2: <tuv> has no xml:lang"),
        ("<tmx>" + "<a>" * 200, "1: more than 100 elements inside of each other"),
    ],
)
def test_damaged_and_hostile_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.tmx"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(tmx(path))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:{message}")


def test_compressed_files_that_were_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx.gz"
    path.write_bytes(gzip.compress(units(*[(f"satz {n}", f"line {n}") for n in range(3000)]).encode())[:-100])
    with pytest.raises(DataError, match=r"a\.tmx\.gz: damaged or cut short"):
        list(tmx(path))
    with pytest.raises(DataError, match=r"b\.tmx: No such file"):
        tmx(tmp_path / "b.tmx")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx"
    path.write_text(units(*[(f"Satz Nummer {n} ist dies", f"this is line {n}") for n in range(20_000)]))
    corpus = tmx(path)
    tracemalloc.start()
    count = sum(1 for _ in corpus)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 1_500_000 < path.stat().st_size


def test_units_that_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx"
    path.write_text(units(("a", "b"), ("c", "d")))
    corpus = tmx(path)
    corpus.held_out = HeldOut("x", 1, frozenset())
    assert len(list(corpus)) == 2


# OPUS

FILES = {
    "README": "a corpus\n",
    "LICENSE": "free\n",
    "Books.de-en.de": "Ein Hund.\n\nNoch\u2028einer.\r\n",
    "Books.de-en.en": "A dog.\nnothing\nAnother.",
    "Books.de-en.xml": "<links/>",
}


def write_zip(path: Path, files: Mapping[str, str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_the_files_of_a_zip_file_are_pairs(tmp_path: Path, method: int) -> None:
    path = write_zip(tmp_path / "de-en.txt.zip", FILES, method)
    corpus = opened(OpusPairOptions(path=str(path)))
    expected = [("Ein Hund.", "A dog.", 1), ("", "nothing", 2), ("Noch\u2028einer.", "Another.", 3)]
    assert [pair[:3] for pair in corpus] == expected
    assert [pair[:3] for pair in corpus] == expected, "from the beginning again"
    assert (corpus.name, corpus.files) == (str(path), (path,))
    assert corpus.location(2, "target") == f"{path}/Books.de-en.en:2"


def test_files_of_other_languages(tmp_path: Path) -> None:
    files = {"x/OpenSubtitles.de-zh_CN.zh_CN": "狗\n", "x/OpenSubtitles.de-zh_CN.de": "Hund\n"}
    path = write_zip(tmp_path / "a.zip", files)
    options = OpusPairOptions(path=str(path), target="zh_cn")
    assert [pair[:2] for pair in opened(options, "zh")] == [("Hund", "狗")]
    with pytest.raises(DataError) as caught:
        opened(OpusPairOptions(path=str(path)), "zh")
    assert caught.value.problems == (
        f"{path}: no file in it has a name that ends in .zh; there are {', '.join(files)}; give the ending of one with "
        "`target: CODE`",
    )
    twice = write_zip(tmp_path / "b.zip", {"a.de": "", "b.de": "", "a.en": ""})
    with pytest.raises(DataError, match=r"b\.zip: more than one file in it has a name that ends in \.de"):
        opened(OpusPairOptions(path=str(twice)))


def test_sides_of_different_lengths_and_broken_text(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.de": "x\ny\n", "a.en": "x\n"})
    with pytest.raises(DataError) as caught:
        list(opened(OpusPairOptions(path=str(path))))
    assert caught.value.problems == (
        f"{path}/a.de has 2 lines and {path}/a.en has 1; line n of each must belong to the same pair",
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.de", b"x\n\xff\n")
        archive.writestr("a.en", b"x\ny\n")
    with pytest.raises(DataError, match=r"a\.zip/a\.de:2: not UTF-8, byte 0xff"):
        list(opened(OpusPairOptions(path=str(path))))


def test_damaged_zip_files(tmp_path: Path) -> None:
    text = "".join(f"{n * 7919 % 10_007}\n" for n in range(5000))
    path = write_zip(tmp_path / "a.zip", {"a.de": text, "a.en": text})
    content = path.read_bytes()
    for damaged in (b"", b"no zip", content[:2000], content[:3000] + b"\0" * 200 + content[3200:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.zip: not a zip file, damaged or cut short \("):
            list(opened(OpusPairOptions(path=str(path))))
    # The bit that marks encryption, in the header of the file and in the directory.
    encrypted = bytearray(content)
    encrypted[6] |= 1
    encrypted[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(encrypted))
    with pytest.raises(DataError, match=r"a\.zip: cannot be unpacked \(.*password"):
        list(opened(OpusPairOptions(path=str(path))))
    with pytest.raises(DataError, match="is a folder, not a file"):
        opened(OpusPairOptions(path=str(tmp_path)))


# Runs


def test_a_run_learns_the_same_from_every_format(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    sides = [(tmp_path / f"train.{code}").read_text() for code in ("xx", "yy")]
    write_zip(tmp_path / "xx-yy.txt.zip", dict(zip(("a.xx", "a.yy"), sides, strict=True)))
    text = units(*zip(*(side.splitlines() for side in sides), strict=True)).replace('"de"', '"xx"')
    (tmp_path / "a.tmx").write_text(text.replace('"en"', '"yy-YY"'))
    losses = []
    for name, train_key in (
        ("text", []),
        ("opus", [f"data.train={{kind: opus, path: {tmp_path}/xx-yy.txt.zip}}"]),
        ("tmx", [f"data.train={{kind: tmx, path: {tmp_path}/a.tmx}}"]),
    ):
        overrides = (f"run={tmp_path}/{name}", "training.max_epochs=1", f"data.cache={tmp_path}/cache")
        train(run_config(tmp_path, *overrides, *train_key))
        losses.append([record["loss"] for record in records(tmp_path / name)])
    assert losses[0] == losses[1] == losses[2]
    # All of them share the encoded text.
    assert len(list((tmp_path / "cache").glob("*/pairs.arrow"))) == 1
