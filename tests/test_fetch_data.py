"""scripts/fetch_data: from a folder, from servers that fail in every way, and from archives of the published layout."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from scripts.fetching import convert
from scripts.fetching.__main__ import read_table
from scripts.fetching.convert import CONVERTERS, members
from scripts.fetching.download import FetchError

ROOT = Path(__file__).parent.parent
TRAIN = "".join(f"Satz {number} von vielen.\n" for number in range(20_000)).encode()
ALIGNMENT = b"0-0 1-1 2p1\n"
CONTENT = {"train.de.gz": TRAIN, "gold.talp": ALIGNMENT}
STORED = {"train.de.gz": gzip.compress(TRAIN, mtime=0), "gold.talp": ALIGNMENT}
"""Files of an origin. Other compression settings would give other bytes and the same content."""


@dataclass
class Origin:
    """Behaviour of the server, and the `Range` and the status of every request so far."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: dict(STORED))
    ranges: bool = True
    break_off_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers, one each, break off."""
    busy: int = 0
    """Answers that are '503 Service Unavailable' before the first real one."""
    silent: int = 0
    """Answers that never come, before the first real one."""
    paths: list[str] = field(default_factory=list)
    """The path of every request so far, an address where the server is asked as a proxy."""
    over: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[str | None, int]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Origin]:
    origin = Origin()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            origin.paths.append(self.path)
            path = urllib.parse.urlsplit(self.path).path
            body = origin.files.get(Path(path).name)
            status = 200
            if origin.silent:
                origin.silent -= 1
                origin.over.wait(10)
                return
            if origin.busy:
                origin.busy -= 1
                status = 503
            elif body is None or not path.startswith(("/corpora/tiny/", "/archives/")):
                status = 404
            elif asked and origin.ranges:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                status = 206 if start < len(body) else 416
            origin.seen.append((asked, status))
            if status > 206:
                self.send_error(status)
                return
            assert body is not None
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                body = body[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: origin.break_off_after.pop(0)] if origin.break_off_after else body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        origin.url = f"http://127.0.0.1:{listener.server_port}/corpora"
        yield origin
        origin.over.set()
        listener.shutdown()
        thread.join()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "corpora.json"
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in CONTENT.items()
    }
    corpus = {"about": "tiny", "licence": "none", "original": "this test", "exact": True, "files": files}
    corpus["home"] = "http://127.0.0.1:9/tiny"
    path.write_text(json.dumps({"tiny": corpus}))
    return path


@dataclass
class Fetch:
    """Runs the script in a process of its own, as a user does."""

    table: Path
    into: Path
    shared: Path

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "fetch_data"), "--corpora", str(self.table)]
        command += ["--into", str(self.into), "--pause", "0.01", *arguments]
        environment = {**os.environ, "NMT_SHARED_DATA": str(self.shared), "no_proxy": "127.0.0.1", **variables}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    def contents(self, corpus: str = "tiny") -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.into / corpus).iterdir()}


@pytest.fixture
def fetch(table: Path, tmp_path: Path) -> Fetch:
    return Fetch(table, tmp_path / "data", tmp_path / "shared")


def assert_refused(result: subprocess.CompletedProcess[str], *fragments: str) -> None:
    assert result.returncode == 2
    *_, message = result.stderr.splitlines()
    assert message.startswith("fetch_data: ")
    assert "Traceback" not in result.stderr
    for fragment in fragments:
        assert fragment in message


def put_into_shared(fetch: Fetch, files: dict[str, bytes]) -> None:
    (fetch.shared / "tiny").mkdir(parents=True)
    for name, content in files.items():
        (fetch.shared / "tiny" / name).write_bytes(content)


def test_a_corpus_comes_from_the_local_folder_and_a_whole_one_is_left_alone(fetch: Fetch) -> None:
    put_into_shared(fetch, STORED)
    assert fetch("tiny").returncode == 0
    assert fetch.contents() == STORED

    before = {path: path.stat().st_mtime_ns for path in (fetch.into / "tiny").iterdir()}
    again = fetch("tiny")
    assert again.returncode == 0
    assert again.stdout.startswith("tiny: whole")
    assert {path: path.stat().st_mtime_ns for path in (fetch.into / "tiny").iterdir()} == before


def test_the_checksum_is_of_the_content_not_of_its_compression(fetch: Fetch) -> None:
    otherwise = {**STORED, "train.de.gz": gzip.compress(TRAIN, compresslevel=1)}
    assert otherwise["train.de.gz"] != STORED["train.de.gz"]
    put_into_shared(fetch, otherwise)
    assert fetch("tiny").returncode == 0


def test_only_missing_files_are_fetched_and_a_changed_one_needs_force(fetch: Fetch) -> None:
    put_into_shared(fetch, STORED)
    fetch("tiny")
    gold = fetch.into / "tiny" / "gold.talp"
    gold.unlink()
    assert "1 of 2 files" in fetch("tiny").stdout
    assert fetch.contents() == STORED

    gold.write_bytes(b"my own notes\n")
    assert_refused(fetch("tiny"), str(gold), "--force")
    assert gold.read_bytes() == b"my own notes\n"
    assert fetch("tiny", "--force").returncode == 0
    assert fetch.contents() == STORED


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(gzip.compress(TRAIN + b"one more\n"), id="longer"),
        pytest.param(gzip.compress(TRAIN.replace(b"Satz 7 ", b"Satz 8 ")), id="same length, another digit"),
        pytest.param(STORED["train.de.gz"][:-100], id="cut off"),
        pytest.param(b"<html>not found</html>", id="not compressed"),
    ],
)
def test_wrong_content_is_refused_and_not_installed(fetch: Fetch, server: Origin, wrong: bytes) -> None:
    put_into_shared(fetch, {**STORED, "train.de.gz": wrong})
    assert_refused(fetch("tiny"), str(fetch.shared / "tiny" / "train.de.gz"), "SHA-256")
    assert not fetch.contents().keys() & {"train.de.gz", "train.de.gz.part"}

    server.files["train.de.gz"] = wrong
    assert_refused(fetch("tiny", "--from", server.url), f"{server.url}/tiny/train.de.gz", "SHA-256")
    assert not fetch.contents().keys() & {"train.de.gz", "train.de.gz.part"}


def test_a_download_that_breaks_off_goes_on_where_it_stopped(fetch: Fetch, server: Origin) -> None:
    server.break_off_after = [1000, 500]
    assert fetch("tiny", "--from", server.url).returncode == 0
    assert fetch.contents() == STORED
    assert server.seen == [(None, 200), ("bytes=1000-", 206), ("bytes=1500-", 206), (None, 200)]


def test_the_next_call_goes_on_where_the_last_one_gave_up(fetch: Fetch, server: Origin) -> None:
    server.break_off_after = [1000, 500]
    assert_refused(fetch("tiny", "--from", server.url, "--tries", "2"), "gave up after 2 tries", "connection ended")
    assert fetch.contents() == {"train.de.gz.part": STORED["train.de.gz"][:1500]}

    assert fetch("tiny", "--from", server.url).returncode == 0
    assert fetch.contents() == STORED
    assert ("bytes=1500-", 206) in server.seen


def test_a_server_that_cannot_resume_sends_everything_again(fetch: Fetch, server: Origin) -> None:
    server.ranges = False
    server.break_off_after = [1000]
    assert fetch("tiny", "--from", server.url).returncode == 0
    assert fetch.contents() == STORED
    assert server.seen[:2] == [(None, 200), ("bytes=1000-", 200)]


@pytest.mark.parametrize(
    "left_over",
    [
        pytest.param(b"of another version", id="other beginning"),
        pytest.param(STORED["train.de.gz"] + b"too much", id="longer than the file"),
        pytest.param(STORED["train.de.gz"], id="whole"),
    ],
)
def test_any_left_over_part_ends_in_the_right_file(fetch: Fetch, server: Origin, left_over: bytes) -> None:
    (fetch.into / "tiny").mkdir(parents=True)
    (fetch.into / "tiny" / "train.de.gz.part").write_bytes(left_over)
    assert fetch("tiny", "--from", server.url).returncode == 0
    assert fetch.contents() == STORED


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(fetch: Fetch, server: Origin) -> None:
    server.busy = 2
    assert fetch("tiny", "--from", server.url).returncode == 0
    assert [status for _, status in server.seen] == [503, 503, 200, 200]

    server.seen.clear()
    del server.files["gold.talp"]
    assert_refused(fetch("tiny", "--from", server.url, "--force"), f"{server.url}/tiny/gold.talp", "404")
    assert [status for _, status in server.seen].count(404) == 1


def test_a_dead_server_is_given_up(fetch: Fetch, server: Origin) -> None:
    server.busy = 99
    assert_refused(fetch("tiny", "--from", server.url, "--tries", "3"), "503", "gave up after 3 tries")
    assert len(server.seen) == 3


def test_what_cannot_be_had_says_where_it_comes_from(fetch: Fetch) -> None:
    assert_refused(fetch("tiny", "--tries", "1"), "http://127.0.0.1:9/tiny/train.de.gz", "refused")
    assert_refused(fetch("tinny"), "'tinny'", "tiny")
    assert_refused(fetch("tiny", "--from", str(fetch.shared)), str(fetch.shared / "tiny" / "train.de.gz"))
    fetch.table.write_text('{"tiny": {"files": {}}}')
    assert_refused(fetch("tiny"), str(fetch.table))


def test_the_list_tells_what_is_here(fetch: Fetch) -> None:
    assert "0 of 2 files here" in fetch("--list").stdout
    put_into_shared(fetch, STORED)
    fetch("tiny")
    listed = fetch("--list")
    assert listed.returncode == 0
    assert "; here\n" in listed.stdout
    assert str(fetch.shared / "tiny") in listed.stdout


def test_every_corpus_file_that_a_config_names_can_be_fetched() -> None:
    table = json.loads((ROOT / "data" / "corpora.json").read_text())
    for config in (ROOT / "configs").rglob("*.yaml"):
        for folder, name in re.findall(r"\bdata/([\w-]+)/([\w.-]+)", config.read_text(encoding="utf-8")):
            if folder == "quickstart":
                assert (ROOT / "data" / folder / name).is_file(), f"{config}: data/{folder}/{name} is not there"
            else:
                assert name in table[folder]["files"], f"{config}: data/{folder}/{name} is in no corpus"


# Corpora that are published in another form

OSIS = """<?xml version='1.0' encoding='UTF-8'?>
<osis xmlns='http://www.bibletechnologies.net/2003/OSIS/namespace'>
  <osisText osisIDWork='x' xml:lang='de'>
    <header><work osisWork='x'><title>A title</title></work></header>
{}
  </osisText>
