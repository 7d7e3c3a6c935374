"""Products of 8-bit integers.

All implementations compute the same integers and exact sums, whatever the order of additions.

    x W' = s_x (q_x q_W') s_W   with   q = round(x / s)   and   s = max |x| / 127

Shapes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.kernels.compiler import address, declare

_calls = declare({}, {"quantize": "ssppp", "dequantize": "ssppppp", "integer_product": "sssppppp"})

LARGEST = 127
"""The largest integer."""
FLOAT32_INPUTS = 2**24 // LARGEST**2
"""Number of integer products whose sum is exact in float32."""
PANEL = 16
"""Outputs of a panel of the weight (int8.h)."""


class Int8Product:
    """Reference: a weight [O, I] of integers with a scale for each output, and one for each row of the inputs.

    Sums are computed in float32, in parts small enough to be exact.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        weight_OI = weight_OI.detach().float()
        scale_O1 = _scale(weight_OI)
        self._scale_O = scale_O1.squeeze(1)
        self._store((weight_OI / scale_O1).round_().to(torch.int8))

    def product(self, rows_MI: Tensor, bias_O: Tensor | None) -> Tensor:
        """Computes W x + b of float32 rows, [M, O]."""
        scale_M1 = _scale(rows_MI)
        outputs_MO = self._sums((rows_MI / scale_M1).round_().to(torch.int8)).to(torch.float32).mul_(self._scale_O)
        return outputs_MO.mul_(scale_M1) if bias_O is None else torch.addcmul(bias_O, outputs_MO, scale_M1)

    def _store(self, integers_OI: Tensor) -> None:
        self._parts = [part_OI.float() for part_OI in torch.split(integers_OI, FLOAT32_INPUTS, 1)]

    def _sums(self, integers_MI: Tensor) -> Tensor:
        """Computes the integer products, [M, O] in 32 bits."""
        rows = torch.split(integers_MI, FLOAT32_INPUTS, 1)
        sums = [(row_MP.float() @ part_OP.t()).int() for row_MP, part_OP in zip(rows, self._parts, strict=True)]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0, dtype=torch.int32)


class OnednnInt8Product(Int8Product):
    """Computes the sums with oneDNN, which is fast only with AVX512-VNNI."""

    def _store(self, integers_OI: Tensor) -> None:
        self._integers_IO = _row_by_row(integers_OI.t())

    def _sums(self, integers_MI: Tensor) -> Tensor:
        return torch._int_mm(_row_by_row(integers_MI), self._integers_IO)


class OnednnNativeInt8Product(OnednnInt8Product):
    """Computes the sums with oneDNN; C kernels quantize the rows and scale the sums."""

    def product(self, rows_MI: Tensor, bias_O: Tensor | None) -> Tensor:
        integers_MI, scale_M = native_quantize(rows_MI)
        return native_dequantize(self._sums(integers_MI), scale_M, self._scale_O, bias_O)


class NativeInt8Product(Int8Product):
    """Quantizes, sums and scales in one C kernel (int8.h)."""

    def product(self, rows_MI: Tensor, bias_O: Tensor | None) -> Tensor:
        rows_MI, bias_O = rows_MI.contiguous(), None if bias_O is None else bias_O.contiguous()
        outputs_MO = rows_MI.new_empty(len(rows_MI), len(self._scale_O))
        _calls(torch.float32).integer_product(
            *(*rows_MI.shape, len(self._scale_O), rows_MI.data_ptr(), self._panels.data_ptr()),
            *(self._scale_O.data_ptr(), address(bias_O), outputs_MO.data_ptr()),
        )
        return outputs_MO

    def _store(self, integers_OI: Tensor) -> None:
        # Pads the last panel with zeros.
        outputs, inputs = integers_OI.shape
        padded = F.pad(integers_OI, (0, inputs % 2, 0, -outputs % PANEL))
        self._panels = padded.view(-1, PANEL, (inputs + 1) // 2, 2).transpose(1, 2).contiguous()


def native_quantize(rows_MI: Tensor) -> tuple[Tensor, Tensor]:
    """Returns 8-bit integers of float32 rows, and the scale [M] of each row."""
    rows_MI = rows_MI.contiguous()
    integers_MI, scale_M = torch.empty_like(rows_MI, dtype=torch.int8), rows_MI.new_empty(len(rows_MI))
    _calls(torch.float32).quantize(*rows_MI.shape, rows_MI.data_ptr(), integers_MI.data_ptr(), scale_M.data_ptr())
    return integers_MI, scale_M


def native_dequantize(sums_MO: Tensor, scale_M: Tensor, scale_O: Tensor, bias_O: Tensor | None) -> Tensor:
    """Returns scaled sums of integer products, plus a bias, in float32."""
    sums_MO, bias_O = sums_MO.contiguous(), None if bias_O is None else bias_O.contiguous()
    outputs_MO = torch.empty_like(sums_MO, dtype=torch.float32)
    _calls(torch.float32).dequantize(
        *(*sums_MO.shape, sums_MO.data_ptr(), scale_M.data_ptr(), scale_O.data_ptr()),
        *(address(bias_O), outputs_MO.data_ptr()),
    )
    return outputs_MO


def _row_by_row(matrix: Tensor) -> Tensor:
    """Returns the matrix in row-major layout, also where a size is 1.

    `contiguous` accepts any stride of a dimension of size 1. oneDNN uses that stride and reads beyond the matrix.
    """
    if matrix.stride() == (matrix.shape[1], 1):
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


def _scale(rows: Tensor) -> Tensor:
    """Returns the scale of each row, which maps its largest absolute value to the largest integer."""
    return rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(LARGEST)
