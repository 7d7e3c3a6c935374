"""Which pairs are left out of training for their length."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.schema import FiltersConfig

EMPTY = "empty side"
TOO_LONG = "too long"
RATIO = "length ratio"
DUPLICATE = "duplicate"


def reasons_to_drop(
    source_lengths: npt.NDArray[Any], target_lengths: npt.NDArray[Any], filters: FiltersConfig
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which pairs to leave out, by the first reason that applies; lengths are in pieces, without an end symbol."""
    empty = np.minimum(source_lengths, target_lengths) == 0
    found = length_reasons(source_lengths, target_lengths, filters)
    return {EMPTY: empty} | {reason: ~empty & mask for reason, mask in found.items()}


def length_reasons(
    source_lengths: npt.NDArray[Any], target_lengths: npt.NDArray[Any], filters: FiltersConfig
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which pairs are too long, or have sides of too different lengths; a pair with an empty side has no ratio."""
    shorter = np.minimum(source_lengths, target_lengths)
    longer = np.maximum(source_lengths, target_lengths)
    too_long = longer > filters.max_length
    ratio = ~too_long & (shorter > 0) & (longer > filters.max_ratio * shorter)
    return {TOO_LONG: too_long, RATIO: ratio}
