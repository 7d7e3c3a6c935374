"""Products of 8-bit integers, made by what is fastest on this processor; all of them find the same integers.

Their sums are exact, so that neither the order of the additions nor who makes them matters.

Shapes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.kernels.native import inference
from nmt.kernels.native.build import load
from nmt.kernels.native.calls import can_be_called
from nmt.runtime import cpu_flags

LARGEST = 127
"""Of what an int8 holds on both sides of zero."""
EXACT_INPUTS = 2**24 // LARGEST**2
"""So many products of integers add up exactly in float32."""


class Integers:
    """A weight [O, I] of integers with a scale for each output; rows get a scale each as they come.

    x W' = s_x (q_x q_W') s_W, with q = round(x / s) and s = max |x| / 127. Here float32 makes the sums, and holds them
    exactly.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        weight_OI = weight_OI.detach().float()
        scale_O1 = _scale(weight_OI)
        self._scale_O = scale_O1.squeeze(1)
        self._lay_out((weight_OI / scale_O1).round_().to(torch.int8))

    def product(self, rows_MI: Tensor, bias_O: Tensor | None) -> Tensor:
        """W x + b of float32 rows, [M, O]."""
        if can_be_called(rows_MI):
            integers_MI, scale_M = inference.quantized(rows_MI)
            return inference.dequantized(self._sums(integers_MI), scale_M, self._scale_O, bias_O)
        scale_M1 = _scale(rows_MI)
        outputs_MO = self._sums((rows_MI / scale_M1).round_().to(torch.int8)).to(torch.float32).mul_(self._scale_O)
        return outputs_MO.mul_(scale_M1) if bias_O is None else torch.addcmul(bias_O, outputs_MO, scale_M1)

    def _lay_out(self, integers_OI: Tensor) -> None:
        self._parts = [part_OI.float() for part_OI in torch.split(integers_OI, EXACT_INPUTS, 1)]

    def _sums(self, integers_MI: Tensor) -> Tensor:
        """The products of the integers, [M, O] in 32 bits."""
        rows = torch.split(integers_MI, EXACT_INPUTS, 1)
        sums = [(row_MP.float() @ part_OP.t()).int() for row_MP, part_OP in zip(rows, self._parts, strict=True)]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0, dtype=torch.int32)


class OnednnIntegers(Integers):
    """The sums by oneDNN, which has no fast way to them but by AVX512-VNNI."""

    def _lay_out(self, integers_OI: Tensor) -> None:
        self._integers_IO = _row_by_row(integers_OI.t())

    def _sums(self, integers_MI: Tensor) -> Tensor:
        return torch._int_mm(_row_by_row(integers_MI), self._integers_IO)


class CompiledIntegers(Integers):
    """Rows, sums and what they stand for by one compiled kernel (native/integers.h)."""

    def product(self, rows_MI: Tensor, bias_O: Tensor | None) -> Tensor:
        return inference.integer_product(rows_MI, self._panels, self._scale_O, bias_O)

    def _lay_out(self, integers_OI: Tensor) -> None:
        self._panels = inference.panels(integers_OI)


def integers(weight_OI: Tensor) -> Integers:
    """The weight as integers of the kind that multiplies fastest here."""
    if "avx512_vnni" in cpu_flags() and torch._C._get_mkldnn_enabled():
        return OnednnIntegers(weight_OI)
    return CompiledIntegers(weight_OI) if load()[0] else Integers(weight_OI)


def _row_by_row(matrix: Tensor) -> Tensor:
    """The matrix with its rows one after the other in memory.

    `contiguous` does not ensure that: where a size is 1, it accepts any stride. oneDNN believes the stride and reads
    memory beyond the matrix.
    """
    if matrix.stride() == (matrix.shape[1], 1):
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


def _scale(rows: Tensor) -> Tensor:
    """What the largest number of each row is divided by to become the largest integer."""
    return rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(LARGEST)
