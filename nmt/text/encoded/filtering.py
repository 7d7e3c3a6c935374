"""Which pairs are left out of training, decided by length and by what came before."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.schema import Filters

EMPTY = "empty side"
TOO_LONG = "too long"
RATIO = "length ratio"
DUPLICATE = "duplicate"

_PARTITIONS = 16


def reasons_to_drop(
    source_lengths: npt.NDArray[Any], target_lengths: npt.NDArray[Any], filters: Filters
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which pairs to leave out, by the first reason that applies; lengths are in pieces, without an end symbol."""
    shorter = np.minimum(source_lengths, target_lengths)
    longer = np.maximum(source_lengths, target_lengths)
    empty = shorter == 0
    too_long = ~empty & (longer > filters.max_length)
    ratio = ~empty & ~too_long & (longer > filters.max_ratio * shorter)
    return {EMPTY: empty, TOO_LONG: too_long, RATIO: ratio}


def repeated(hashes: npt.NDArray[np.uint64], pairs: npt.NDArray[Any] | None = None) -> npt.NDArray[np.bool_]:
    """Which pairs have the hash of an earlier pair; where `pairs` is false or 0, no pair stands.

    Two different pairs share 64 bits with probability n**2 / 2**65: one in 3,700 for a hundred million pairs.
    A part of the hashes is sorted at a time, so that little memory is needed besides their own 8 bytes a pair.
    """
    mask = np.zeros(len(hashes), np.bool_)
    partition = (hashes % np.uint64(_PARTITIONS)).astype(np.uint8)
    for number in range(_PARTITIONS):
        chosen = partition == number
        rows = np.flatnonzero(chosen if pairs is None else chosen & (pairs != 0))
        order = rows[np.argsort(hashes[rows], kind="stable")]
        mask[order[1:][hashes[order[1:]] == hashes[order[:-1]]]] = True
    return mask
