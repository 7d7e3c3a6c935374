"""A recurrence over target positions that is recorded as a few operations and differentiated by hand.

Autograd runs dozens of small operations for a step, back and forth, and adds a gradient as large as every weight and
as the source for each step. Here a step has a handful of operations, and these gradients are one product each at the
end.
A wiring records its step as it stands in its paper:

    loop = Loop(steps, projected_BTG)
    state = loop.carried(first_B1H)
    context = loop.look(loop.product(state.before, W), annotations)
    inputs = (loop.given(projected_BTG), loop.product(context.after, C))
    loop.gru(inputs, loop.product(state.before, U, b), state.before, state.after)
    hidden_BTH, context_BTC, weights_BTS = loop.run(state, context)

An operation may read what those before it wrote, and the states of the step before. Products of one row are joined.

Shapes: B sentences, T steps, S source positions, F features of a value, H hidden, C context, G gates x H.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.kernels.recurrence.layers import Gru, Lstm, Mix, Scale, Sum
from nmt.kernels.recurrence.operations import Look, Operation, Product
from nmt.kernels.recurrence.steps import Annotations, Steps
from nmt.kernels.recurrence.values import Extent, Formats, Row, Term, Value
from nmt.runtime import product_dtype


class Loop:
    """Records the operations of a step, then runs all steps."""

    def __init__(self, steps: Steps, given_BTG: Tensor) -> None:
        batch, positions, _ = given_BTG.shape
        short = product_dtype(given_BTG)
        exact = torch.promote_types(short, torch.float32)
        self.device_type = given_BTG.device.type
        self._steps = steps
        self._extent = Extent(positions, batch, given_BTG.device, short, exact, keeps=torch.is_grad_enabled())
        self._operations: list[Operation] = []
        self._values: list[Value] = []
        self._given: list[tuple[Tensor, Term]] = []
        self._inputs: dict[int, Tensor] = {}
        self._looking: Look | None = None

    def given(self, given_BTG: Tensor) -> Term:
        """What is known of all steps beforehand."""
        assert given_BTG.stride(-1) == 1 or given_BTG.shape[-1] == 1, "features lie side by side"
        term = Term()
        self._given.append((self._outside(given_BTG), term))
        return term

    def carried(self, first_B1F: Tensor, formats: Formats = "both") -> Value:
        """A state that is carried from step to step."""
        return self._value(Value(first_B1F.shape[2], self._outside(first_B1F), formats=formats))

    def passing(self, features: int, formats: Formats = "both") -> Value:
        """A state within a step."""
        return self._value(Value(features, formats=formats))

    def product(self, row: Row, weight_NF: Tensor, bias_N: Tensor | None = None) -> Term:
        """W x + b of a row."""
        self._outside(weight_NF)
        if bias_N is not None:
            self._outside(bias_N)
        for operation in self._operations:
            if isinstance(operation, Product) and operation.row == row:
                return operation.add(weight_NF, bias_N)
        product = Product(row)
        self._operations.append(product)
        return product.add(weight_NF, bias_N)

    def look(self, query: Row | Term, source: Annotations, context: Value | None = None) -> Value:
        """The context that a query finds, written to `context` where there is one to be carried; one look a step."""
        assert self._looking is None, "one look a step"
        for tensor in (source.keys, source.memory, source.energy):
            if tensor is not None:
                self._outside(tensor)
        context = self.passing(source.memory.shape[2], "short") if context is None else context
        self._looking = Look(self._steps, query, source, context.after)
        self._operations.append(self._looking)
        return context

    def gru(self, inputs: Sequence[Term], recurrent: Term, before: Row, after: Row) -> None:
        """Write the state after an update to `after`; the input's half of the gates may be a sum of two."""
        self._operations.append(Gru(self._steps, inputs, recurrent, before, after))

    def lstm(self, inputs: Sequence[Term], recurrent: Term, cell: tuple[Row, Row], after: Row) -> None:
        """Write the output after an update to `after`, and the cell from before it to after it."""
        self._operations.append(Lstm(self._steps, inputs, recurrent, cell, after))

    def mix(self, inputs: Sequence[Term], recurrent: Term, mixed: Row) -> None:
        """Write the tanh of the sum of all terms to `mixed`."""
        self._operations.append(Mix(self._steps, inputs, recurrent, mixed))

    def scale(self, row: Row, factors_BTF: Tensor) -> Value:
        """A row times the factors of each step, for products to read."""
        scaled = self.passing(row.value.features, "short")
        self._operations.append(Scale(row, self._outside(factors_BTF), scaled.after))
        return scaled

    def sum(self, one: Row, other: Row) -> Value:
        """The sum of two rows."""
        total = self.passing(one.value.features)
        self._operations.append(Sum(one, other, total.after))
        return total

    def run(self, hidden: Value, context: Value) -> tuple[Tensor, Tensor, Tensor]:
        """All steps: what they leave of two values, [B, T, F] each, and the weights of their looks, [B, T, S]."""
        outputs: tuple[Tensor, Tensor, Tensor] = _Run.apply(  # type: ignore[no-untyped-call]
            self, hidden, context, *self._inputs.values()
        )
        return outputs

    def forward(self) -> Tensor:
        """Run all steps; the weights of their looks."""
        assert self._looking is not None, "an attentive recurrence looks"
        extent = self._extent
        for given_BTG, term in self._given:
            term.put(given_BTG.transpose(0, 1), extent)
        for value in self._values:
            value.begin(extent)
        for operation in self._operations:
            operation.begin(extent)
        for step in range(extent.steps):
            for operation in self._operations:
                operation.forward(step)
        return self._looking.weights_BTS

    def backward(
        self, d_outputs_BTF: Mapping[Value, Tensor | None], d_weights_BTS: Tensor | None
    ) -> list[Tensor | None]:
        """The gradients of what came from outside, in the order in which it was recorded."""
        assert self._looking is not None
        for value in self._values:
            value.begin_backward(d_outputs_BTF.get(value))
        self._looking.begin_backward_weights(d_weights_BTS)
        for operation in self._operations:
            operation.begin_backward()
        for step in reversed(range(self._extent.steps)):
            for operation in reversed(self._operations):
                operation.backward(step)
        total: dict[int, Tensor] = {}
        for tensor, gradient in self._gradients():
            total[id(tensor)] = total[id(tensor)] + gradient if id(tensor) in total else gradient
        return [total.get(name) for name in self._inputs]

    def _gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        for operation in self._operations:
            yield from operation.finish()
        for value in self._values:
            if value.first is not None:
                yield value.first, value.d_first().to(value.first.dtype)
        for given_BTG, term in self._given:
            assert term.gradient_TBN is not None, "what is given is read"
            yield given_BTG, term.gradient_TBN.transpose(0, 1)

    def _value(self, value: Value) -> Value:
        self._values.append(value)
        return value

    def _outside(self, tensor: Tensor) -> Tensor:
        """Remember what gradients go to."""
        self._inputs[id(tensor)] = tensor
        return tensor


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loop: Loop, hidden: Value, context: Value, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.loop, ctx.outputs = loop, (hidden, context)
        with torch.autocast(loop.device_type, enabled=False):
            weights_BTS = loop.forward()
        return hidden.output_BTF, context.output_BTF, weights_BTS

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_hidden: Tensor | None, d_context: Tensor | None, d_weights: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        assert ctx.loop is not None, "a recurrence is differentiated once"
        # Its rows are freed with it.
        loop, ctx.loop = ctx.loop, None
        hidden, context = ctx.outputs
        with torch.autocast(loop.device_type, enabled=False):
            gradients = loop.backward({hidden: d_hidden, context: d_context}, d_weights)
        return None, None, None, *gradients
