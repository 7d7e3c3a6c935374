"""scripts/fetch_data: from a folder, from a server that breaks off, cannot resume, or has the wrong file."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAIN = "".join(f"Satz {number} von vielen.\n" for number in range(20_000)).encode()
ALIGNMENT = b"0-0 1-1 2p1\n"
CONTENT = {"train.de.gz": TRAIN, "gold.talp": ALIGNMENT}
STORED = {"train.de.gz": gzip.compress(TRAIN, mtime=0), "gold.talp": ALIGNMENT}
"""What an origin serves; other compression settings would give other bytes and the same content."""


@dataclass
class Origin:
    """What the server does, and the `Range` and the status of every request so far."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: dict(STORED))
    ranges: bool = True
    break_off_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers, one each, break off."""
    busy: int = 0
    """Answers that are '503 Service Unavailable' before the first real one."""
    seen: list[tuple[str | None, int]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Origin]:
    origin = Origin()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            body = origin.files.get(Path(self.path).name)
            status = 200
            if origin.busy:
                origin.busy -= 1
                status = 503
            elif body is None or not self.path.startswith("/corpora/tiny/"):
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
        listener.shutdown()
        thread.join()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "corpora.json"
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in CONTENT.items()
    }
    corpus = {"about": "tiny", "licence": "none", "original": "this test", "home": None, "files": files}
    path.write_text(json.dumps({"tiny": corpus}))
    return path


@dataclass
class Fetch:
    """Runs the script in a process of its own, as a user does."""

    table: Path
    into: Path
    shared: Path

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "fetch_data"), "--corpora", str(self.table)]
        command += ["--into", str(self.into), "--pause", "0.01", *arguments]
        environment = {**os.environ, "NMT_SHARED_DATA": str(self.shared), "no_proxy": "127.0.0.1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.into / "tiny").iterdir()}


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
    assert_refused(fetch("tiny"), "tiny is not in", "this test", "--from")
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
