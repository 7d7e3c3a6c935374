"""Downloads that go on after a break and are checked before they are used. Proxies come from the environment."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 20
LONGEST_PAUSE_SECONDS = 30.0
LARGEST_DOWNLOAD = 1 << 30
"""Bytes after which a download is given up, so that a faulty server cannot fill the disk."""
WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
# manythings.org refuses the name that urllib gives itself.
USER_AGENT = "Mozilla/5.0 (compatible; nmt-attention; scripts/fetch_data)"


class FetchError(Exception):
    """A corpus cannot be fetched; the message is one line."""


@dataclass(frozen=True)
class Patience:
    """How often a download is tried, the seconds before the second try, and the seconds of silence that end a try.

    Every further pause is twice as long.
    """

    tries: int
    pause: float
    timeout: float


@dataclass(frozen=True)
class Archive:
    """A published archive of a corpus. Without `url` users fetch it by hand; without `sha256` any version will do."""

    name: str
    url: str | None = None
    sha256: str | None = None

    def matches(self, path: Path) -> bool:
        """Returns whether the file at `path` is this archive."""
        return self.sha256 is None or sha256_of(path) == self.sha256


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def download(url: str, part: Path, is_whole: Callable[[Path], bool] | None, patience: Patience) -> None:
    """Downloads to `part`, goes on from what an earlier run left there, and raises FetchError for other content.

    Without `is_whole` nothing tells whether an earlier run met the same version; then the download starts anew.
    """
    if is_whole is None:
        try:
            part.unlink(missing_ok=True)
            transfer_patiently(url, part, patience)
        except FetchError:
            part.unlink(missing_ok=True)
            raise
        return
    if part.exists() and is_whole(part):  # Stopped between the last byte and the new name.
        return
    continued = part.exists()
    try:
        transfer_patiently(url, part, patience)
    except FetchError as error:
        if part.exists():
            raise FetchError(f"{error}. What has arrived is kept: the same command goes on") from None
        raise
    if continued and not is_whole(part):  # The earlier run may have met another version of the file.
        part.unlink()
        transfer_patiently(url, part, patience)
    if not is_whole(part):
        part.unlink()
        raise FetchError(f"{url} is not the published file (its SHA-256 differs); it was not installed")


def transfer_patiently(url: str, part: Path, patience: Patience) -> None:
    """`transfer`, repeated after failures that may pass: a broken connection, a busy server."""
    for attempt in range(1, patience.tries + 1):
        try:
            transfer(url, part, patience.timeout)
            return
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"the server answered {error.code} {error.reason}"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)
            elif error.code not in WORTH_ANOTHER_TRY:
                raise FetchError(f"{url}: {problem}") from None
        except urllib.error.URLError as error:
            problem = str(error.reason)
            if isinstance(error.reason, socket.gaierror):
                problem += " (is there a network, or must https_proxy name a proxy?)"
        except TimeoutError:
            problem = f"the server sent nothing for {patience.timeout:g} s"
        except (ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        if attempt < patience.tries:
            pause = min(patience.pause * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
            print(f"{url}: {problem}; trying again in {pause:g} s", file=sys.stderr)
            time.sleep(pause)
    raise FetchError(f"{url}: {problem}; gave up after {patience.tries} tries")


def transfer(url: str, part: Path, timeout: float) -> None:
    """One request: appends to `part` what it lacks, or writes it anew where the server cannot send a part.

    Raises ConnectionError when fewer bytes arrive than the server announced.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("the server sent another part than the one asked for")
        received = 0
        # Without a buffer, so that a full disk is noticed here and not when the file is closed.
        with part.open("ab" if goes_on else "wb", buffering=0) as out:
            while block := response.read(BLOCK):
                received += len(block)
                if received > LARGEST_DOWNLOAD:
                    raise FetchError(f"{url}: the server sends more than {LARGEST_DOWNLOAD:,} bytes")
                rest = memoryview(block)
                try:
                    while rest:
                        rest = rest[out.write(rest) :]
                except OSError as error:
                    raise FetchError(f"cannot write {part}: {error.strerror}") from None
        announced = response.headers.get("Content-Length")
    if announced is not None and received < int(announced):
        raise ConnectionError(f"the connection ended after {received:,} of {int(announced):,} bytes")
