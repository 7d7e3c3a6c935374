"""Products on a CPU by oneDNN, with weights in the layout that its inner loop reads.

PyTorch repacks a weight for every product, in float32 by MKL as in bf16 by oneDNN. With 256-bit vectors oneDNN is the
faster one with few rows alone (docs/performance.md).

A row of such a product is the same to the bit, however many rows there are.

oneDNN generates code for every shape. With AMX that takes a millisecond, longer than most products of a step, and
batches of all lengths have thousands of shapes. So bf16 products there have rows of zeros up to a round number.

Shapes: ... any leading dimensions, M rows of them together, N outputs, F features.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nmt.kernels.compiler import declare, load_library
from nmt.runtime import has_amx, product_dtype

_calls = declare({"column_sums": "sspp"})

FEWEST_WEIGHTS = 2**15
"""Weights with fewer elements: calling oneDNN costs more than it saves."""
FEWEST_ROWS = 512
"""Rows of a single product; prepacking its weight costs as much as 100 to 500 rows gain."""


def suits(weight_NF: Tensor, *, few_rows: bool = False) -> bool:
    """Returns whether oneDNN supports this weight and is faster than PyTorch's product, for many rows or for few."""
    return (
        weight_NF.device.type == "cpu"
        and weight_NF.dtype in (torch.float32, torch.bfloat16)
        and weight_NF.numel() >= FEWEST_WEIGHTS
        and torch._C._get_mkldnn_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        # As measured.
        and (_vectors() == "AVX512" or (_vectors() == "AVX2" and few_rows and weight_NF.dtype == torch.float32))
    )


@cache
def _vectors() -> str:
    """Returns the vector instructions that PyTorch uses, such as AVX2."""
    return torch.backends.cpu.get_cpu_capability()


