"""The operations of a recurrence's step, as `nmt.kernels.tape` and `nmt.kernels.attention.attend` call them.

They write to tensors of the caller, so that a loop over positions need not allocate, and sum gradients in at least
single precision. States and sums have the accumulation dtype, operands and results of products the compute dtype.

Shapes: Q queries or steps, B sentences, S source positions, A attention units, C memory features, H hidden,
G gates x H. Gate inputs, queries, keys, memory and their gradients may be parts of wider tensors, features side by
side; everything else is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

CellStep = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""From both halves of the gates' pre-activations, [..., G] each, and the parts [..., H] of a cell's state, the output
first, to the state after a step."""
CellEquation = str | CellStep
"""The name of a cell's folder in `nmt/kernels`, or the step itself of a cell that has none."""


class Annotations(NamedTuple):
    """Keys and memory of a source, and the parameters of the score."""

    keys: Tensor
    """[B, S, A]."""
    memory: Tensor
    """[B, S, C], in the dtype of the keys."""
    bias: Tensor
    """Added to the scores, [B, S]: 0 at the positions of a sentence, minus infinity at padding."""
    energy: Tensor | None
    """v [A] of the score v' tanh(query + key); None for the score query' key."""


class GateInputs(NamedTuple):
    """Pre-activations [B, G] of a cell's gates, as two or three terms of a sum."""

    input_BG: Tensor
    """The product with the input."""
    recurrent_BG: Tensor
    """The product with the state before."""
    more_BG: Tensor | None = None
    """A second term of the input's half."""


def reference_step(cell: CellEquation) -> CellStep:
    """Returns the equation of the cell, for autograd."""
    if not isinstance(cell, str):
        return cell
    step: CellStep = getattr(import_module(f"nmt.kernels.{cell}.reference"), f"{cell}_step")
    return step


def native_step(cell: CellEquation) -> CellStep:
    """Returns the step in C for computation without gradients, or the equation where the cell has no C kernel."""
    step = reference_step(cell)
    if isinstance(cell, str) and find_spec(f"nmt.kernels.{cell}.native") is not None:
        step = getattr(import_module(f"nmt.kernels.{cell}.native"), f"{cell}_step", step)
    return step


@cache
def has_step_kernels(operation: CellEquation) -> bool:
    """Returns whether an operation has a C kernel and, on a machine with a GPU, a Triton kernel."""
    if not isinstance(operation, str):
        return False
    required = ["native", "triton"] if torch.cuda.is_available() else ["native"]
    return all(find_spec(f"nmt.kernels.{operation}.{implementation}") is not None for implementation in required)


class StepKernels:
    """The functions of `nmt.kernels.<operation>.<implementation>`, by their names.

    `copy` is a second tensor for a result, in the compute dtype. `d_after` is the gradient of a result; its second
    part, `pending`, is in the compute dtype. Both are optional (None).

    - gru_forward(gates, before, after, copy), and for other cells whose state is their output `<cell>_forward`;
    - gru_backward(gates, before, d_after, pending, d_input, d_recurrent, d_before): writes the gradients of both halves
      of the gates, and adds that of the state before.
    - lstm_forward(gates, cell, after_cell, after, copy);
    - lstm_backward(gates, cell, after_cell, d_after, pending, d_after_cell, d_gates, d_gates_copy, d_cell): the
      gradient of the gates' sum is written to one tensor or two.
    - rnn_forward(gates, after, copy): tanh of the sum;
    - rnn_backward(after, d_after, pending, d_gates, d_gates_copy).
    - attention_prepare(source): the source as the other functions take it, computed once for all steps;
    - attention_forward(query_QBA, source, context_QBC, scores_QBS, normalizer_QB): writes the context, the biased
      scores and the logarithm of the softmax's denominator. Where every position is excluded, normalizer and context
      are 0;
    - attention_backward(query_QBA, source, scores_QBS, normalizer_QB, d_context_QBC, pending_QBC, d_weights_QBS,
      d_query_QBA, d_all_weights_QBS, add): the gradient of the queries, written or, with `add`, added. `d_context`
      becomes the sum of both its parts; `d_weights` is that of losses of the weights, or None; `d_all_weights` gets
      the whole gradient of the weights;
    - attention_keys_backward(query_QBA, keys_BSA, energy_A, d_scores_QBS): the gradients [B, S, A] of the keys and [A]
      of the energy, of all queries together.
    """

    def __init__(self, implementation: Literal["native", "triton"]) -> None:
        self.implementation = implementation

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Finds the function `<operation>_<pass>` once; from then on it is an attribute."""
        operation = name.partition("_")[0]
        if not operation:
            raise AttributeError(name)
        function: Callable[..., Any] = getattr(import_module(f"nmt.kernels.{operation}.{self.implementation}"), name)
        setattr(self, name, function)
        return function
