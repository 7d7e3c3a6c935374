"""Constant weights that know how they multiply: laid out once, in shorter formats too, for translating on a CPU.

A product with few rows is bound by the reading of its weights; with many, by arithmetic. Both get cheaper the shorter
the weights are. A `PackedWeight` stands in the place of a parameter, and whatever multiplies by it through
`torch.nn.functional.linear` is none the wiser: no cell, score or readout has a second form for translating.

Shapes: ... any leading dimensions, M rows of them together, I inputs, O outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.kernels.native import inference
from nmt.kernels.native.calls import can_be_called
from nmt.kernels.products import Factor

LARGEST = 127.0
"""Of what an int8 holds on both sides of zero."""


class PackedWeight(torch.Tensor):
    """A weight [O, I] whose products are computed in another format, and those of some of its outputs: `index_select`.

    What is neither sees the weight as it was.
    """

    @staticmethod
    def __new__(cls, weight: Tensor) -> PackedWeight:
        packed: PackedWeight = torch.Tensor._make_subclass(cls, weight.detach())
        return packed

    @abstractmethod
    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """Products [..., O] of inputs [..., I]."""

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is torch.Tensor.index_select:
            # Every output has its own scale, so that a part is packed as the whole is.
            with torch._C.DisableTorchFunctionSubclass():
                rows = function(*arguments, **(keywords or {})).as_subclass(torch.Tensor)
            assert arguments[1] == 0, "outputs are selected"
            return type(arguments[0])(rows)
        if function is F.linear and not keywords and isinstance(arguments[1], PackedWeight):
            return arguments[1].product(arguments[0], arguments[2] if len(arguments) > 2 else None)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*arguments, **(keywords or {}))


class Fp32Weight(PackedWeight):
    """Products of float32."""

    def __init__(self, weight: Tensor) -> None:
        self.factor = Factor(weight, few_rows=True)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """In float32."""
        return self.factor.product(inputs, bias)


class Bf16Weight(PackedWeight):
    """Products of bf16 with sums in float32, as autocast makes them, but for the cast of the weight at each one."""

    def __init__(self, weight: Tensor) -> None:
        self.factor = Factor(weight.detach().to(torch.bfloat16), few_rows=True)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """In bf16."""
        return self.factor.product(inputs.to(torch.bfloat16), bias if bias is None else bias.to(torch.bfloat16))


class Int8Weight(PackedWeight):
    """Products of 8-bit integers: x W' = s_x (q_x q_W') s_W, with q = round(x / s) and s = max |x| / 127.

    A scale for every output and, found as it comes, one for every row of the inputs: a row does not depend on the
    others. The sums are exact 32-bit integers, so that the order of the additions does not matter either.
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach().float()
        scale_O1 = _scale(weight)
        self.integers_IO = (weight / scale_O1).round_().to(torch.int8).t().contiguous()
        self.scale_O = scale_O1.squeeze(1)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """In float32."""
        rows_MI = inputs.reshape(-1, inputs.shape[-1]).float()
        if can_be_called(rows_MI):
            integers_MI, scale_M = inference.quantized(rows_MI)
            sums_MO = torch._int_mm(integers_MI, self.integers_IO)
            outputs_MO = inference.dequantized(sums_MO, scale_M, self.scale_O, bias)
            return outputs_MO.view(*inputs.shape[:-1], -1)
        scale_M1 = _scale(rows_MI)
        sums_MO = torch._int_mm((rows_MI / scale_M1).round_().to(torch.int8), self.integers_IO)
        outputs_MO = sums_MO.to(torch.float32).mul_(self.scale_O)
        if bias is None:
            outputs_MO.mul_(scale_M1)
        else:
            torch.addcmul(bias, outputs_MO, scale_M1, out=outputs_MO)
        return outputs_MO.view(*inputs.shape[:-1], -1)


def _scale(rows: Tensor) -> Tensor:
    """What the largest number of each row is divided by to become the largest integer."""
    return rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(LARGEST)
