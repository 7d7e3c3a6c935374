"""The operations of recurrent layers: a step of a cell, and what stands between one layer and the next.

Shapes: T steps, B sentences, H hidden, G gates x H.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nmt.kernels.tape.cells import CellSteps, Entering
from nmt.kernels.tape.operations import Operation
from nmt.kernels.tape.values import Extent, Row, Term


class Cell(Operation):
    """A step of a cell, whose input's half comes in one part or two."""

    def __init__(self, steps: CellSteps, inputs: Sequence[Term], recurrent: Term, after: Row) -> None:
        assert 1 <= len(inputs) <= 2
        self.steps = steps
        self.inputs = inputs
        self.recurrent = recurrent
        self.after = after

    def entering(self, step: int) -> Entering:
        more = self.inputs[1].rows[step] if len(self.inputs) > 1 else None
        return Entering(self.inputs[0].rows[step], self.recurrent.rows[step], more)


class Gru(Cell):
    """A gated recurrent unit."""

    def __init__(self, steps: CellSteps, inputs: Sequence[Term], recurrent: Term, before: Row, after: Row) -> None:
        super().__init__(steps, inputs, recurrent, after)
        self.before = before

    def forward(self, step: int) -> None:
        self.steps.gru(self.entering(step), self.before.exact(step), self.after.exact(step), self.after.copy(step))

    def begin_backward(self) -> None:
        # The input's half is not reset, so that its gradient is not that of the recurrent one.
        (self.place,) = _places(self.inputs)

    def backward(self, step: int) -> None:
        self.steps.gru_backward(
            self.entering(step),
            self.before.exact(step),
            self.after.gradient(step),
            self.after.value.take_sent(),
            self.place.gradient_rows[step],
            self.recurrent.gradient_rows[step],
            self.before.gradient(step),
        )


class SummingCell(Cell):
    """A cell that knows but the sum of what enters: all its parts have one gradient."""

    def begin_backward(self) -> None:
        self.places = _places((self.recurrent, *self.inputs))
        assert len(self.places) <= 2, "one part of the input is a product, the other is given"

    def places_of(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Where the gradient of a step is written."""
        one, *other = self.places
        return one.gradient_rows[step], other[0].gradient_rows[step] if other else None


class Lstm(SummingCell):
    """A long short-term memory; its cell is carried beside its output, in the format of states alone."""

    def __init__(
        self, steps: CellSteps, inputs: Sequence[Term], recurrent: Term, cell: tuple[Row, Row], after: Row
    ) -> None:
        super().__init__(steps, inputs, recurrent, after)
        self.cell, self.after_cell = cell

    def forward(self, step: int) -> None:
        cells = self.cell.exact(step), self.after_cell.exact(step)
        self.steps.lstm(self.entering(step), *cells, self.after.exact(step), self.after.copy(step))

    def backward(self, step: int) -> None:
        self.steps.lstm_backward(
            self.entering(step),
            self.cell.exact(step),
            self.after_cell.exact(step),
            self.after.gradient(step),
            self.after.value.take_sent(),
            self.after_cell.gradient(step),
            *self.places_of(step),
            self.cell.gradient(step),
        )


class Mix(SummingCell):
    """tanh of the sum: a simple recurrence, or a mixture of two products."""

    def forward(self, step: int) -> None:
        self.steps.mix(self.entering(step), self.after.exact(step), self.after.copy(step))

    def backward(self, step: int) -> None:
        sent = self.after.value.take_sent()
        self.steps.mix_backward(self.after.exact(step), self.after.gradient(step), sent, *self.places_of(step))


class Scale(Operation):
    """A row times factors that are drawn for all steps, as dropout is; in the format of products alone."""

    def __init__(self, row: Row, factors_BTH: Tensor, scaled: Row) -> None:
        self.row = row
        self.factors_BTH = factors_BTH
        self.scaled = scaled

    def begin(self, extent: Extent) -> None:
        self.factors = self.factors_BTH.unbind(1)

    def forward(self, step: int) -> None:
        torch.mul(self.row.exact(step), self.factors[step], out=self.scaled.exact(step))

    def backward(self, step: int) -> None:
        sent_BH = self.scaled.value.take_sent()
        assert sent_BH is not None, "products alone read what is scaled"
        self.row.gradient(step).addcmul_(sent_BH.to(self.factors_BTH.dtype), self.factors[step])


class Sum(Operation):
    """A residual connection: the sum of two rows."""

    def __init__(self, one: Row, other: Row, total: Row) -> None:
        self.one = one
        self.other = other
        self.total = total

    def forward(self, step: int) -> None:
        torch.add(self.one.exact(step), self.other.exact(step), out=self.total.exact(step))
        copy_BH = self.total.copy(step)
        if copy_BH is not None:
            copy_BH.copy_(self.total.exact(step))

    def backward(self, step: int) -> None:
        d_total_BH, sent_BH = self.total.gradient(step), self.total.value.take_sent()
        if sent_BH is not None:
            d_total_BH += sent_BH
        for row in (self.one, self.other):
            gradient_BH = row.gradient(step)
            gradient_BH += d_total_BH


def _places(terms: Sequence[Term]) -> list[Term]:
    """The terms that have a place of their own for their one gradient; the others are led to the first's."""
    places = [term for term in terms if term.gradient_TBN is not None]
    if not places:
        terms[0].put_gradient(torch.empty_like(terms[0].whole_TBN))
        places = [terms[0]]
    for term in terms:
        if term.gradient_TBN is None:
            assert places[0].gradient_TBN is not None
            term.put_gradient(places[0].gradient_TBN)
    return places