def rounded(rows: int) -> int:
    """Rounds up a number of rows to one of eight in each octave, and to a multiple of an AMX register's 16.

    Up to 16, such as the beams of a sentence, stay: they are few numbers already, and a copy takes time.
    """
    step = max(16, 1 << max(rows.bit_length() - 4, 0)) if rows > 16 else 1
    return -(-rows // step) * step


def pad(rows_MF: Tensor) -> Tensor:
    """Appends rows of zeros to [..., M, F], in bf16 with AMX."""
    if not pads(rows_MF, rows_MF.dtype):
        return rows_MF
    rows, features = rows_MF.shape[-2:]
    if rows == rounded(rows):
        return rows_MF
    zeros = rows_MF.new_zeros(*rows_MF.shape[:-2], rounded(rows) - rows, features)
    return torch.cat((rows_MF, zeros), -2)


def extend(rows_MF: Tensor) -> Tensor:
    """Returns rows [M, F] and more below them, in bf16 with AMX, for a product whose further results are dropped.

    They are what follows in the memory, where that goes on, because a copy takes as long as half the product.
    """
    if not pads(rows_MF, rows_MF.dtype):
        return rows_MF
    features, number = rows_MF.shape[1], rounded(len(rows_MF))
    end = (rows_MF.storage_offset() + number * features) * rows_MF.element_size()
    if rows_MF.is_contiguous() and end <= rows_MF.untyped_storage().nbytes():
        return rows_MF.as_strided((number, features), (features, 1))
    return pad(rows_MF)


def pads(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Returns whether products of the tensor in this dtype have a round number of rows."""
    return tensor.device.type == "cpu" and dtype == torch.bfloat16 and has_amx()


def weight_gradient(d_outputs_MN: Tensor, inputs_MF: Tensor) -> Tensor:
    """Computes the gradient [..., N, F] of the weight of a product, from [..., M, N] and [..., M, F].

    Neither operand is a weight, and the BLAS is faster in float32.
    """
    return pad(d_outputs_MN).transpose(-1, -2) @ pad(inputs_MF)


def bias_gradient(d_outputs_MN: Tensor) -> Tensor:
    """Computes the gradient [N] of the bias of a product, in at least single precision."""
    # PyTorch takes four to seven times as long for bf16 on a CPU.
    if d_outputs_MN.is_cpu and d_outputs_MN.dtype == torch.bfloat16 and load_library()[0]:
        d_outputs_MN = d_outputs_MN.contiguous()
        d_bias_N = d_outputs_MN.new_zeros(d_outputs_MN.shape[1], dtype=torch.float32)
        _calls(torch.bfloat16).column_sums(*d_outputs_MN.shape, d_outputs_MN.data_ptr(), d_bias_N.data_ptr())
        return d_bias_N
    return d_outputs_MN.sum(0, dtype=torch.promote_types(d_outputs_MN.dtype, torch.float32))


class PrepackedProduct:
    """A weight [N, F], laid out once for many products of `few_rows` each or of many. Records no gradients."""

    def __init__(self, weight_NF: Tensor, *, few_rows: bool = False) -> None:
        self._weight_NF = weight_NF.detach()
        self._prepacked: Tensor | None = None
        if suits(weight_NF, few_rows=few_rows):
            self._prepacked = torch.ops.mkldnn._reorder_linear_weight(self._weight_NF)

    def product(self, rows: Tensor, bias_N: Tensor | None = None) -> Tensor:
        """Computes W x + b of rows [..., F] in the dtype of the weight: [..., N]. The bias may be in a wider dtype."""
        if self._prepacked is None:
            return F.linear(rows, self._weight_NF, None if bias_N is None else bias_N.to(rows.dtype))
        rows_MF = rows.flatten(0, -2)
        outputs_MN: Tensor = torch.ops.mkldnn._linear_pointwise(
            extend(rows_MF), self._prepacked, bias_N, "none", [], ""
        )
        return outputs_MN[: len(rows_MF)].view(*rows.shape[:-1], outputs_MN.shape[1])

    def write(self, rows_MF: Tensor, bias_N: Tensor | None, out_MN: Tensor) -> Tensor:
        """Writes W x + b to an existing tensor."""
        if self._prepacked is not None:
            return out_MN.copy_(self.product(rows_MF, bias_N))
        if bias_N is None:
            return torch.mm(rows_MF, self._weight_NF.t(), out=out_MN)
        return torch.addmm(bias_N, rows_MF, self._weight_NF.t(), out=out_MN)

    def add(self, rows_MF: Tensor, total_MN: Tensor) -> Tensor:
        """Adds W x to a tensor."""
        if self._prepacked is not None:
            return total_MN.add_(self.product(rows_MF))
        return total_MN.addmm_(rows_MF, self._weight_NF.t())


class PrepackedProducts:
    """Weights [D, N, F] of D directions, each prepacked."""

    def __init__(self, weights_DNF: Tensor) -> None:
        self._weights_DNF = weights_DNF.detach()
        self._sides = [PrepackedProduct(weight_NF) for weight_NF in self._weights_DNF] if suits(weights_DNF[0]) else []

    def product(self, rows_DMF: Tensor, biases_DN: Tensor | None = None) -> tuple[Tensor, ...]:
        """Computes W x + b of the rows of each direction, [M, N] each."""
        if not self._sides:
            weights_DFN = self._weights_DNF.transpose(1, 2)
            if biases_DN is None:
                return torch.bmm(rows_DMF, weights_DFN).unbind(0)
            return torch.baddbmm(biases_DN.unsqueeze(1), rows_DMF, weights_DFN).unbind(0)
        biases = [None] * len(self._sides) if biases_DN is None else biases_DN.unbind(0)
        sides = zip(self._sides, rows_DMF.unbind(0), biases, strict=True)
        return tuple(side.product(rows_MF, bias_N) for side, rows_MF, bias_N in sides)


def linear(inputs: Tensor, weight_NF: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` by oneDNN, for inputs [..., F] of many rows; PyTorch's own where that is faster."""
    if (
        inputs.numel() >= FEWEST_ROWS * weight_NF.shape[1]
        and inputs.dtype == product_dtype(inputs) == weight_NF.dtype == torch.float32
        and suits(weight_NF)
    ):
        outputs: Tensor = _Linear.apply(inputs, weight_NF, bias_N)  # type: ignore[no-untyped-call]
        return outputs
    dtype = product_dtype(inputs)
    if pads(inputs, dtype):
        rows_MF = inputs.to(dtype).flatten(0, -2)
        return F.linear(pad(rows_MF), weight_NF, bias_N)[: len(rows_MF)].view(*inputs.shape[:-1], len(weight_NF))
    return F.linear(inputs, weight_NF, bias_N)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_NF: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight_NF)
        return PrepackedProduct(weight_NF).product(inputs, bias_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight_NF = ctx.saved_tensors
        d_outputs_MN, inputs_MF = d_outputs.flatten(0, -2), inputs.flatten(0, -2)
        d_inputs = d_weight_NF = d_bias_N = None
        if ctx.needs_input_grad[0]:
            d_inputs = PrepackedProduct(weight_NF.t()).product(d_outputs_MN).view(inputs.shape)
        if ctx.needs_input_grad[1]:
            d_weight_NF = weight_gradient(d_outputs_MN, inputs_MF)
        if ctx.needs_input_grad[2]:
            d_bias_N = bias_gradient(d_outputs_MN)
        return d_inputs, d_weight_NF, d_bias_N
