"""What all batches have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SHOWN_ROWS = 8


def pinned(tensor: Tensor) -> Tensor:
    """The same in pinned memory where there is a GPU, so that its copy there overlaps with computation."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def describe_rows(rows: npt.NDArray[np.int64]) -> str:
    """The first row numbers, for messages: `rows 12, 7, 903, ...`."""
    return "rows " + ", ".join(map(str, rows[:_SHOWN_ROWS])) + (", ..." if len(rows) > _SHOWN_ROWS else "")
