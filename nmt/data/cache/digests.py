"""Digests of files, remembered while the files stay as they are: a billion pairs are not read again at every start."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nmt.concurrency import lock
from nmt.errors import require_file

SETTLED_SECONDS = 2.0
"""A file changed later than this before it was read may change once more and keep the same times."""

State = list[list[int]]
"""Size, times of change and number of each file."""


class Digests:
    """Kept in `digests.json` in a folder; without that file everything is read anew."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "digests.json"
        self._lock = folder / "digests.lock"

    def of(self, what: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
        """The digest that `compute` makes of the files, or made of them when they were as they are now.

        `what` tells digests of the same files apart. Several processes may ask for the same at once: one computes it,
        the others wait. Without files nothing is remembered.
        """
        name = json.dumps([what, *(str(path.absolute()) for path in files)])
        if (known := self._known(name, files)) is not None:
            return known
        if not files:
            return compute()
        with lock(self._lock, wait=True):
            if (known := self._known(name, files)) is not None:
                return known
            before, began = _state(files), time.time()
            digest = compute()
            # Where the files change meanwhile, their state is no longer the one that is noted.
            if before is not None and _changed(before) < began - SETTLED_SECONDS:
                self._remember(name, before, digest)
        return digest

    def _known(self, name: str, files: Sequence[Path]) -> str | None:
        entry = self._entries().get(name)
        return entry["digest"] if entry is not None and entry["state"] == _state(files) else None

    def _entries(self) -> dict[str, Any]:
        try:
            require_file(self._file)
            entries = json.loads(self._file.read_text(encoding="utf-8"))
            return {name: {"state": entry["state"], "digest": str(entry["digest"])} for name, entry in entries.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _remember(self, name: str, state: State, digest: str) -> None:
        entries = {other: entry for other, entry in self._entries().items() if _exist(other)}
        entries[name] = {"state": state, "digest": digest}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        os.replace(partial, self._file)


def _state(files: Sequence[Path]) -> State | None:
    """None where a file cannot be looked at."""
    try:
        found = [path.stat() for path in files]
    except OSError:
        return None
    # The time of the last change of the inode cannot be set back, as that of the content can.
    return [[each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_ino] for each in found]


def _changed(state: State) -> float:
    """When the last of the files was changed, in seconds."""
    return max(max(content, inode) for _, content, inode, _ in state) / 1e9


def _exist(name: str) -> bool:
    """Whether the files of an entry are still there."""
    return all(os.path.exists(path) for path in json.loads(name)[1:])