</osis>"""


def osis(**chapters: list[str]) -> bytes:
    """A text in the layout of github.com/gratis-bible: verses in chapters in books. `Ps_3` names a chapter."""
    books = []
    for name, verses in chapters.items():
        book, number = name.split("_")
        lines = "\n".join(
            f"        <verse osisID='{book}.{number}.{index}'>{verse}</verse>" for index, verse in enumerate(verses, 1)
        )
        chapter = f"      <chapter osisID='{book}.{number}'>\n        <title>Heading</title>\n{lines}\n      </chapter>"
        books.append(f"    <div type='book' osisID='{book}'>\n{chapter}\n    </div>")
    return OSIS.format("\n".join(books)).encode()


def zipped(**members: bytes | str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(links: Mapping[str, str] = MappingProxyType({}), **members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return stream.getvalue()


NEWS = {
    "bbc/README.TXT": b"About",
    "bbc/business/001.txt": 'A title\n\nIt cost £5. Mr. X. Y said: "No. I will not." He left.\n\nNext one\n'.encode(),
    "bbc/sport/002.txt": b"A fee of \xa35 m\n",  # No UTF-8, as sport/199 of the real one.
    "bbc/tech/003.txt": b"Three\n",
    "bbc/tech/004.txt": b"Three\n",  # A copy.
    **{f"bbc/sport/{number:03}.txt": f"Match {number}\n".encode() for number in range(5, 13)},
}
SENTENCES = {
    "business/001": 'A title\tIt cost £5.\tMr. X. Y said: "No. I will not."\tHe left.\tNext one',
    "sport/002": "A fee of £5 m",
    "tech/003": "Three",
    "tech/004": "Three",
    **{f"sport/{number:03}": f"Match {number}" for number in range(5, 13)},
}


def news_files() -> dict[str, list[str]]:
    """Files that NEWS is converted to: 11 different documents, 8 for training, 1 for dev, 2 for test."""
    names = sorted(SENTENCES)
    random.Random(7).shuffle(names)
    names.remove(max(("tech/003", "tech/004"), key=names.index))
    files = {}
    for split, part in (("train", names[:8]), ("dev", names[8:9]), ("test", names[9:])):
        files[f"{split}.docs.txt.gz"] = [SENTENCES[name] for name in part]
        files[f"{split}.labels.tsv.gz"] = [f"{name.split('/')[0]}\t{name}" for name in part]
    return files


REVIEWS = {
    "aclImdb/README": b"About",
    "aclImdb/train/pos/0_9.txt": b"So good!<br /><br />\xc2\x85really.  See it\xc2\x85 Now",
    "aclImdb/train/neg/0_3.txt": "Lt. Columbo é. $5 lost.".encode(),
    "aclImdb/train/neg/10_1.txt": b"Ten.",
    "aclImdb/train/unsup/0_0.txt": b"No label.",
    "aclImdb/train/labeledBow.feat": b"9 0:9",
    "aclImdb/test/pos/2_7.txt": b"Two.",
}


def review_files() -> dict[str, list[str]]:
    reviews = [("neg", "3", "0", "Lt. Columbo é.\t$5 lost."), ("pos", "9", "0", "So good!\treally.\tSee it...\tNow")]
    reviews.append(("neg", "1", "10", "Ten."))
    random.Random(7).shuffle(reviews)
    return {
        "train.docs.txt.gz": [text for *_, text in reviews],
        "train.labels.tsv.gz": [f"{label}\t{rating}\ttrain/{label}/{n}_{rating}" for label, rating, n, _ in reviews],
        "test.docs.txt.gz": ["Two."],
        "test.labels.tsv.gz": ["pos\t7\ttest/pos/2_7"],
    }


GERMAN = osis(
    Ruth_1=["[Es] war <note>Hebr. geschah</note>einmal.", "Zwei  sehr lange\n Verse."],
    Gen_2=["Ein langer Vers steht hier.", "Kurz."],
    Gen_10=["Kurz.", "Der andere Vers ist sehr lang.", ""],
    Ps_3=["{Ein Psalm}", "Erster.", "Der zweite Vers."],
    Lam_1=["Kurz.", "Ein langer Vers."],
    Gen_4=["Zu viele.", "Verse", "hier"],
)
ENGLISH = osis(
    Ruth_1=["There was once.", "Two very long verses."],
    Gen_2=["A long verse stands here.", "Short."],
    Gen_10=["Short.", "The other verse is very long."],
    Ps_3=["The first.", "The second one."],
    Lam_1=["Of another length it is.", "So is it."],
    Gen_4=["Too many.", "Verses"],
)
BIBLE = {
    **{f"{name}.xml": GERMAN for name in ("elb1905", "luth1912", "elb1871")},
    **{f"{name}.xml": ENGLISH for name in ("darby", "kjv", "asv")},
}


def bible_files() -> dict[str, list[str]]:
    """Gen 4 has other numbers of verses, the lengths in Lam 1 do not fit; the psalm's heading is left out."""
    german = ["Kurz.", "Der andere Vers ist sehr lang."], ["Ein langer Vers steht hier.", "Kurz."]
    english = ["Short.", "The other verse is very long."], ["A long verse stands here.", "Short."]
    documents = [f"{chapter}\t{number}" for chapter in ("Gen.2", "Gen.10", "Ps.3") for number in (1, 2)]
    pairs = ("elb1905-darby", "luth1912-kjv", "elb1871-asv")
    return {
        "train.de.gz": [*german[1], *german[0], "Erster.", "Der zweite Vers."] * 3,
        "train.en.gz": [*english[1], *english[0], "The first.", "The second one."] * 3,
        "train.docid.gz": [f"{pair}:{document}" for pair in pairs for document in documents],
        "dev.de.gz": [],
        "dev.en.gz": [],
        "dev.docid.gz": [],
        "test.de.gz": ["Es war einmal.", "Zwei sehr lange Verse."] * 3,
        "test.en.gz": ["There was once.", "Two very long verses."] * 3,
        "test.docid.gz": [f"{pair}:Ruth.1\t{number}" for pair in pairs for number in (1, 2)],
    }


