"""Constant weights, prepacked once in the dtype of their products, for translation on a CPU.

A product with few rows is bound by reading its weights, one with many by arithmetic; a narrower dtype speeds up both.
A `PrepackedWeight` replaces a parameter, and `torch.nn.functional.linear` calls its product, so that no cell, score or
readout needs code of its own for translation.

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
"""Weights with fewer outputs are not prepacked: they are a score's vector, and bound by reading inputs."""


class PrepackedWeight(torch.Tensor):
    """A weight [O, I] whose products, also of outputs chosen by `index_select`, are computed in another dtype.

    All other operations read the weight in its own dtype.
    """

    @staticmethod
    def __new__(cls, weight: Tensor) -> PrepackedWeight:
        prepacked: PrepackedWeight = torch.Tensor._make_subclass(cls, weight.detach())
        return prepacked

    def __reduce_ex__(self, protocol: Any) -> tuple[type[PrepackedWeight], tuple[Tensor]]:
        """Pickles the plain weight, since oneDNN's layout cannot be pickled; unpickling prepacks it again."""
        return type(self), (self.as_subclass(torch.Tensor),)

    @abstractmethod
    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """Products [..., O] of inputs [..., I]."""

    @classmethod
    def suits(cls, weight_OI: Tensor) -> bool:
        """Returns whether prepacking this weight speeds up products with few rows."""
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
            # Each output has its own scale, so a selection is prepacked like the whole weight.
            with torch._C.DisableTorchFunctionSubclass():
                rows = function(*arguments, **(keywords or {})).as_subclass(torch.Tensor)
            assert arguments[1] == 0, "outputs are selected"
            return type(arguments[0])(rows)
        if function is F.linear and not keywords and isinstance(arguments[1], PrepackedWeight):
            return arguments[1].product(arguments[0], arguments[2] if len(arguments) > 2 else None)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*arguments, **(keywords or {}))


class Fp32Weight(PrepackedWeight):
    """float32 products with oneDNN, where it is faster than PyTorch."""

    def __init__(self, weight: Tensor) -> None:
        self.prepacked = PrepackedProduct(weight, few_rows=True)

    @classmethod
    def suits(cls, weight_OI: Tensor) -> bool:
        return super().suits(weight_OI) and suits(weight_OI, few_rows=True)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        return self.prepacked.product(inputs, bias)


class Bf16Weight(PrepackedWeight):
    """bf16 products with float32 sums, as with autocast, but with the weight cast once."""

    def __init__(self, weight: Tensor) -> None:
        self.prepacked = PrepackedProduct(weight.detach().to(torch.bfloat16), few_rows=True)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        return self.prepacked.product(inputs.to(torch.bfloat16), bias if bias is None else bias.to(torch.bfloat16))


class Int8Weight(PrepackedWeight):
    """8-bit integer products summed in float32, with a scale for every output and for every input row.

    Rows do not depend on each other.
    """

    implementation: ClassVar[type[int8.Int8Product]] = int8.Int8Product

    def __init__(self, weight: Tensor) -> None:
        self.integers = self.implementation(weight)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        outputs_MO = self.integers.product(inputs.reshape(-1, inputs.shape[-1]).float(), bias)
        return outputs_MO.view(*inputs.shape[:-1], -1)


class OnednnInt8Weight(Int8Weight):
    """8-bit integer products with oneDNN."""

    implementation = int8.OnednnInt8Product


class OnednnNativeInt8Weight(Int8Weight):
    """8-bit integer products with oneDNN; C kernels quantize and scale."""

    implementation = int8.OnednnNativeInt8Product


class NativeInt8Weight(Int8Weight):
    """8-bit integer products in C."""

    implementation = int8.NativeInt8Product


def prepack(network: nn.Module, weight_class: type[PrepackedWeight]) -> None:
    """Prepacks the weights of all linear and recurrent modules that gain by it; embedding tables are left as they are.

    The network can then neither be trained nor saved.
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
    """Returns whether a recurrent layer has weights that PyTorch's layers cannot use."""
    return any(isinstance(weight, PrepackedWeight) for weights in layer.all_weights for weight in weights)


def _weight_names(module: nn.Module) -> list[str]:
    if isinstance(module, nn.Linear):
        return ["weight"]
    if isinstance(module, nn.RNNBase):
        return [name for names in module._all_weights for name in names if name.startswith("weight_")]
    return []
