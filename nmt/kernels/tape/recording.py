"""A recurrence over target positions that is recorded as a few operations and differentiated by hand.

Autograd runs dozens of small operations for a step, back and forth, and adds a gradient as large as every weight and
as the source for each step. Here a step has a handful of operations, and these gradients are one product each at the
end.
A wiring records its step as it stands in its paper:

    loop = Tape(steps, projected_BTG)
    state = loop.carried(first_B1H)
    context = loop.look(loop.product(state.before, W), annotations)
    inputs = (loop.given(projected_BTG), loop.product(context.after, C))
    loop.gru(inputs, loop.product(state.before, U, b), state.before, state.after)
    hidden_BTH, context_BTC, weights_BTS = loop.run(state, context)

An operation may read what those before it wrote, and the states of the step before. Products of one row are joined.

Shapes: B sentences, T steps, S source positions, F features of a value, H hidden, C context, G gates x H.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.kernels.tape.layers import Gru, Lstm, Mix, Scale, Sum
from nmt.kernels.tape.operations import Look, Operation, Product
from nmt.kernels.tape.steps import Annotations, StepKernels
from nmt.kernels.tape.structure import Extents, Outside, structure
from nmt.kernels.tape.values import Extent, Formats, Row, Term, Value
from nmt.runtime import product_dtype

if TYPE_CHECKING:
    from nmt.kernels.tape.graphs import Graphs

Outputs = tuple[Tensor, Tensor, Tensor]
"""What the steps leave of two values, [B, T, F] each, and the weights of their looks, [B, T, S]."""


class Tape:
    """Records the operations of a step, then runs all steps."""

    def __init__(self, steps: StepKernels, given_BTG: Tensor) -> None:
        batch, positions, _ = given_BTG.shape
        short = product_dtype(given_BTG)
        exact = torch.promote_types(short, torch.float32)
        self.device_type = given_BTG.device.type
        self._steps = steps
        self._extent = Extent(positions, batch, given_BTG.device, short, exact, keeps=torch.is_grad_enabled())
        self._operations: list[Operation] = []
        self._values: list[Value] = []
        self._given: list[tuple[Tensor, Term]] = []
        self._outsides: dict[int, Outside] = {}
        self._looking: Look | None = None

    def given(self, given_BTG: Tensor) -> Term:
        """What is known of all steps beforehand."""
        assert given_BTG.stride(-1) == 1 or given_BTG.shape[-1] == 1, "features lie side by side"
        term = Term()
        self._given.append((self._outside(given_BTG, "BT"), term))
        return term

    def carried(self, first_B1F: Tensor, formats: Formats = "both") -> Value:
        """A state that is carried from step to step."""
        return self._value(Value(first_B1F.shape[2], self._outside(first_B1F, "B"), formats=formats))

    def passing(self, features: int, formats: Formats = "both") -> Value:
        """A state within a step."""
        return self._value(Value(features, formats=formats))

    def product(self, row: Row, weight_NF: Tensor, bias_N: Tensor | None = None) -> Term:
        """W x + b of a row."""
        self._outside(weight_NF, "")
        if bias_N is not None:
            self._outside(bias_N, "")
        for operation in self._operations:
            if isinstance(operation, Product) and operation.row == row:
                return operation.add(weight_NF, bias_N)
        product = Product(row)
        self._operations.append(product)
        return product.add(weight_NF, bias_N)

    def look(self, query: Row | Term, source: Annotations, context: Value | None = None) -> Value:
        """The context that a query finds, written to `context` where there is one to be carried; one look a step."""
        assert self._looking is None, "one look a step"
        self._outside(source.keys, "BS")
        self._outside(source.memory, "BS")
        self._outside(source.bias, "BS", padding=-torch.inf)
        if source.energy is not None:
            self._outside(source.energy, "")
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
        self._operations.append(Scale(row, self._outside(factors_BTF, "BT"), scaled.after))
        return scaled

    def sum(self, one: Row, other: Row) -> Value:
        """The sum of two rows."""
        total = self.passing(one.value.features)
        self._operations.append(Sum(one, other, total.after))
        return total

    def run(self, hidden: Value, context: Value) -> Outputs:
        """All steps: what they leave of two values, and the weights of their looks."""
        self._outputs = hidden, context
        outputs: Outputs = _Run.apply(self, *(outside.tensor for outside in self.outsides))  # type: ignore[no-untyped-call]
        return outputs

    @property
    def graphs(self) -> Graphs | None:
        """What replays it, where something is to."""
        return self._steps.graphs

    @property
    def keeps(self) -> bool:
        """Whether there will be a backward pass."""
        return self._extent.keeps

    @property
    def outsides(self) -> list[Outside]:
        """What comes from outside of the recurrence."""
        return list(self._outsides.values())

    @property
    def extents(self) -> Extents:
        """How many sentences, steps and source positions there are."""
        assert self._looking is not None, "an attentive recurrence looks"
        return Extents(self._extent.batch, self._extent.steps, self._looking.source.bias.shape[1])

    @property
    def structure(self) -> Hashable:
        """What is done, whatever the numbers and the extents."""
        extent = replace(self._extent, steps=0, batch=0)
        return extent, structure((self._operations, self._values, self._given, self._outputs), self.outsides)

    def on(self, tensors: Sequence[Tensor], extents: Extents) -> Tape:
        """The same recording, not yet run, of other tensors from outside, in the order of `outsides`."""
        others: dict[int, Any] = {
            id(outside.tensor): tensor for outside, tensor in zip(self.outsides, tensors, strict=True)
        }
        loop = copy.deepcopy(self, others | {id(self._steps): self._steps})
        loop._extent = replace(self._extent, steps=extents.steps, batch=extents.sentences)
        loop._outsides = {id(outside.tensor): outside for outside in loop.outsides}
        return loop

    def forward(self) -> Outputs:
        """Run all steps."""
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
        hidden, context = self._outputs
        return hidden.output_BTF, context.output_BTF, self._looking.weights_BTS

    def backward(
        self, d_hidden_BTF: Tensor | None, d_context_BTF: Tensor | None, d_weights_BTS: Tensor | None
    ) -> list[Tensor | None]:
        """The gradients of `outsides`, of those of the outputs."""
        assert self._looking is not None
        d_outputs_BTF: Mapping[Value, Tensor | None] = dict(
            zip(self._outputs, (d_hidden_BTF, d_context_BTF), strict=True)
        )
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
        return [total.get(id(outside.tensor)) for outside in self.outsides]

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

    def _outside(self, tensor: Tensor, axes: str, padding: float = 0.0) -> Tensor:
        """Remember what comes from outside, gets a gradient there and may be another tensor in the next batch."""
        self._outsides[id(tensor)] = Outside(tensor, axes, padding)
        return tensor


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loop: Tape, *outsides: Tensor) -> Outputs:
        ctx.set_materialize_grads(False)
        ctx.device_type = loop.device_type
        with torch.autocast(loop.device_type, enabled=False):
            run = loop.graphs.run(loop) if loop.graphs is not None else None
            outputs, ctx.way_back = run or (loop.forward(), loop.backward)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        assert ctx.way_back is not None, "a recurrence is differentiated once"
        # Its rows are freed with it.
        way_back, ctx.way_back = ctx.way_back, None
        with torch.autocast(ctx.device_type, enabled=False):
            return None, *way_back(*d_outputs)