ALIGNED = {
    "DeEn/de": "Das stimmt nicht !\n\nGrüße .\n".encode("latin-1"),
    "DeEn/en": b"That is wrong !\n\nGreetings .\n",
    "DeEn/alignmentDeEn": b"SENT: 0\nS 1 1\n",
    "DeEn/alignmentDeEn.talp": b"4-4 1-1 3p3 2-2 2-10 \n\n2-2 1-1\n",
}
ALIGNED_FILES = {
    "de-en.src": ["Das stimmt nicht !", "Grüße ."],
    "de-en.tgt": ["That is wrong !", "Greetings ."],
    "de-en.talp": ["0-0 1-1 1-9 2p2 3-3", "0-0 1-1"],
}
CASES = {
    "bbc-news": ({"bbc-fulltext.zip": zipped(**NEWS)}, news_files()),
    "imdb": ({"aclImdb_v1.tar.gz": tarred(**REVIEWS)}, review_files()),
    "bible-de-en": (BIBLE, bible_files()),
    "word-align": ({"DeEnGoldAlignment.tar.gz": tarred(**ALIGNED)}, ALIGNED_FILES),
}
"""By corpus: what is published, and the lines of every file that it is converted to."""


def content_of(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def publish(
    fetch: Fetch,
    server: Origin,
    corpus: str,
    archives: Mapping[str, bytes],
    files: Mapping[str, Sequence[str]],
    **changed: Any,
) -> None:
    """Let the server have the archives, and write a table that says where they are and what they are converted to."""
    server.files |= archives
    url = server.url.replace("/corpora", "/archives")
    entry = {
        "about": "tiny",
        "licence": "none",
        "original": "this test",
        "exact": True,
        "archives": {
            name: {"url": f"{url}/{name}", "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in archives.items()
        },
        "files": {
            name: {"bytes": len(content_of(lines)), "sha256": hashlib.sha256(content_of(lines)).hexdigest()}
            for name, lines in files.items()
        },
    }
    if sources := changed.pop("sources", None):
        entry["archives"] = sources
    fetch.table.write_text(json.dumps({corpus: entry | changed}))


def lines_in(fetch: Fetch, corpus: str) -> dict[str, bytes]:
    found = fetch.contents(corpus)
    return {name: gzip.decompress(content) if name.endswith(".gz") else content for name, content in found.items()}


@pytest.mark.parametrize("corpus", CASES)
def test_published_archives_are_converted(fetch: Fetch, server: Origin, corpus: str) -> None:
    archives, files = CASES[corpus]
    publish(fetch, server, corpus, archives, files)
    result = fetch(corpus)
    assert result.returncode == 0, result.stderr
    assert lines_in(fetch, corpus) == {name: content_of(lines) for name, lines in files.items()}
    assert [path.name for path in fetch.into.iterdir()] == [corpus]

    asked = len(server.seen)
    assert fetch(corpus).stdout.startswith(f"{corpus}: whole")
    assert len(server.seen) == asked


def test_a_folder_with_the_archives_serves_as_well(fetch: Fetch, server: Origin, tmp_path: Path) -> None:
    archives, files = CASES["word-align"]
    form = {"sources": {name: {} for name in archives}, "form": "https://example.org/form"}
    publish(fetch, server, "word-align", archives, files, **form)
    assert_refused(fetch("word-align"), "DeEnGoldAlignment.tar.gz", "https://example.org/form", "--archives")
    assert "the form at https://example.org/form" in fetch("--list").stdout

    assert_refused(fetch("word-align", "--archives", str(tmp_path)), str(tmp_path / "DeEnGoldAlignment.tar.gz"))
    (tmp_path / "DeEnGoldAlignment.tar.gz").write_bytes(archives["DeEnGoldAlignment.tar.gz"])
    assert fetch("word-align", "--archives", str(tmp_path)).returncode == 0
    assert lines_in(fetch, "word-align") == {name: content_of(lines) for name, lines in files.items()}
    assert (tmp_path / "DeEnGoldAlignment.tar.gz").exists()
    assert server.seen == []


def tatoeba(release: int) -> bytes:
    """A release with 8,000 pairs, the last 500 of which share a German or English sentence with others."""
    by = "\tCC-BY 2.0 (France) Attribution: tatoeba.org #1 (x)" if release else ""
    pairs = [(f"Sentence {number}.", f"Satz {number}.") for number in range(release, 7500 + release)]
    pairs += [(f"Sentence {number}.", f"Anderer  Satz {number}.") for number in range(100, 350)]
    pairs += [(f"Other sentence {number}.", f"Satz {number}.") for number in range(100, 350)]
    text = "\ufeff" + "".join(f"{english}\t{german}{by}\r\n" for english, german in [*pairs, pairs[0]])
    return zipped(**{"_about.txt": "** Info **\r\nCC-BY 2.0\r\n", "deu.txt": text})


def test_another_release_of_tatoeba_is_split_alike_and_said_to_be_another(fetch: Fetch, server: Origin) -> None:
    files: dict[str, list[str]] = {
        f"{split}.{side}.gz": ["x"] for split in ("train", "dev", "test") for side in ("de", "en")
    }
    files["LICENCE.txt"] = ["** Info **", "CC-BY 2.0"]
    unknown = {"deu-eng.zip": {"url": f"{server.url.replace('/corpora', '/archives')}/deu-eng.zip"}}
    publish(fetch, server, "tatoeba-de-en", {"deu-eng.zip": tatoeba(0)}, files, exact=False, sources=unknown)
    sha256 = hashlib.sha256(server.files["deu-eng.zip"]).hexdigest()
    first = fetch("tatoeba-de-en")
    assert first.returncode == 0, first.stderr
    assert "not the version that the scores in docs/ were measured on" in first.stdout
    before = lines_in(fetch, "tatoeba-de-en")
    assert before["LICENCE.txt"] == b"** Info **\nCC-BY 2.0\n"
    assert json.loads(before["fetched.json"])["archives"] == {"deu-eng.zip": sha256}
    sides = {
        split: [before[f"{split}.{side}.gz"].decode().splitlines() for side in ("de", "en")]
        for split in ("train", "dev", "test")
    }
    assert len(sides["dev"][0]) == len(sides["test"][0]) == 3000
    for german, english in sides.values():
        assert all(
            re.sub(r"\D", "", one) == re.sub(r"\D", "", other) for one, other in zip(german, english, strict=True)
        )
    for side in (0, 1):
        train, dev, test = (set(sides[split][side]) for split in ("train", "dev", "test"))
        assert len(train | dev | test) == len(train) + len(dev) + len(test)
    pairs = sum(len(german) for german, _ in sides.values())
    assert 7500 <= pairs < 8000  # Those of the last 500 that share a sentence with dev or test are left out.

    again = fetch("tatoeba-de-en")
    assert again.returncode == 0
    assert "whole" in again.stdout
    assert "not the version" in again.stdout
    (fetch.into / "tatoeba-de-en" / "dev.de.gz").write_bytes(gzip.compress(b"mine\n"))
    assert_refused(fetch("tatoeba-de-en"), "dev.de.gz", "--force")

    server.files["deu-eng.zip"] = tatoeba(1)
    assert fetch("tatoeba-de-en", "--force").returncode == 0
    after = lines_in(fetch, "tatoeba-de-en")
    old, new = (set(each["test.de.gz"].split(b"\n")) for each in (before, after))
    assert len(old & new) > 2900  # A pair more or less moves few others.


def test_members_that_point_outside_are_never_written(fetch: Fetch, server: Origin, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("A secret.")
    evil = {"../../evil.txt": b"x", "/tmp/evil.txt": b"x", "bbc/../../sport/1.txt": b"x", "bbc/sport/../1.txt": b"x"}
    archives = {"bbc-fulltext.zip": zipped(**NEWS, **evil)}
    publish(fetch, server, "bbc-news", archives, news_files())
    assert fetch("bbc-news").returncode == 0
    linked = tarred({"aclImdb/train/pos/1_9.txt": str(secret), "aclImdb/test": str(tmp_path)}, **REVIEWS, **evil)
    publish(fetch, server, "imdb", {"aclImdb_v1.tar.gz": linked}, review_files())
    assert fetch("imdb").returncode == 0  # The files are those without the links.
    assert not list(tmp_path.rglob("evil.txt"))
    assert sorted(path.name for path in fetch.into.iterdir()) == ["bbc-news", "imdb"]


def test_a_member_of_absurd_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "LARGEST_MEMBER", 1000)
    content = {"bbc/sport/001.txt": bytes(1001)}
    for bomb, archive in ((tmp_path / "bomb.zip", zipped(**content)), (tmp_path / "bomb.tar.gz", tarred(**content))):
        bomb.write_bytes(archive)
        with pytest.raises(FetchError, match=r"001\.txt has 1,001 bytes"):
            list(members(bomb, r"bbc/.*"))


def encrypted(archive: bytes) -> bytes:
    """Sets the bit that says so in every header of a zip archive."""
    content = bytearray(archive)
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(header), archive):
            content[match.start() + flags] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("wrong", "fragment"),
    [
        pytest.param(zipped(**NEWS)[:-100], "damaged", id="cut off"),
        pytest.param(encrypted(zipped(**NEWS)), "damaged", id="encrypted"),
        pytest.param(b"<html>moved</html>", "damaged", id="a page"),
        pytest.param(zipped(**{"bbc/README.TXT": b"x"}), "no file named bbc/LABEL/NUMBER.txt", id="without documents"),
        pytest.param(zipped(**{**NEWS, "bbc/tech/003.txt": b"Other"}), "SHA-256", id="another document"),
    ],
)
def test_a_wrong_archive_leaves_nothing_behind(fetch: Fetch, server: Origin, wrong: bytes, fragment: str) -> None:
    archives, files = CASES["bbc-news"]
    publish(fetch, server, "bbc-news", archives, files)
    server.files["bbc-fulltext.zip"] = wrong
    assert_refused(fetch("bbc-news"), "bbc-fulltext.zip", "SHA-256")
    assert list(fetch.into.iterdir()) == []

    unknown = {"bbc-fulltext.zip": {"url": f"{server.url.replace('/corpora', '/archives')}/bbc-fulltext.zip"}}
    publish(fetch, server, "bbc-news", {"bbc-fulltext.zip": wrong}, files, sources=unknown)
    assert_refused(fetch("bbc-news"), "bbc-fulltext.zip", fragment)
    assert list(fetch.into.iterdir()) == []


