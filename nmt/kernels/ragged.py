"""Rows of unequal length without padding: the order in which recurrent layers run over them, and sums over rows.

Shapes: N rows, P elements of all rows, T positions of the longest row, C features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The order of `torch.nn.utils.rnn.PackedSequence`: the first elements of all rows, the longest row first, then
    the second elements of those that have one, and so on. Empty rows do not occur in it."""

    element_P: Tensor
    """Which element each is, counted over all rows, one row after the other."""
    row_P: Tensor
    """The row that each belongs to."""
    position_P: Tensor
    """Its position in the row."""
    mirrored_P: Tensor
    """Where in packed order the element stands that is as far from the other end of its row."""
    before_P: Tensor
    """Where the element before it stands, of all elements that are not the first of their row."""
    sizes_T: Tensor
    """Rows that have an element at each position; on the CPU, where recurrent layers read it."""
    rows: int
    """N, empty rows counted."""

    @staticmethod
    def of(lengths_N: Tensor, device: torch.device) -> Packing:
        """The packing of rows with these lengths, which stand on the CPU."""
        lengths_N = lengths_N.cpu()
        sorted_N, order_N = lengths_N.sort(descending=True, stable=True)
        longest = int(sorted_N[0]) if len(sorted_N) else 0
        positions_T = torch.arange(longest)
        # How many rows are longer than each position, counted from the shorter end.
        sizes_T = len(lengths_N) - torch.searchsorted(sorted_N.flip(0).contiguous(), positions_T, right=True)
        position_P = positions_T.repeat_interleave(sizes_T)
        starts_T = sizes_T.cumsum(0) - sizes_T
        place_P = torch.arange(len(position_P)) - starts_T.repeat_interleave(sizes_T)
        row_P = order_N[place_P]
        element_P = (lengths_N.cumsum(0) - lengths_N)[row_P] + position_P
        mirrored_P = starts_T[lengths_N[row_P] - 1 - position_P] + place_P
        before_P = (starts_T[(position_P - 1).clamp_min(0)] + place_P)[position_P > 0]

        def there(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=True)

        return Packing(
            element_P=there(element_P),
            row_P=there(row_P),
            position_P=there(position_P),
            mirrored_P=there(mirrored_P),
            before_P=there(before_P),
            sizes_T=sizes_T,
            rows=len(lengths_N),
        )


def row_softmax(scores_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Softmax of each row over its own elements, in at least single precision; a score of minus infinity weighs 0."""
    scores_P = scores_P.to(torch.promote_types(scores_P.dtype, torch.float32))
    # A shift common to a row cancels, so it needs no gradient.
    top_N = scores_P.new_full((rows,), -torch.inf).scatter_reduce(0, row_P, scores_P.detach(), "amax")
    exponential_P = torch.exp(scores_P - top_N.index_select(0, row_P))
    return exponential_P / row_sum(exponential_P, row_P, rows).index_select(0, row_P)


def row_sum(values: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Sums [N, ...] of the elements [P, ...] of each row; an empty row has 0."""
    return values.new_zeros(rows, *values.shape[1:]).index_add(0, row_P, values)
