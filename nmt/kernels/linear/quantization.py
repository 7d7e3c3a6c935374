"""Constant weights in the format of their products, prepacked once: for translating on a CPU.

A product with few rows is bound by the reading of its weights; with many, by arithmetic. Both get cheaper the shorter
the weights are. A `PrepackedWeight` takes the place of a parameter, and `torch.nn.functional.linear` calls its product:
no cell, score or readout has a second form for translating.

Shapes: ... any leading dimensions, M rows of them together, I inputs, O outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.kernels.linear import int8
from nmt.kernels.linear.onednn import PrepackedProduct, suits

FEWEST_OUTPUTS = 16
"""Of a product that is worth prepacking: below it is the vector of a score, and bound by its inputs."""


class PrepackedWeight(torch.Tensor):
    """A weight [O, I] whose products are computed in another format, and those of some of its outputs: `index_select`.

    Other operations see the weight as it was.
    """

    @staticmethod
    def __new__(cls, weight: Tensor) -> PrepackedWeight:
        prepacked: PrepackedWeight = torch.Tensor._make_subclass(cls, weight.detach())
        return prepacked

    def __reduce_ex__(self, protocol: Any) -> tuple[type[PrepackedWeight], tuple[Tensor]]:
        """Another process prepacks the weight again: oneDNN's layout cannot be sent."""
        return type(self), (self.as_subclass(torch.Tensor),)

    @abstractmethod
    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """Products [..., O] of inputs [..., I]."""

    @classmethod
    def suits(cls, weight_OI: Tensor) -> bool:
        """Whether products with few rows gain by prepacking this weight."""
        return len(weight_OI) >= FEWEST_OUTPUTS

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is torch.Tensor.index_select:
            # Every output has its own scale, so that a part is prepacked as the whole is.
            with torch._C.DisableTorchFunctionSubclass():
                rows = function(*arguments, **(keywords or {})).as_subclass(torch.Tensor)
            assert arguments[1] == 0, "outputs are selected"
            return type(arguments[0])(rows)
        if function is F.linear and not keywords and isinstance(arguments[1], PrepackedWeight):
            return arguments[1].product(arguments[0], arguments[2] if len(arguments) > 2 else None)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*arguments, **(keywords or {}))


class Fp32Weight(PrepackedWeight):
    """Products of float32, where oneDNN is faster than PyTorch."""

    def __init__(self, weight: Tensor) -> None:
        self.factor = PrepackedProduct(weight, few_rows=True)

    @classmethod
    def suits(cls, weight_OI: Tensor) -> bool:
        return super().suits(weight_OI) and suits(weight_OI, few_rows=True)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        return self.factor.product(inputs, bias)


class Bf16Weight(PrepackedWeight):
    """Products of bf16 with sums in float32, as autocast makes them, but for the cast of the weight at each one."""

    def __init__(self, weight: Tensor) -> None:
        self.factor = PrepackedProduct(weight.detach().to(torch.bfloat16), few_rows=True)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        return self.factor.product(inputs.to(torch.bfloat16), bias if bias is None else bias.to(torch.bfloat16))


class Int8Weight(PrepackedWeight):
    """Products of 8-bit integers in float32: a scale for every output and one for every row of the inputs.

    So a row does not depend on the others.
    """

    implementation: ClassVar[type[int8.Int8Product]] = int8.Int8Product

    def __init__(self, weight: Tensor) -> None:
        self.integers = self.implementation(weight)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        outputs_MO = self.integers.product(inputs.reshape(-1, inputs.shape[-1]).float(), bias)
        return outputs_MO.view(*inputs.shape[:-1], -1)


class OnednnInt8Weight(Int8Weight):
    """Products of 8-bit integers by oneDNN."""

    implementation = int8.OnednnInt8Product


class OnednnNativeInt8Weight(Int8Weight):
    """Products of 8-bit integers by oneDNN, between compiled kernels."""

    implementation = int8.OnednnNativeInt8Product


class NativeInt8Weight(Int8Weight):
    """Products of 8-bit integers by a compiled kernel."""

    implementation = int8.NativeInt8Product


def prepack(network: nn.Module, weight_class: type[PrepackedWeight]) -> None:
    """Replaces the weights of all products that gain by it, the embeddings' tables left out.

    The network then only translates: it is not trained any more, nor saved.
    """
    prepacked: dict[int, PrepackedWeight] = {}
    for module in network.modules():
        for name in _weight_names(module):
            weight: Tensor = getattr(module, name)
            if not weight_class.suits(weight):
                continue
            if id(weight) not in prepacked:
                prepacked[id(weight)] = weight_class(weight)
            del module._parameters[name]
            setattr(module, name, prepacked[id(weight)])


def has_prepacked_weights(layer: nn.RNNBase) -> bool:
    """Whether a recurrent layer has weights that its library cannot take."""
    return any(isinstance(weight, PrepackedWeight) for weights in layer.all_weights for weight in weights)


def _weight_names(module: nn.Module) -> list[str]:
    if isinstance(module, nn.Linear):
        return ["weight"]
    if isinstance(module, nn.RNNBase):
        return [name for names in module._all_weights for name in names if name.startswith("weight_")]
    return []