def test_failed_downloads_of_archives(fetch: Fetch, server: Origin) -> None:
    archives, files = CASES["imdb"]
    publish(fetch, server, "imdb", archives, files)
    whole = server.files.pop("aclImdb_v1.tar.gz")
    assert_refused(fetch("imdb"), "/archives/aclImdb_v1.tar.gz", "404")
    assert list(fetch.into.iterdir()) == []

    server.files["aclImdb_v1.tar.gz"] = whole
    server.silent = 1
    assert_refused(fetch("imdb", "--tries", "1", "--timeout", "0.2"), "sent nothing for 0.2 s", "gave up after 1 tries")

    server.break_off_after = [100]
    assert_refused(fetch("imdb", "--tries", "1"), "connection ended after 100 of", "the same command goes on")
    assert [path.name for path in fetch.into.iterdir()] == [".downloads"]
    assert fetch("imdb").returncode == 0
    assert server.seen[-1] == ("bytes=100-", 206)
    assert [path.name for path in fetch.into.iterdir()] == ["imdb"]


def test_a_full_disk_is_one_line_and_what_was_there_stays(fetch: Fetch, server: Origin) -> None:
    """A limit on the size of files stands for the full disk: the same failure of the same call."""

    def limited(corpus: str) -> subprocess.CompletedProcess[str]:
        command = f"ulimit -f 0; exec {sys.executable} {ROOT}/scripts/fetch_data {corpus} --tries 1"
        command += f" --corpora {fetch.table} --into {fetch.into}"
        environment = {**os.environ, "NMT_SHARED_DATA": str(fetch.shared), "no_proxy": "127.0.0.1"}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)

    put_into_shared(fetch, STORED)
    assert_refused(limited("tiny"), "cannot copy", "train.de.gz.part", "File too large")
    assert fetch.contents() == {}

    archives, files = CASES["bbc-news"]
    publish(fetch, server, "bbc-news", archives, files)
    (fetch.into / "bbc-news").mkdir(parents=True)
    (fetch.into / "bbc-news" / "notes.txt").write_text("mine")
    assert_refused(limited("bbc-news"), "cannot write", "bbc-fulltext.zip.part", "File too large")
    assert fetch.contents("bbc-news") == {"notes.txt": b"mine"}


def test_proxies_come_from_the_environment(fetch: Fetch, server: Origin) -> None:
    archives, files = CASES["bbc-news"]
    elsewhere = {"bbc-fulltext.zip": {"url": "http://corpora.invalid/archives/bbc-fulltext.zip"}}
    publish(fetch, server, "bbc-news", archives, files, sources=elsewhere)
    proxy = server.url.removesuffix("/corpora")
    assert fetch("bbc-news", http_proxy=proxy, no_proxy="").returncode == 0
    assert server.paths == ["http://corpora.invalid/archives/bbc-fulltext.zip"]


def test_the_table_and_the_converters_fit_together() -> None:
    table = read_table(ROOT / "data" / "corpora.json")
    assert {name for name, corpus in table.items() if corpus.archives} == set(CONVERTERS)
    for corpus in table.values():
        assert (corpus.home is None) == bool(corpus.archives)
        assert all(archive.url or corpus.form for archive in corpus.archives)
