"""What is made once and kept: a folder for each combination of contents and settings, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nmt.concurrency import lock
from nmt.data.cache.digests import Digests
from nmt.data.cache.mapped import mapped
from nmt.errors import DataError, require_file

_log = logging.getLogger(__name__)

_REPORT = "report.json"
_CHECKSUMS = "checksums.json"


class _Report(Protocol):
    def to_json(self) -> str: ...


Report = TypeVar("Report", bound=_Report)


class _Damaged(Exception):
    pass


def kept(
    cache: Path,
    describe: Callable[[Digests], Mapping[str, Any]],
    name: str,
    make: Callable[[Path, Path], Report],
    read: Callable[[str], Report],
) -> tuple[Path, Report, str]:
    """The file of this name, the report of its making, and the key of both: as they are in the cache, else made.

    `describe` says in values that JSON knows what the file depends on; what it takes from other files it asks the
    digests for. `make(scratch, file)` writes the file; what it leaves in the folder `scratch` is removed. `read` reads
    what the report's `to_json` wrote. Several processes may ask for the same at once: one makes it, the others wait.
    Raises DataError where the cache cannot be written.
    """
    digests = Digests(cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(json.dumps(describe(digests), sort_keys=True).encode()).hexdigest()
        folder = cache / key
        report = _report_if_whole(folder, name, digests, read)
        if report is not None:
            _log.info("encoded corpora found in %s", folder)
        else:
            with lock(cache / f"{key}.lock", wait=True):
                report = _report_if_whole(folder, name, digests, read) or _make_into(folder, name, make)
    except OSError as error:
        raise DataError(f"{cache}: the encoded corpora cannot be kept there ({error}); see data.cache") from error
    return folder / name, report, key


def found(cache: Path, key: str, name: str, read: Callable[[str], Report]) -> Path | None:
    """The file of this name that was kept under this key; None where it is absent or damaged, which is logged."""
    folder = cache / key
    return folder / name if _report_if_whole(folder, name, Digests(cache), read) is not None else None


def _make_into(folder: Path, name: str, make: Callable[[Path, Path], Report]) -> Report:
    """Make beside the final place and rename, which is atomic; the caller holds the lock of the key."""
    making = folder.with_name(f"{folder.name}.partial")
    # Left by a process that was killed: nobody else can be making it, for they would hold the lock.
    shutil.rmtree(making, ignore_errors=True)
    scratch = making / "scratch"
    scratch.mkdir(parents=True)
    try:
        report = make(scratch, making / name)
        shutil.rmtree(scratch)
        (making / _REPORT).write_text(report.to_json(), encoding="utf-8")
        checksums = {each: _checksum(making / each) for each in (name, _REPORT)}
        (making / _CHECKSUMS).write_text(json.dumps(checksums, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    _log.info("encoded corpora written to %s", folder)
    return report


def _report_if_whole(folder: Path, name: str, digests: Digests, read: Callable[[str], Report]) -> Report | None:
    """The report of a cached folder; None where it is absent, or damaged, which is logged."""
    if not folder.exists():
        return None
    try:
        for each in (_CHECKSUMS, name, _REPORT):
            require_file(folder / each)
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        for each in (name, _REPORT):
            path = folder / each
            if digests.of("checksum", [path], partial(_verified, path, checksums[each])) != checksums[each]:
                raise _Damaged(f"{each} is not what was written")
        return read((folder / _REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, _Damaged) as error:
        _log.warning("%s is damaged (%s)", folder, error)
        return None


def _verified(path: Path, expected: str) -> str:
    """Returns the checksum of a file. Of an Arrow file that is as expected, the memory is validated as well.

    An offset out of bounds would crash the process when it is used. Once verified, a file is not read again at a start.
    """
    checksum = _checksum(path)
    if path.suffix == ".arrow" and checksum == expected:
        mapped(path).validate(full=True)
    return checksum


def _checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
