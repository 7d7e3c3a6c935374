"""The operations of a recorded recurrence, and the values that they read and write.

A step computes only what later operations and steps need. The gradients of weights, keys and memory are one product
each over all steps, in `finish`; for that the rows of all steps of a value are one tensor [T, B, ...].

Shapes: T steps, B sentences, S source positions, R = T or T + 1 rows, F features of a value, N features of a term or
product, H hidden, P = T x B.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nmt.kernels.attention import attention_weights, source_gradients
from nmt.kernels.linear.onednn import PrepackedProduct, bias_gradient, weight_gradient
from nmt.kernels.steps import Annotations, GateInputs, StepKernels

Formats = Literal["both", "operand", "state"]
"""The dtypes in which a value is kept: operands of products have the compute dtype, states the accumulation dtype."""


@dataclass(frozen=True)
class Run:
    """The size, device and dtypes of one run of a tape."""

    steps: int
    batch: int
    device: torch.device
    compute_dtype: torch.dtype
    """Of operands and results of products."""
    needs_backward: bool
    """Whether there will be a backward pass, for which the rows of all steps are kept."""

    @property
    def accumulation_dtype(self) -> torch.dtype:
        """Of states and sums: at least single precision."""
        return torch.promote_types(self.compute_dtype, torch.float32)

    def empty(self, rows: int, features: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns an uninitialized tensor [rows, B, features], in the compute dtype by default."""
        return torch.empty(rows, self.batch, features, dtype=dtype or self.compute_dtype, device=self.device)

    def rows(self, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns the row of each step: all rows, or one row that every step overwrites."""
        return rows if len(rows) == self.steps else rows * self.steps


class Value:
    """A state or a context: one row [B, F] a step, which several operations or the next step read.

    Its readers add up its gradient. Products add theirs, in the compute dtype, to a pending part.
    """

    def __init__(self, features: int, first: Tensor | None = None, *, formats: Formats = "both") -> None:
        self.features = features
        self.first = first
        """Row 0 [B, 1, F] of a value that is carried from step to step; None for one that is new in every step."""
        self.carried = int(first is not None)
        self.formats = formats

    @property
    def before(self) -> Row:
        """The row before a step."""
        assert self.carried, "carried from one step to the next"
        return Row(self, 0)

    @property
    def after(self) -> Row:
        """The row after a step."""
        return Row(self, self.carried)

    def begin(self, run: Run) -> None:
        self.run = run
        dtype = run.accumulation_dtype if self.formats == "state" else run.compute_dtype
        self.operand_RBF = run.empty(run.steps + self.carried, self.features, dtype)
        self.state_RBF = self.operand_RBF
        if self.formats == "both" and run.compute_dtype != run.accumulation_dtype:
            self.state_RBF = torch.empty_like(self.operand_RBF, dtype=run.accumulation_dtype)
        self.state_rows, self.operand_rows = self.state_RBF.unbind(0), self.operand_RBF.unbind(0)
        if self.first is not None:
            self.state_rows[0].copy_(self.first.squeeze(1))
            self.operand_rows[0].copy_(self.first.squeeze(1))

    @property
    def output_BTF(self) -> Tensor:
        """The rows after all steps."""
        return self.state_RBF[self.carried :].transpose(0, 1)

    def begin_backward(self, d_output_BTF: Tensor | None) -> None:
        """Initializes the gradient with that of the tape's output."""
        self.gradient_RBF = torch.zeros_like(self.state_RBF, dtype=self.run.accumulation_dtype)
        if d_output_BTF is not None:
            self.gradient_RBF[self.carried :] = d_output_BTF.transpose(0, 1)
        self.gradient_rows = self.gradient_RBF.unbind(0)
        self._pending_BF = torch.empty_like(self.operand_rows[0])
        self._has_pending = False

    def add_pending(self, d_product_BN: Tensor, weight_FN: PrepackedProduct) -> None:
        """Adds the gradient through a product to the pending part of the row that the product read."""
        if self._has_pending:
            weight_FN.add(d_product_BN, self._pending_BF)
        else:
            weight_FN.write(d_product_BN, None, self._pending_BF)
        self._has_pending = True

    def take_pending(self) -> Tensor | None:
        """Returns and clears the pending gradient. The row's writer calls this after all readers of the row ran."""
        pending_BF, self._has_pending = self._pending_BF if self._has_pending else None, False
        return pending_BF

    def d_first(self) -> Tensor:
        """Returns the gradient of row 0, [B, 1, F]."""
        pending_BF, row_BF = self.take_pending(), self.gradient_rows[0]
        return (row_BF if pending_BF is None else row_BF + pending_BF).unsqueeze(1)


@dataclass(frozen=True)
class Row:
    """A value in a step: in step t, row t + shift."""

    value: Value
    shift: int

    def state(self, step: int) -> Tensor:
        return self.value.state_rows[step + self.shift]

    def operand(self, step: int) -> Tensor:
        return self.value.operand_rows[step + self.shift]

    def copy(self, step: int) -> Tensor | None:
        """Returns the operand, for a writer of the state; None where both are one tensor."""
        return None if self.value.operand_RBF is self.value.state_RBF else self.operand(step)

    def gradient(self, step: int) -> Tensor:
        return self.value.gradient_rows[step + self.shift]

    @property
    def operands_TBF(self) -> Tensor:
        return self.value.operand_RBF[self.shift : self.shift + self.value.run.steps]

    @property
    def gradients_TBF(self) -> Tensor:
        return self.value.gradient_RBF[self.shift : self.shift + self.value.run.steps]


class Term:
    """A part of a product, or an input of each step: one operation reads it and no other."""

    gradient_TBN: Tensor | None = None

    def bind(self, whole_TBN: Tensor, run: Run) -> None:
        self.whole_TBN, self.rows = whole_TBN, run.rows(whole_TBN.unbind(0))

    def bind_gradient(self, gradient_TBN: Tensor) -> None:
        """Sets the tensor to which the reader writes the gradient."""
        self.gradient_TBN, self.gradient_rows = gradient_TBN, gradient_TBN.unbind(0)


class Operation:
    """A part of a step."""

    def begin(self, run: Run) -> None:
        """Allocates the results."""

    def forward(self, step: int) -> None:
        raise AssertionError("an operation has a forward step")

    def begin_backward(self) -> None:
        """Allocates the gradients of the operands."""

    def backward(self, step: int) -> None:
        raise AssertionError("an operation has a backward step")

    def finish(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the inputs of the tape that the operation reads, and their gradients."""
        return iter(())


class Product(Operation):
    """Products of one row with several weights, W x + b, as one."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.parts: list[tuple[Tensor, Tensor | None, Term]] = []

    def add(self, weight: Tensor, bias: Tensor | None) -> Term:
        self.parts.append((weight, bias, Term()))
        return self.parts[-1][-1]

    def begin(self, run: Run) -> None:
        self.run = run
        self.sizes = [len(weight) for weight, _, _ in self.parts]
        self.weight_NF = torch.cat([weight.to(run.compute_dtype) for weight, _, _ in self.parts])
        self.weight = PrepackedProduct(self.weight_NF)
        biases = [
            self.weight_NF.new_zeros(len(weight)) if bias is None else bias.to(run.compute_dtype)
            for weight, bias, _ in self.parts
        ]
        self.bias_N = torch.cat(biases) if any(bias is not None for _, bias, _ in self.parts) else None
        whole_TBN = run.empty(run.steps if run.needs_backward else 1, sum(self.sizes))
        self.rows = run.rows(whole_TBN.unbind(0))
        for (_, _, term), part_TBN in zip(self.parts, torch.split(whole_TBN, self.sizes, -1), strict=True):
            term.bind(part_TBN, run)

    def forward(self, step: int) -> None:
        self.weight.write(self.row.operand(step), self.bias_N, self.rows[step])

    def begin_backward(self) -> None:
        self.transposed_weight = PrepackedProduct(self.weight_NF.t())
        self.gradient_TBN = self.run.empty(self.run.steps, sum(self.sizes))
        self.gradient_rows = self.gradient_TBN.unbind(0)
        for (_, _, term), part_TBN in zip(self.parts, torch.split(self.gradient_TBN, self.sizes, -1), strict=True):
            term.bind_gradient(part_TBN)

    def backward(self, step: int) -> None:
        self.row.value.add_pending(self.gradient_rows[step], self.transposed_weight)

    def finish(self) -> Iterator[tuple[Tensor, Tensor]]:
        gradient_PN = self.gradient_TBN.flatten(0, 1)
        d_weights = torch.split(weight_gradient(gradient_PN, self.row.operands_TBF.flatten(0, 1)), self.sizes)
        has_bias = self.bias_N is not None
        d_biases = torch.split(bias_gradient(gradient_PN), self.sizes) if has_bias else ()
        for number, (weight, bias, _) in enumerate(self.parts):
            yield weight, d_weights[number].to(weight.dtype)
            if bias is not None:
                yield bias, d_biases[number].to(bias.dtype)


@dataclass(eq=False)
class Attend(Operation):
    """Attention over the source; its weights of all steps are an output of the tape."""

    kernels: StepKernels
    query: Row | Term
    source: Annotations
    context: Row
    d_weights_BTS: Tensor | None = None
    """The gradient of the tape's attention weights, where there is one."""

    def begin(self, run: Run) -> None:
        self.run = run
        dtype = run.compute_dtype
        keys, memory, bias, energy = self.source
        assert bias.dtype == run.accumulation_dtype
        energy = None if energy is None else energy.to(dtype)
        self.prepared = self.kernels.attention_prepare(Annotations(keys.to(dtype), memory.to(dtype), bias, energy))
        self.scores_TBS = run.empty(run.steps, bias.shape[1], run.accumulation_dtype)
        self.normalizer_TB = self.scores_TBS.new_empty(run.steps, run.batch)
        self.normalizers, self.scores = torch.split(self.normalizer_TB, 1), torch.split(self.scores_TBS, 1)
        self.contexts = torch.split(self.context.operands_TBF, 1)
        self.query_TBA = self.query.operands_TBF if isinstance(self.query, Row) else self.query.whole_TBN
        self.queries = run.rows(torch.split(self.query_TBA, 1))

    def forward(self, step: int) -> None:
        self.kernels.attention_forward(
            self.queries[step], self.prepared, self.contexts[step], self.scores[step], self.normalizers[step]
        )

    @property
    def weights_BTS(self) -> Tensor:
        """The attention weights of all steps."""
        return attention_weights(self.scores_TBS, self.normalizer_TB).transpose(0, 1)

    def begin_backward(self) -> None:
        self.d_weights: Sequence[Tensor] | None = None
        if self.d_weights_BTS is not None:
            d_weights_TBS = self.d_weights_BTS.to(self.run.accumulation_dtype).transpose(0, 1).contiguous()
            self.d_weights = torch.split(d_weights_TBS, 1)
        self.d_all_weights_TBS = torch.empty_like(self.scores_TBS)
        self.d_all_weights = torch.split(self.d_all_weights_TBS, 1)
        self.d_contexts = torch.split(self.context.gradients_TBF, 1)
        d_query_TBA = self.query.gradients_TBF if isinstance(self.query, Row) else self.query.gradient_TBN
        assert d_query_TBA is not None, "a query that is a product has a tensor for its gradient"
        self.d_queries = torch.split(d_query_TBA, 1)

    def backward(self, step: int) -> None:
        pending_BC = self.context.value.take_pending()
        self.kernels.attention_backward(
            self.queries[step],
            self.prepared,
            self.scores[step],
            self.normalizers[step],
            self.d_contexts[step],
            None if pending_BC is None else pending_BC.unsqueeze(0),
            None if self.d_weights is None else self.d_weights[step],
            self.d_queries[step],
            self.d_all_weights[step],
            # A state has other readers.
            add=isinstance(self.query, Row),
        )

    def finish(self) -> Iterator[tuple[Tensor, Tensor]]:
        forward = (self.query_TBA, self.prepared, self.scores_TBS, self.normalizer_TB, self.context.gradients_TBF)
        d_keys, d_memory, d_energy = source_gradients(self.kernels, *forward, self.d_all_weights_TBS)
        yield self.source.keys, d_keys.to(self.source.keys.dtype)
        yield self.source.memory, d_memory
        if self.source.energy is not None and d_energy is not None:
            yield self.source.energy, d_energy.to(self.source.energy.dtype)


@dataclass(eq=False)
class CellOperation(Operation):
    """A step of the cell with this name, whose input's half of the gates is one term or the sum of two."""

    kernels: StepKernels
    cell: str
    inputs: Sequence[Term]
    recurrent: Term
    after: Row

    def begin(self, run: Run) -> None:
        assert 1 <= len(self.inputs) <= 2
        self.call_forward = getattr(self.kernels, f"{self.cell}_forward")
        self.call_backward = getattr(self.kernels, f"{self.cell}_backward")

    def gates(self, step: int) -> GateInputs:
        more = self.inputs[1].rows[step] if len(self.inputs) > 1 else None
        return GateInputs(self.inputs[0].rows[step], self.recurrent.rows[step], more)


@dataclass(eq=False)
class GatedCell(CellOperation):
    """A cell whose one state is its output, and whose halves of the gates have gradients of their own."""

    before: Row

    def forward(self, step: int) -> None:
        before, after, copy = self.before.state(step), self.after.state(step), self.after.copy(step)
        self.call_forward(self.gates(step), before, after, copy)

    def begin_backward(self) -> None:
        (self.input,) = _gradient_owners(self.inputs)

    def backward(self, step: int) -> None:
        self.call_backward(
            self.gates(step),
            self.before.state(step),
            self.after.gradient(step),
            self.after.value.take_pending(),
            self.input.gradient_rows[step],
            self.recurrent.gradient_rows[step],
            self.before.gradient(step),
        )


class SummingCell(CellOperation):
    """A cell that reads only the sum of its gate inputs: all terms have one gradient."""

    def begin_backward(self) -> None:
        self.owners = _gradient_owners((self.recurrent, *self.inputs))
        assert len(self.owners) <= 2, "one term of the input is a product, the other an input of the tape"

    def d_gates(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Returns the tensors to which the gradient of a step is written."""
        one, *other = self.owners
        return one.gradient_rows[step], other[0].gradient_rows[step] if other else None


@dataclass(eq=False)
class Lstm(SummingCell):
    """A long short-term memory; its cell is carried beside its output, in the accumulation dtype alone."""

    before_cell: Row
    after_cell: Row

    def forward(self, step: int) -> None:
        cells = self.before_cell.state(step), self.after_cell.state(step)
        self.call_forward(self.gates(step), *cells, self.after.state(step), self.after.copy(step))

    def backward(self, step: int) -> None:
        self.call_backward(
            self.gates(step),
            self.before_cell.state(step),
            self.after_cell.state(step),
            self.after.gradient(step),
            self.after.value.take_pending(),
            self.after_cell.gradient(step),
            *self.d_gates(step),
            self.before_cell.gradient(step),
        )


class Tanh(SummingCell):
    """tanh of the sum: a simple recurrence, or a mixture of two products."""

    def forward(self, step: int) -> None:
        self.call_forward(self.gates(step), self.after.state(step), self.after.copy(step))

    def backward(self, step: int) -> None:
        pending = self.after.value.take_pending()
        self.call_backward(self.after.state(step), self.after.gradient(step), pending, *self.d_gates(step))


@dataclass(eq=False)
class Scale(Operation):
    """A row times the dropout mask of a step; in the compute dtype alone."""

    row: Row
    scale_BTH: Tensor
    scaled: Row

    def begin(self, run: Run) -> None:
        self.scales = self.scale_BTH.unbind(1)

    def forward(self, step: int) -> None:
        torch.mul(self.row.state(step), self.scales[step], out=self.scaled.state(step))

    def backward(self, step: int) -> None:
        pending_BH = self.scaled.value.take_pending()
        assert pending_BH is not None, "products alone read a scaled row"
        self.row.gradient(step).addcmul_(pending_BH.to(self.scale_BTH.dtype), self.scales[step])


@dataclass(eq=False)
class Sum(Operation):
    """A residual connection: the sum of two rows."""

    one: Row
    other: Row
    total: Row

    def forward(self, step: int) -> None:
        torch.add(self.one.state(step), self.other.state(step), out=self.total.state(step))
        copy_BH = self.total.copy(step)
        if copy_BH is not None:
            copy_BH.copy_(self.total.state(step))

    def backward(self, step: int) -> None:
        d_total_BH, pending_BH = self.total.gradient(step), self.total.value.take_pending()
        if pending_BH is not None:
            d_total_BH += pending_BH
        for row in (self.one, self.other):
            row.gradient(step).add_(d_total_BH)


def _gradient_owners(terms: Sequence[Term]) -> list[Term]:
    """Returns the terms that have their own tensor for the common gradient; the others share the first one's."""
    owners = [term for term in terms if term.gradient_TBN is not None] or [terms[0]]
    shared_TBN = owners[0].gradient_TBN
    if shared_TBN is None:
        shared_TBN = torch.empty_like(terms[0].whole_TBN)
    for term in terms:
        if term.gradient_TBN is None:
            term.bind_gradient(shared_TBN)
    return owners
