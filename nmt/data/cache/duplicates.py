"""Pairs that occurred before, found in memory that does not grow with the corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nmt.data.cache.columns import Mask
from nmt.data.cache.ragged import Values

_HASHED = np.dtype([("hash", np.uint64), ("row", np.int64)])


def first_occurrences(hashes: Values, folder: Path, part_rows: int = 1 << 20, pairs: Values | None = None) -> Mask:
    """Which pairs have a hash that no earlier pair has, as an array that lies in a file of the folder.

    A row that is no pair, 0 in `pairs`, counts as one that has: nothing is a repetition of it, nor it of anything.

    Two different pairs share 64 bits with probability n**2 / 2**65: one in 3,700 for a hundred million pairs. The
    hashes are dealt out to files, equal ones to the same, and one file of about `part_rows` is sorted at a time.
    """
    if not len(hashes):
        return np.empty(0, np.bool_)
    keep = np.memmap(folder / "first", np.bool_, mode="w+", shape=(len(hashes),))
    keep[:] = True
    for part in _dealt(hashes, folder, pairs, part_rows):
        dealt = np.fromfile(part, _HASHED)
        part.unlink()
        # Stable: equal hashes stay in the order of their rows.
        order = np.argsort(dealt["hash"], kind="stable")
        ordered = dealt["hash"][order]
        keep[dealt["row"][order[1:][ordered[1:] == ordered[:-1]]]] = False
    return keep


def _dealt(hashes: Values, folder: Path, pairs: Values | None, part_rows: int) -> list[Path]:
    parts = -(-len(hashes) // part_rows)
    paths = [folder / f"hashes-{number}" for number in range(parts)]
    for path in paths:
        path.touch()
    for start in range(0, len(hashes), part_rows):
        rows = np.arange(start, min(start + part_rows, len(hashes)))
        if pairs is not None:
            rows = rows[pairs[start : start + part_rows] != 0]
        block = np.asarray(hashes[rows])
        number = (block % np.uint64(parts)).astype(np.int64)
        order = np.argsort(number, kind="stable")
        dealt = np.empty(len(block), _HASHED)
        dealt["hash"], dealt["row"] = block[order], rows[order]
        bounds = np.searchsorted(number[order], np.arange(parts + 1))
        for path, first, last in zip(paths, bounds[:-1], bounds[1:], strict=True):
            # Opened anew each time: there may be more parts than a process may have open files.
            with path.open("ab") as file:
                dealt[first:last].tofile(file)
    return paths
