"""Recorded recurrences over target positions, with hand-written gradients.

Autograd runs dozens of small operations for each step, forward and backward, and adds up gradients as large as every
weight and the source at each step. On a tape a step has a handful of operations, and these gradients are one product
each over all steps. A wiring records the equations of its paper:

    tape = Tape(kernels, projected_BTG)
    state = tape.carried(first_B1H)
    context = tape.attend(tape.product(state.before, W), annotations)
    inputs = (tape.input(projected_BTG), tape.product(context.after, C))
    tape.gated("gru", inputs, tape.product(state.before, U, b), state.before, state.after)
    hidden_BTH, context_BTC, weights_BTS = tape.run(state, context)

An operation may read the results of earlier operations and the states of the step before. Products of one row are
joined.

Shapes: B sentences, T steps, S source positions, F features of a value, H hidden, C context, G gates x H.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.kernels.steps import Annotations, StepKernels
from nmt.kernels.tape.operations import (
    Attend,
    Formats,
    GatedCell,
    Lstm,
    Operation,
    Product,
    Row,
    Run,
    Scale,
    Sum,
    Tanh,
    Term,
    Value,
)
from nmt.runtime import product_dtype

__all__ = ["Outputs", "Row", "Tape", "Term", "Value"]

Outputs = tuple[Tensor, Tensor, Tensor]
"""The rows after all steps of two values, [B, T, F] each, and the attention weights, [B, T, S]."""


class Tape:
    """Records the operations of a step, then runs all steps."""

    def __init__(self, kernels: StepKernels, projected_BTG: Tensor) -> None:
        batch, steps, _ = projected_BTG.shape
        self._kernels = kernels
        self._run = Run(steps, batch, projected_BTG.device, product_dtype(projected_BTG), torch.is_grad_enabled())
        self._operations: list[Operation] = []
        self._values: list[Value] = []
        self._step_inputs: list[tuple[Tensor, Term]] = []
        self._inputs: dict[int, Tensor] = {}
        self._attend: Attend | None = None

    def input(self, input_BTG: Tensor) -> Term:
        """Records an input of all steps."""
        assert input_BTG.stride(-1) == 1 or input_BTG.shape[-1] == 1, "features lie side by side"
        term = Term()
        self._step_inputs.append((self._input(input_BTG), term))
        return term

    def constant(self, bias_G: Tensor) -> Term:
        """Records an input that is the same in all steps and sentences."""
        run = self._run
        return self.input(bias_G.to(run.compute_dtype).expand(run.batch, run.steps, -1))

    def carried(self, first_B1F: Tensor, formats: Formats = "both") -> Value:
        """Records a state that is carried from step to step."""
        return self._value(Value(first_B1F.shape[2], self._input(first_B1F), formats=formats))

    def intermediate(self, features: int, formats: Formats = "both") -> Value:
        """Records a state within a step."""
        return self._value(Value(features, formats=formats))

    def product(self, row: Row, weight_NF: Tensor, bias_N: Tensor | None = None) -> Term:
        """Records W x + b of a row."""
        self._input(weight_NF)
        if bias_N is not None:
            self._input(bias_N)
        for operation in self._operations:
            if isinstance(operation, Product) and operation.row == row:
                return operation.add(weight_NF, bias_N)
        product = Product(row)
        self._operations.append(product)
        return product.add(weight_NF, bias_N)

    def attend(self, query: Row | Term, source: Annotations, context: Value | None = None) -> Value:
        """Records attention, once a step; returns the context, which is `context` where it is carried."""
        assert self._attend is None, "attention once a step"
        for tensor in source:
            if tensor is not None:
                self._input(tensor)
        context = self.intermediate(source.memory.shape[2], "operand") if context is None else context
        self._attend = Attend(self._kernels, query, source, context.after)
        self._operations.append(self._attend)
        return context

    def gated(self, cell: str, inputs: Sequence[Term], recurrent: Term, before: Row, after: Row) -> None:
        """Records a step of the gated cell of this name; the input's half of the gates may be a sum of two terms."""
        self._operations.append(GatedCell(self._kernels, cell, inputs, recurrent, after, before))

    def lstm(self, inputs: Sequence[Term], recurrent: Term, cell: tuple[Row, Row], after: Row) -> None:
        """Records a step of a long short-term memory: `cell` before and after it, and its output."""
        self._operations.append(Lstm(self._kernels, "lstm", inputs, recurrent, after, *cell))

    def tanh(self, inputs: Sequence[Term], recurrent: Term, after: Row) -> None:
        """Records the tanh of the sum of all terms."""
        self._operations.append(Tanh(self._kernels, "rnn", inputs, recurrent, after))

    def scale(self, row: Row, scale_BTF: Tensor) -> Value:
        """Records a row times the scale of each step, for products to read."""
        scaled = self.intermediate(row.value.features, "operand")
        self._operations.append(Scale(row, self._input(scale_BTF), scaled.after))
        return scaled

    def sum(self, one: Row, other: Row) -> Value:
        """Records the sum of two rows."""
        total = self.intermediate(one.value.features)
        self._operations.append(Sum(one, other, total.after))
        return total

    def run(self, hidden: Value, context: Value) -> Outputs:
        """Runs all steps; returns the rows of two values after them, and the attention weights."""
        self._outputs = hidden, context
        outputs: Outputs = _RunTape.apply(self, *self._inputs.values())  # type: ignore[no-untyped-call]
        return outputs

    def forward(self) -> Outputs:
        """Runs all steps."""
        assert self._attend is not None, "an attentive recurrence attends"
        for input_BTG, term in self._step_inputs:
            term.bind(input_BTG.transpose(0, 1), self._run)
        for value in self._values:
            value.begin(self._run)
        for operation in self._operations:
            operation.begin(self._run)
        for step in range(self._run.steps):
            for operation in self._operations:
                operation.forward(step)
        hidden, context = self._outputs
        return hidden.output_BTF, context.output_BTF, self._attend.weights_BTS

    def backward(
        self, d_hidden_BTF: Tensor | None, d_context_BTF: Tensor | None, d_weights_BTS: Tensor | None
    ) -> list[Tensor | None]:
        """Returns the gradients of `inputs` from those of the outputs."""
        assert self._attend is not None
        d_outputs_BTF = dict(zip(self._outputs, (d_hidden_BTF, d_context_BTF), strict=True))
        for value in self._values:
            value.begin_backward(d_outputs_BTF.get(value))
        self._attend.d_weights_BTS = d_weights_BTS
        for operation in self._operations:
            operation.begin_backward()
        for step in reversed(range(self._run.steps)):
            for operation in reversed(self._operations):
                operation.backward(step)
        total: dict[int, Tensor] = {}
        for tensor, gradient in self._gradients():
            total[id(tensor)] = total[id(tensor)] + gradient if id(tensor) in total else gradient
        return [total.get(id(tensor)) for tensor in self._inputs.values()]

    def _gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        for operation in self._operations:
            yield from operation.finish()
        for value in self._values:
            if value.first is not None:
                yield value.first, value.d_first().to(value.first.dtype)
        for input_BTG, term in self._step_inputs:
            assert term.gradient_TBN is not None, "an operation reads the input"
            yield input_BTG, term.gradient_TBN.transpose(0, 1)

    def _value(self, value: Value) -> Value:
        self._values.append(value)
        return value

    def _input(self, tensor: Tensor) -> Tensor:
        """Registers an input of the tape, which gets a gradient."""
        self._inputs[id(tensor)] = tensor
        return tensor


class _RunTape(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tape: Tape, *inputs: Tensor) -> Outputs:
        ctx.set_materialize_grads(False)
        ctx.device_type = tape._run.device.type
        with torch.autocast(ctx.device_type, enabled=False):
            outputs, ctx.tape_backward = tape.forward(), tape.backward
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        assert ctx.tape_backward is not None, "a recurrence is differentiated once"
        # Dropping the reference frees the rows.
        tape_backward, ctx.tape_backward = ctx.tape_backward, None
        with torch.autocast(ctx.device_type, enabled=False):
            return None, *tape_backward(*d_outputs)
