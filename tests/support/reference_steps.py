"""Steps of recurrences by autograd of their equations, `nmt.kernels.<operation>.reference`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from nmt.kernels.attention import reference as attention
from nmt.kernels.lstm.reference import lstm_step
from nmt.kernels.rnn.reference import rnn_step
from nmt.kernels.steps import Annotations, GateInputs, StepKernels

Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


class ReferenceKernels(StepKernels):
    """`StepKernels` whose functions are equations, and whose gradients are autograd's."""

    def __init__(self) -> None:
        self.implementation = "reference"  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        function: Callable[..., Any] | None = globals().get(name)
        if function is not None:
            return function
        cell, _, direction = name.partition("_")
        step = getattr(import_module(f"nmt.kernels.{cell}.reference"), f"{cell}_step")
        return partial({"forward": gated_forward, "backward": gated_backward}[direction], step)


def gated_forward(step: Step, gates: GateInputs, before: Tensor, after: Tensor, copy: Tensor | None) -> None:
    write(step(*halves(gates, after.dtype), (before,))[0], after, copy)


def gated_backward(
    step: Step,
    gates: GateInputs,
    before: Tensor,
    d_after: Tensor,
    pending: Tensor | None,
    d_input: Tensor,
    d_recurrent: Tensor,
    d_before: Tensor,
) -> None:
    operands = leaves(*halves(gates, before.dtype), before)
    with torch.enable_grad():
        (state,) = step(operands[0], operands[1], (operands[2],))
    gradients = torch.autograd.grad(state, operands, total(d_after, pending))
    d_input.copy_(gradients[0])
    d_recurrent.copy_(gradients[1])
    d_before += gradients[2]


def lstm_forward(gates: GateInputs, cell: Tensor, after_cell: Tensor, after: Tensor, copy: Tensor | None) -> None:
    output, new_cell = lstm_step(*halves(gates, cell.dtype), (cell, cell))
    after_cell.copy_(new_cell)
    write(output, after, copy)


def lstm_backward(
    gates: GateInputs,
    cell: Tensor,
    after_cell: Tensor,
    d_after: Tensor,
    pending: Tensor | None,
    d_after_cell: Tensor,
    d_gates: Tensor,
    d_gates_copy: Tensor | None,
    d_cell: Tensor,
) -> None:
    operands = leaves(*halves(gates, cell.dtype), cell)
    with torch.enable_grad():
        results = lstm_step(operands[0], operands[1], (operands[2], operands[2]))
    d_input, _, d_before = torch.autograd.grad(results, operands, (total(d_after, pending), d_after_cell))
    write(d_input, d_gates, d_gates_copy)
    d_cell += d_before


def rnn_forward(gates: GateInputs, after: Tensor, copy: Tensor | None) -> None:
    dtype = torch.promote_types(after.dtype, torch.float32)
    write(rnn_step(*halves(gates, dtype), ())[0], after, copy)


def rnn_backward(
    after: Tensor, d_after: Tensor, pending: Tensor | None, d_gates: Tensor, d_gates_copy: Tensor | None
) -> None:
    # The sum itself is not kept: it is the inverse of what is.
    (operand,) = leaves(torch.atanh(after.to(d_after.dtype)))
    with torch.enable_grad():
        (state,) = rnn_step(operand, torch.zeros_like(operand), ())
    (gradient,) = torch.autograd.grad(state, operand, total(d_after, pending))
    write(gradient, d_gates, d_gates_copy)


def attention_prepare(source: Annotations) -> Annotations:
    return source


def attention_forward(
    query_QBA: Tensor, source: Annotations, context_QBC: Tensor, scores_QBS: Tensor, normalizer_QB: Tensor
) -> None:
    source = in_dtype(source, scores_QBS.dtype)
    query_BQA = query_QBA.transpose(0, 1).to(scores_QBS.dtype)
    scores_BQS = attention.attention_scores(query_BQA, source.keys, source.energy) + source.bias.unsqueeze(1)
    normalizer_BQ = scores_BQS.logsumexp(-1)
    context_BQC, _ = attention.attend(query_BQA, source)
    context_QBC.copy_(context_BQC.transpose(0, 1))
    scores_QBS.copy_(scores_BQS.transpose(0, 1))
    normalizer_QB.copy_(normalizer_BQ.masked_fill(normalizer_BQ == -torch.inf, 0.0).t())


def attention_backward(
    query_QBA: Tensor,
    source: Annotations,
    scores_QBS: Tensor,
    normalizer_QB: Tensor,
    d_context_QBC: Tensor,
    pending_QBC: Tensor | None,
    d_weights_QBS: Tensor | None,
    d_query_QBA: Tensor,
    d_all_weights_QBS: Tensor,
    *,
    add: bool,
) -> None:
    if pending_QBC is not None:
        d_context_QBC += pending_QBC
    source = in_dtype(source, scores_QBS.dtype)
    (query_BQA,) = leaves(query_QBA.transpose(0, 1).to(scores_QBS.dtype))
    with torch.enable_grad():
        _, weights_BQS = attention.attend(query_BQA, source)
        (leaf_BQS,) = leaves(weights_BQS)
        context_BQC = leaf_BQS @ source.memory
    (d_all_BQS,) = torch.autograd.grad(context_BQC, leaf_BQS, d_context_QBC.transpose(0, 1))
    if d_weights_QBS is not None:
        d_all_BQS = d_all_BQS + d_weights_QBS.transpose(0, 1)
    d_all_weights_QBS.copy_(d_all_BQS.transpose(0, 1))
    (d_query_BQA,) = torch.autograd.grad(weights_BQS, query_BQA, d_all_BQS)
    if add:
        d_query_QBA += d_query_BQA.transpose(0, 1)
    else:
        d_query_QBA.copy_(d_query_BQA.transpose(0, 1))


def attention_keys_backward(
    query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor
) -> tuple[Tensor, Tensor]:
    dtype = d_scores_QBS.dtype
    keys, energy = leaves(keys_BSA.to(dtype), energy_A.to(dtype))
    with torch.enable_grad():
        scores_BQS = attention.attention_scores(query_QBA.transpose(0, 1).to(dtype), keys, energy)
    d_keys, d_energy = torch.autograd.grad(scores_BQS, (keys, energy), d_scores_QBS.transpose(0, 1))
    return d_keys.to(keys_BSA.dtype), d_energy


def halves(gates: GateInputs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Both halves of the gates in this dtype."""
    input_BG, recurrent_BG = gates.input_BG.to(dtype), gates.recurrent_BG.to(dtype)
    return input_BG if gates.more_BG is None else input_BG + gates.more_BG.to(dtype), recurrent_BG


def in_dtype(source: Annotations, dtype: torch.dtype) -> Annotations:
    return Annotations(*(None if part is None else part.to(dtype) for part in source))  # type: ignore[arg-type]


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)


def write(values: Tensor, one: Tensor, other: Tensor | None) -> None:
    one.copy_(values)
    if other is not None:
        other.copy_(values)


def total(one: Tensor, other: Tensor | None) -> Tensor:
    return one if other is None else one + other
