"""A translator whose weights are constant and short: for translating on a CPU."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nmt.kernels.packed_weights import Bf16Weight, Fp32Weight, Int8Weight, PackedWeight
from nmt.kernels.products import suits

Format = Literal["fp32", "bf16", "int8"]

FORMATS: dict[Format, type[PackedWeight]] = {"fp32": Fp32Weight, "bf16": Bf16Weight, "int8": Int8Weight}
FEWEST_OUTPUTS = 16
"""Of a product that is worth packing: below it is the vector of a score, and bound by its inputs."""


def pack(network: nn.Module, kind: Format) -> None:
    """Put packed weights in the place of those of all products but the smallest, and the embeddings' tables.

    In float32 only those that oneDNN multiplies faster than PyTorch: elsewhere there is nothing to gain.

    The network then only translates: it is not trained any more, nor saved.
    """
    packed: dict[int, PackedWeight] = {}
    for module in network.modules():
        for name in _products(module):
            weight: Tensor = getattr(module, name)
            if len(weight) < FEWEST_OUTPUTS or (kind == "fp32" and not suits(weight, few_rows=True)):
                continue
            if id(weight) not in packed:
                packed[id(weight)] = FORMATS[kind](weight)
            del module._parameters[name]
            setattr(module, name, packed[id(weight)])


def is_packed(layer: nn.RNNBase) -> bool:
    """Whether a recurrent layer has weights that its library cannot take."""
    return any(isinstance(weight, PackedWeight) for weights in layer.all_weights for weight in weights)


def _products(module: nn.Module) -> list[str]:
    if isinstance(module, nn.Linear):
        return ["weight"]
    if isinstance(module, nn.RNNBase):
        return [name for names in module._all_weights for name in names if name.startswith("weight_")]
    return []
