"""What the operations of a recurrence read and write.

Rows of all steps lie in one tensor [T, B, ...], so that what is summed over steps can be one product at the end.

Shapes: T steps, R = T or T + 1 rows, B sentences, F features of a value, N features of a term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nmt.kernels.products import Factor

Formats = Literal["both", "short", "exact"]
"""Formats that a value is kept in: that of products for those that read it, and that of states."""


@dataclass(frozen=True)
class Extent:
    """How many steps there are, of how many sentences, and in which formats."""

    steps: int
    batch: int
    device: torch.device
    short: torch.dtype
    """Of the products."""
    exact: torch.dtype
    """Of states and sums: at least single precision."""
    keeps: bool
    """Whether there will be a backward pass, for which the rows of all steps are kept."""

    def empty(self, rows: int, features: int, dtype: torch.dtype | None = None) -> Tensor:
        """Room for these rows, [rows, B, features], in the format of the products or in this one."""
        return torch.empty(rows, self.batch, features, dtype=dtype or self.short, device=self.device)

    def rows(self, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The row of each step: of as many rows as there are steps, or of one that all of them write in turn."""
        return rows if len(rows) == self.steps else rows * self.steps


class Value:
    """What several operations read, or the next step: a state or a context, a row [B, F] a step.

    Its readers add up its gradient. Products send theirs in their own format; it is added up apart.
    """

    exact_RBF: Tensor
    short_RBF: Tensor
    gradient_RBF: Tensor

    def __init__(self, features: int, first: Tensor | None = None, *, formats: Formats = "both") -> None:
        self.features = features
        self.first = first
        """Row 0 [B, 1, F] of what is carried from one step to the next; None for what a step begins without."""
        self.carried = int(first is not None)
        self.formats = formats

    @property
    def before(self) -> Row:
        """The row that a step finds."""
        assert self.carried, "carried from one step to the next"
        return Row(self, 0)

    @property
    def after(self) -> Row:
        """The row that a step leaves."""
        return Row(self, self.carried)

    def begin(self, extent: Extent) -> None:
        self.extent = extent
        short = extent.exact if self.formats == "exact" else extent.short
        self.short_RBF = extent.empty(extent.steps + self.carried, self.features, short)
        alike = self.formats != "both" or extent.short == extent.exact
        self.exact_RBF = self.short_RBF if alike else torch.empty_like(self.short_RBF, dtype=extent.exact)
        self.exact_rows, self.short_rows = self.exact_RBF.unbind(0), self.short_RBF.unbind(0)
        if self.first is not None:
            self.exact_rows[0].copy_(self.first.squeeze(1))
            self.short_rows[0].copy_(self.first.squeeze(1))

    @property
    def output_BTF(self) -> Tensor:
        """The rows that the steps left."""
        return self.exact_RBF[self.carried :].transpose(0, 1)

    def begin_backward(self, d_output_BTF: Tensor | None) -> None:
        """Begin with the gradient from outside of the recurrence."""
        self.gradient_RBF = torch.zeros_like(self.exact_RBF, dtype=self.extent.exact)
        if d_output_BTF is not None:
            self.gradient_RBF[self.carried :] = d_output_BTF.transpose(0, 1)
        self.gradient_rows = self.gradient_RBF.unbind(0)
        self._sent_BF = torch.empty_like(self.short_rows[0])
        self._has_sent = False

    def send(self, d_product_BN: Tensor, factor_FN: Factor) -> None:
        """The gradient that a product with a row sends to that row."""
        if self._has_sent:
            factor_FN.add(d_product_BN, self._sent_BF)
        else:
            factor_FN.write(d_product_BN, None, self._sent_BF)
        self._has_sent = True

    def take_sent(self) -> Tensor | None:
        """What products have sent to the row whose writer asks: all its readers come before, no other row's do."""
        sent_BF, self._has_sent = self._sent_BF if self._has_sent else None, False
        return sent_BF

    def d_first(self) -> Tensor:
        """The gradient of row 0, [B, 1, F]."""
        sent_BF, row_BF = self.take_sent(), self.gradient_rows[0]
        return (row_BF if sent_BF is None else row_BF + sent_BF).unsqueeze(1)


@dataclass(frozen=True)
class Row:
    """A value as a step sees it: in step t, row t + shift."""

    value: Value
    shift: int

    def exact(self, step: int) -> Tensor:
        return self.value.exact_rows[step + self.shift]

    def factor(self, step: int) -> Tensor:
        """In the format of the products."""
        return self.value.short_rows[step + self.shift]

    def copy(self, step: int) -> Tensor | None:
        """The same place, for a writer; None where both formats are one."""
        return None if self.value.short_RBF is self.value.exact_RBF else self.factor(step)

    def gradient(self, step: int) -> Tensor:
        return self.value.gradient_rows[step + self.shift]

    @property
    def factors_TBF(self) -> Tensor:
        return self.value.short_RBF[self.shift : self.shift + self.value.extent.steps]

    @property
    def gradients_TBF(self) -> Tensor:
        return self.value.gradient_RBF[self.shift : self.shift + self.value.extent.steps]


class Term:
    """What one operation reads and no other: a part of a product, or what is given for each step."""

    rows: Sequence[Tensor]
    whole_TBN: Tensor
    gradient_rows: Sequence[Tensor]
    gradient_TBN: Tensor | None = None

    def put(self, whole_TBN: Tensor, extent: Extent) -> None:
        self.whole_TBN, self.rows = whole_TBN, extent.rows(whole_TBN.unbind(0))

    def put_gradient(self, gradient_TBN: Tensor) -> None:
        """Where the reader writes the gradient."""
        self.gradient_TBN, self.gradient_rows = gradient_TBN, gradient_TBN.unbind(0)
