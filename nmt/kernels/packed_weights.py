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

from nmt.kernels.integers import integers
from nmt.kernels.products import Factor


class PackedWeight(torch.Tensor):
    """A weight [O, I] whose products are computed in another format, and those of some of its outputs: `index_select`.

    What is neither sees the weight as it was.
    """

    @staticmethod
    def __new__(cls, weight: Tensor) -> PackedWeight:
        packed: PackedWeight = torch.Tensor._make_subclass(cls, weight.detach())
        return packed

    def __reduce_ex__(self, protocol: Any) -> tuple[type[PackedWeight], tuple[Tensor]]:
        """Another process packs the weight anew: oneDNN's layout cannot be sent."""
        return type(self), (self.as_subclass(torch.Tensor),)

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
    """Products of 8-bit integers: a scale for every output and, found as it comes, one for every row of the inputs.

    So a row does not depend on the others.
    """

    def __init__(self, weight: Tensor) -> None:
        self.integers = integers(weight)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """In float32."""
        outputs_MO = self.integers.product(inputs.reshape(-1, inputs.shape[-1]).float(), bias)
        return outputs_MO.view(*inputs.shape[:-1], -1)
