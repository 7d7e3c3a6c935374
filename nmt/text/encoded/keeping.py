"""What is made once and kept: a folder for each combination of contents and settings, whole or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nmt.errors import DataError

_log = logging.getLogger(__name__)

_CHECKSUMS = "checksums.json"


class _Damaged(Exception):
    pass


def key_of(described: Mapping[str, Any]) -> str:
    """The name of the folder of what is described so, in values that JSON knows."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def kept(cache: Path, key: str, files: Sequence[str], make: Callable[[Path, Path], None]) -> Path:
    """The folder of this key, which has these files: as it is in the cache, else made into it.

    `make(folder, scratch)` writes the files into a new folder; what it leaves in `scratch` is removed. Several
    processes may ask for the same at once: one makes it, the others wait for it.
    Raises DataError where the cache cannot be written.
    """
    folder = cache / key
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if _is_whole(folder, files):
            _log.info("encoded corpora found in %s", folder)
            return folder
        with _locked(cache / f"{key}.lock"):
            if not _is_whole(folder, files):
                _make_into(folder, files, make)
    except OSError as error:
        raise DataError(f"{cache}: the encoded corpora cannot be kept there ({error}); see data.cache") from error
    return folder


def _make_into(folder: Path, files: Sequence[str], make: Callable[[Path, Path], None]) -> None:
    """Make beside the final place and rename, which is atomic; the caller holds the lock of the key."""
    partial = folder.with_name(f"{folder.name}.partial")
    # Left by a process that was killed: nobody else can be making it, for they would hold the lock.
    shutil.rmtree(partial, ignore_errors=True)
    scratch = partial / "scratch"
    scratch.mkdir(parents=True)
    try:
        make(partial, scratch)
        shutil.rmtree(scratch)
        checksums = {name: _checksum(partial / name) for name in files}
        (partial / _CHECKSUMS).write_text(json.dumps(checksums, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _log.info("encoded corpora written to %s", folder)


def _is_whole(folder: Path, files: Sequence[str]) -> bool:
    """Whether the folder is there as it was written; that it is damaged is logged.

    The checksums cost a read of the files; the fingerprints of the key have just cost a longer one of the text.
    """
    if not folder.exists():
        return False
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        for name in files:
            if _checksum(folder / name) != checksums[name]:
                raise _Damaged(f"{name} is not what was written")
    except (OSError, ValueError, KeyError, TypeError, _Damaged) as error:
        _log.warning("%s is damaged (%s): encoding again", folder, error)
        return False
    return True


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock, which the system takes back from a process that dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
