"""The operations that a recurrence is recorded as.

In a step an operation does what the next one waits for. The gradients of weights, keys and memory, which nothing in
the recurrence waits for, are one product each over all steps, in `finish`.

Shapes: T steps, B sentences, S source positions, F features of a value, N features of a product, P = T x B.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nmt.kernels.products import Factor
from nmt.kernels.tape.steps import Annotations, StepKernels, attention_weights, source_backward
from nmt.kernels.tape.values import Extent, Row, Term


class Operation:
    """A part of a step."""

    def begin(self, extent: Extent) -> None:
        """Make room."""

    def forward(self, step: int) -> None:
        raise AssertionError("an operation has a forward step")

    def begin_backward(self) -> None:
        """Make room for the gradients of what is read."""

    def backward(self, step: int) -> None:
        raise AssertionError("an operation has a backward step")

    def finish(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tensors from outside of the recurrence, and their gradients."""
        return iter(())


class Product(Operation):
    """Products of one row with several weights, W x + b, as one."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.parts: list[tuple[Tensor, Tensor | None, Term]] = []

    def add(self, weight: Tensor, bias: Tensor | None) -> Term:
        self.parts.append((weight, bias, Term()))
        return self.parts[-1][-1]

    def begin(self, extent: Extent) -> None:
        self.extent = extent
        self.sizes = [len(weight) for weight, _, _ in self.parts]
        self.weight_NF = torch.cat([weight.to(extent.short) for weight, _, _ in self.parts])
        self.factor = Factor(self.weight_NF)
        biases = [bias for _, bias, _ in self.parts]
        self.bias_N: Tensor | None = None
        if any(bias is not None for bias in biases):
            self.bias_N = torch.cat(
                [
                    self.weight_NF.new_zeros(size) if bias is None else bias.to(extent.short)
                    for size, bias in zip(self.sizes, biases, strict=True)
                ]
            )
        whole_TBN = extent.empty(extent.steps if extent.keeps else 1, sum(self.sizes))
        self.rows = extent.rows(whole_TBN.unbind(0))
        for (_, _, term), part_TBN in zip(self.parts, torch.split(whole_TBN, self.sizes, -1), strict=True):
            term.put(part_TBN, extent)

    def forward(self, step: int) -> None:
        self.factor.write(self.row.factor(step), self.bias_N, self.rows[step])

    def begin_backward(self) -> None:
        self.factor_back = Factor(self.weight_NF.t())
        self.gradient_TBN = self.extent.empty(self.extent.steps, sum(self.sizes))
        self.gradient_rows = self.gradient_TBN.unbind(0)
        for (_, _, term), part_TBN in zip(self.parts, torch.split(self.gradient_TBN, self.sizes, -1), strict=True):
            term.put_gradient(part_TBN)

    def backward(self, step: int) -> None:
        self.row.value.send(self.gradient_rows[step], self.factor_back)

    def finish(self) -> Iterator[tuple[Tensor, Tensor]]:
        gradient_PN = self.gradient_TBN.flatten(0, 1)
        d_weights = torch.split(gradient_PN.t() @ self.row.factors_TBF.flatten(0, 1), self.sizes)
        has_bias = self.bias_N is not None
        d_biases = torch.split(gradient_PN.sum(0, dtype=self.extent.exact), self.sizes) if has_bias else ()
        for number, (weight, bias, _) in enumerate(self.parts):
            yield weight, d_weights[number].to(weight.dtype)
            if bias is not None:
                yield bias, d_biases[number].to(bias.dtype)


class Look(Operation):
    """One look at the source; its weights of all steps are an output of the recurrence."""

    def __init__(self, steps: StepKernels, query: Row | Term, source: Annotations, context: Row) -> None:
        self.steps = steps
        self.query = query
        self.source = source
        self.context = context

    def begin(self, extent: Extent) -> None:
        self.extent = extent
        keys, memory, bias, energy = self.source
        assert bias.dtype == extent.exact
        energy = None if energy is None else energy.to(extent.short)
        self.cast = self.steps.prepare(Annotations(keys.to(extent.short), memory.to(extent.short), bias, energy))
        self.steps.check(self.cast)
        self.scores_TBS = extent.empty(extent.steps, bias.shape[1], extent.exact)
        self.normalizer_TB = self.scores_TBS.new_empty(extent.steps, extent.batch)
        self.normalizers, self.scores = torch.split(self.normalizer_TB, 1), torch.split(self.scores_TBS, 1)
        self.contexts = torch.split(self.context.factors_TBF, 1)
        self.query_TBA = self.query.factors_TBF if isinstance(self.query, Row) else self.query.whole_TBN
        self.queries = extent.rows(torch.split(self.query_TBA, 1))

    def forward(self, step: int) -> None:
        self.steps.look(self.queries[step], self.cast, self.contexts[step], self.scores[step], self.normalizers[step])

    @property
    def weights_BTS(self) -> Tensor:
        """Where each step looked."""
        return attention_weights(self.scores_TBS, self.normalizer_TB).transpose(0, 1)

    def begin_backward_weights(self, d_weights_BTS: Tensor | None) -> None:
        """The gradient of the weights from outside of the recurrence, where there is one."""
        self.d_weights: Sequence[Tensor] | None = None
        if d_weights_BTS is not None:
            d_weights_TBS = d_weights_BTS.to(self.extent.exact).transpose(0, 1).contiguous()
            self.d_weights = torch.split(d_weights_TBS, 1)

    def begin_backward(self) -> None:
        self.sums = self.steps.sums(self.cast)
        self.d_looked_TBS = torch.empty_like(self.scores_TBS)
        self.d_looked = torch.split(self.d_looked_TBS, 1)
        self.d_contexts = torch.split(self.context.gradients_TBF, 1)
        d_query_TBA = self.query.gradients_TBF if isinstance(self.query, Row) else self.query.gradient_TBN
        assert d_query_TBA is not None, "a query that is a product has a place for its gradient"
        self.d_queries = torch.split(d_query_TBA, 1)

    def backward(self, step: int) -> None:
        sent_BC = self.context.value.take_sent()
        self.steps.look_backward(
            self.queries[step],
            self.cast,
            self.scores[step],
            self.normalizers[step],
            self.d_contexts[step],
            None if sent_BC is None else sent_BC.unsqueeze(0),
            None if self.d_weights is None else self.d_weights[step],
            self.d_queries[step],
            self.d_looked[step],
            # A state has other readers.
            add=isinstance(self.query, Row),
            sums=self.sums,
        )

    def finish(self) -> Iterator[tuple[Tensor, Tensor]]:
        looked = (self.scores_TBS, self.normalizer_TB, self.context.gradients_TBF, self.d_looked_TBS)
        d_keys, d_memory, d_energy = source_backward(self.steps, self.query_TBA, self.cast, *looked, self.sums)
        yield self.source.keys, d_keys.to(self.source.keys.dtype)
        yield self.source.memory, d_memory
        if self.source.energy is not None and d_energy is not None:
            yield self.source.energy, d_energy.to(self.source.energy.dtype)
