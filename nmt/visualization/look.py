"""Where a system looked: what the plots are drawn from.

Shapes: N heads, T target positions, S source positions, the end symbols included in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Look:
    """Where a system looked while it was made to say a given translation."""

    source: str
    """The raw text."""
    target: str
    source_pieces: tuple[str, ...]
    """As the vocabulary spells them, without the end symbol."""
    target_pieces: tuple[str, ...]
    weights_NTS: npt.NDArray[np.float32]
    """[heads, target pieces + 1, source pieces + 1]: both with the end symbol last."""
    centers_NT: npt.NDArray[np.float32] | None
    """Local attention only: p_t, the position around which a target piece looked, counted from 0."""
    half_width: int | None
    """Local attention only: D, source positions on either side of p_t (Luong 2015, section 3.2)."""
    log_probability: float
    """Of the target in nats, its end included."""
