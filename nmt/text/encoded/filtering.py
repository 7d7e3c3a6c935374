"""Which pairs are left out of training for their length."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.schema import Filters

EMPTY = "empty side"
TOO_LONG = "too long"
RATIO = "length ratio"
DUPLICATE = "duplicate"


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
