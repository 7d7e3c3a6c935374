"""A recurrent layer over packed sequences, step by step: for weights that the library's own layers cannot take.

Shapes: B sequences sorted by length, the longest first; P rows, those of all sequences at the first position, then at
the second, and so on; N sequences that reach a position, H hidden, G gates x H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

State = tuple[Tensor, ...]


def scan(
    step: Callable[[Tensor, State], State],
    projected_PG: Tensor,
    sizes: Sequence[int],
    first: State,
    *,
    backwards: bool,
) -> tuple[Tensor, State]:
    """The outputs [P, H] of all positions and the last state of each sequence, parts [B, H].

    `step` makes the state after a position of its input's half of the gates [N, G] and the state before; `sizes` are
    the N. `first` is the state that all sequences begin with, and is overwritten. Backwards every sequence begins at
    its own end.
    """
    outputs_PH = first[0].new_empty(len(projected_PG), first[0].shape[1])
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + size)
    order = range(len(sizes))
    for position in reversed(order) if backwards else order:
        size, rows = sizes[position], slice(bounds[position], bounds[position + 1])
        after = step(projected_PG[rows], tuple(part[:size] for part in first))
        for part, new in zip(first, after, strict=True):
            part[:size] = new
        outputs_PH[rows] = after[0]
    return outputs_PH, first


def zeros(parts: int, sequences: int, hidden: int, like: Tensor) -> State:
    """The state that nothing has been read into, in at least single precision."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return tuple(like.new_zeros(sequences, hidden, dtype=dtype) for _ in range(parts))
