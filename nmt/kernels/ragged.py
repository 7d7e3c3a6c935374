"""Rows of unequal length without padding: the order in which recurrent layers run over them, and sums over rows.

Shapes: N rows, R rows that are not empty, P elements of all rows, T positions of the longest row, C features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The order of `torch.nn.utils.rnn.PackedSequence`: the first elements of all rows, the longest row first, then
    the second elements of those that have one, and so on. Empty rows do not occur in it; R rows do."""

    element_P: Tensor
    """Which element each is, counted over all rows, one row after the other."""
    row_P: Tensor
    """The row that each belongs to."""
    position_P: Tensor
    """Its position in the row."""
    sizes_T: Tensor
    """Rows that have an element at each position; on the CPU, where recurrent layers read it."""
    lengths_N: Tensor
    """Elements of each row; on the CPU."""

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
        row_P = order_N[torch.arange(len(position_P)) - starts_T[position_P]]
        element_P = (lengths_N.cumsum(0) - lengths_N)[row_P] + position_P

        def there(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=True)

        return Packing(there(element_P), there(row_P), there(position_P), sizes_T, lengths_N)

    @property
    def rows(self) -> int:
        """N, empty rows counted."""
        return len(self.lengths_N)

    @property
    def full_rows(self) -> int:
        """R."""
        return int(self.sizes_T[0]) if len(self.sizes_T) else 0

    @property
    def row_R(self) -> Tensor:
        """Each row that is not empty, the longest first."""
        return self.row_P[: self.full_rows]

    @cached_property
    def mirrored_P(self) -> Tensor:
        """Where in packed order the element stands that is as far from the other end of its row."""
        return self._starts_T[self._lengths_P - 1 - self.position_P] + self._place_P

    @cached_property
    def before_P(self) -> Tensor:
        """Where the element before it stands, of all elements that are not the first of their row."""
        position_P, place_P = self.position_P[self.full_rows :], self._place_P[self.full_rows :]
        return self._starts_T[position_P - 1] + place_P

    @cached_property
    def last_R(self) -> Tensor:
        """Where the last element of each row stands, the longest row first."""
        return self.mirrored_P[: self.full_rows]

    @cached_property
    def _starts_T(self) -> Tensor:
        """Where each position begins."""
        return (self.sizes_T.cumsum(0) - self.sizes_T).to(self.row_P.device, non_blocking=True)

    @cached_property
    def _place_P(self) -> Tensor:
        """The place of each element's row among all, the longest first."""
        return torch.arange(len(self.row_P), device=self.row_P.device) - self._starts_T[self.position_P]

    @cached_property
    def _lengths_P(self) -> Tensor:
        return self.lengths_N.to(self.row_P.device, non_blocking=True)[self.row_P]


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
