"""The cache: a folder for each combination of contents and settings, built once, complete or absent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from nmt.concurrency import lock
from nmt.data.cache.columns import MappedColumns
from nmt.data.readers.base import ExampleSource
from nmt.errors import DataError, require_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SETTLED_SECONDS = 2.0
"""A file changed later than this before it was read may change once more and keep the same times."""

_log = logging.getLogger(__name__)

_REPORT = "report.json"
_CHECKSUMS = "checksums.json"

Report = TypeVar("Report", bound="DataclassInstance")
FileStates = list[list[int]]
"""Size, times of modification and of change in nanoseconds, and inode number of each file."""


class Digests:
    """Digests of files, stored in `digests.json` of a folder and valid while the files stay unchanged.

    A billion pairs are not read again at every start. Without that file everything is read again.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "digests.json"
        self._lock = folder / "digests.lock"

    def of(self, kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
        """Returns the stored digest of the files if they are unchanged, otherwise that of `compute`.

        `kind` tells digests of the same files apart. If several processes ask for the same digest, one computes it and
        the others wait. Without files nothing is stored.
        """
        name = json.dumps([kind, *(str(path.absolute()) for path in files)])
        if (stored := self._stored(name, files)) is not None:
            return stored
        if not files:
            return compute()
        with lock(self._lock, wait=True):
            if (stored := self._stored(name, files)) is not None:
                return stored
            before, start = _states(files), time.time()
            digest = compute()
            # If the files change meanwhile, their state differs from the stored one.
            if before is not None and max(max(times[1:3]) for times in before) / 1e9 < start - SETTLED_SECONDS:
                self._store(name, before, digest)
        return digest

    def of_texts(self, kind: str, texts: Sequence[ExampleSource[Any]]) -> list[str]:
        """Returns the fingerprints of the texts. Each unchanged text is read once."""
        return [self.of(f"{kind} {text.reading}", text.files, text.fingerprint) for text in texts]

    def _stored(self, name: str, files: Sequence[Path]) -> str | None:
        entry = self._entries().get(name)
        return entry["digest"] if entry is not None and entry["state"] == _states(files) else None

    def _entries(self) -> dict[str, Any]:
        try:
            require_file(self._file)
            entries = json.loads(self._file.read_text(encoding="utf-8"))
            return {name: {"state": entry["state"], "digest": str(entry["digest"])} for name, entry in entries.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _store(self, name: str, states: FileStates, digest: str) -> None:
        entries = {
            other: entry
            for other, entry in self._entries().items()
            if all(os.path.exists(path) for path in json.loads(other)[1:])
        }
        entries[name] = {"state": states, "digest": digest}
        partial_file = self._file.with_suffix(".partial")
        partial_file.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        os.replace(partial_file, self._file)


def _states(files: Sequence[Path]) -> FileStates | None:
    """None if a file is missing or cannot be accessed."""
    try:
        stats = [path.stat() for path in files]
    except OSError:
        return None
    # The inode's time of change cannot be set back, unlike the time of modification.
    return [[each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_ino] for each in stats]


def get_or_build(
    cache: Path,
    describe: Callable[[Digests], Mapping[str, Any]],
    name: str,
    build: Callable[[Path, Path], Report],
    report_type: type[Report],
) -> tuple[Path, Report, str]:
    """Returns a file of the cache, its report, and its fingerprint. Builds the file if the cache does not have it.

    If several processes ask for the same file, one builds it and the others wait.

    Args:
        cache: folder of the cache, created if missing.
        describe: returns all that the file depends on, as JSON values; it gets the digests of other files.
        build: `build(scratch, file)` writes the file and returns its report; `scratch` is a temporary folder.
        report_type: dataclass of the report.

    Raises DataError if the cache cannot be written.
    """
    digests = Digests(cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        fingerprint = hashlib.sha256(json.dumps(describe(digests), sort_keys=True).encode()).hexdigest()
        folder = cache / fingerprint
        report = _report_if_intact(folder, name, digests, report_type)
        if report is not None:
            _log.info("encoded corpora found in %s", folder)
        else:
            with lock(cache / f"{fingerprint}.lock", wait=True):
                report = _report_if_intact(folder, name, digests, report_type) or _build_folder(folder, name, build)
    except OSError as error:
        raise DataError(f"{cache}: the encoded corpora cannot be kept there ({error}); see data.cache") from error
    return folder / name, report, fingerprint


def lookup(cache: Path, fingerprint: str, name: str, report_type: type[Report]) -> Path | None:
    """Returns the file that was built under this fingerprint; None if it is absent, or damaged, which is logged."""
    folder = cache / fingerprint
    return folder / name if _report_if_intact(folder, name, Digests(cache), report_type) is not None else None


def report_json(report: DataclassInstance) -> str:
    """Returns the report as it is stored."""
    return json.dumps(dataclasses.asdict(report), indent=1, ensure_ascii=False)


def _build_folder(folder: Path, name: str, build: Callable[[Path, Path], Report]) -> Report:
    """Builds in a temporary folder and renames it, which is atomic. The caller holds the fingerprint's lock."""
    building = folder.with_name(f"{folder.name}.partial")
    # Left by a killed process: any other builder would hold the lock.
    shutil.rmtree(building, ignore_errors=True)
    scratch = building / "scratch"
    scratch.mkdir(parents=True)
    try:
        report = build(scratch, building / name)
        shutil.rmtree(scratch)
        (building / _REPORT).write_text(report_json(report), encoding="utf-8")
        checksums = {each: checksum(building / each) for each in (name, _REPORT)}
        (building / _CHECKSUMS).write_text(json.dumps(checksums, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _log.info("encoded corpora written to %s", folder)
    return report


def _report_if_intact(folder: Path, name: str, digests: Digests, report_type: type[Report]) -> Report | None:
    """Returns the report of a folder; None if the folder is absent, or damaged, which is logged."""
    if not folder.exists():
        return None
    try:
        for each in (_CHECKSUMS, name, _REPORT):
            require_file(folder / each)
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        for each in (name, _REPORT):
            path = folder / each
            if digests.of("checksum", [path], partial(_verify, path, checksums[each])) != checksums[each]:
                raise ValueError(f"the checksum of {each} is another one")
        return TypeAdapter(report_type).validate_json((folder / _REPORT).read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged (%s)", folder, error)
        return None


def _verify(path: Path, expected: str) -> str:
    """Returns the checksum of a file. An Arrow file with the expected checksum is validated as well.

    An offset out of bounds would crash the process when it is used. A verified file is not read again at a start.
    """
    actual = checksum(path)
    if path.suffix == ".arrow" and actual == expected:
        MappedColumns(path).validate()
    return actual


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
