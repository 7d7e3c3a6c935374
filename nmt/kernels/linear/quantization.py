"""Constant weights, prepacked once in the dtype of their products, for translation on a CPU.

A product with few rows is bound by reading its weights, one with many by arithmetic; a narrower dtype speeds up both.
A `PrepackedWeight` replaces a parameter, and `torch.nn.functional.linear` calls its product, so that no cell, score or
readout needs code of its own for translation.

All implementations of 8-bit integers compute the same integers and exact sums, whatever the order of additions.

    x W' = s_x (q_x q_W') s_W   with   q = round(x / s)   and   s = max |x| / 127

Shapes: ... any leading dimensions, M rows of them together, I inputs, O outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.kernels.compiler import address, declare
from nmt.kernels.linear.onednn import PrepackedProduct, suits

_calls = declare({"quantize": "ssppp", "dequantize": "ssppppp", "integer_product": "sssppppp"})

LARGEST = 127
"""The largest integer."""
FLOAT32_INPUTS = 2**24 // LARGEST**2
"""Number of integer products whose sum is exact in float32."""
PANEL = 16
"""Outputs of a panel of the weight (int8.h)."""
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

    tables = False
    """Whether embedding tables are prepacked as well."""

    def __reduce_ex__(self, protocol: Any) -> tuple[type[PrepackedWeight], tuple[Tensor, ...]]:
        """Pickles the plain weight, since oneDNN's layout cannot be pickled; unpickling prepacks it again."""
        return type(self), (self.as_subclass(torch.Tensor),)

    def select_outputs(self, outputs_P: Tensor) -> PrepackedWeight:
        """Returns the weight of these outputs, prepacked."""
        return type(self)(self.as_subclass(torch.Tensor).index_select(0, outputs_P))

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
            weight, dimension, outputs_P = arguments
            assert dimension == 0, "outputs are selected"
            return weight.select_outputs(outputs_P)
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
    """8-bit integer products, with a scale for every output and for every input row. Rows do not depend on each other.

    Other operations, such as the lookup of an embedding, read the rounded weight: integers times scale.

    The reference: sums are computed in float32, in parts small enough to be exact.
    """

    tables = True

    @staticmethod
    def __new__(cls, weight: Tensor, scale_O: Tensor | None = None) -> Int8Weight:
        rounded: Any = PrepackedWeight.__new__(
            cls, torch.empty_like(weight, dtype=torch.float32) if scale_O is None else weight
        )
        return cast("Int8Weight", rounded)

    def __init__(self, weight: Tensor, scale_O: Tensor | None = None) -> None:
        """With `scale_O` the weight is one that was rounded before, and stays as it is to the bit."""
        integers_OI, self._scale_O = quantize(weight.detach().float(), scale_O)
        if scale_O is None:
            torch.mul(integers_OI, self._scale_O.unsqueeze(1), out=self.as_subclass(torch.Tensor))
        self._store(integers_OI)

    def __reduce_ex__(self, protocol: Any) -> tuple[type[PrepackedWeight], tuple[Tensor, ...]]:
        return type(self), (self.as_subclass(torch.Tensor), self._scale_O)

    def select_outputs(self, outputs_P: Tensor) -> PrepackedWeight:
        weight_PI = self.as_subclass(torch.Tensor).index_select(0, outputs_P)
        return type(self)(weight_PI, self._scale_O.index_select(0, outputs_P))

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        outputs_MO = self._product(inputs.reshape(-1, inputs.shape[-1]).float(), bias)
        return outputs_MO.view(*inputs.shape[:-1], -1)

    def _product(self, rows_MI: Tensor, bias_O: Tensor | None) -> Tensor:
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


class OnednnInt8Weight(Int8Weight):
    """Computes the sums with oneDNN, which is fast only with AVX512-VNNI."""

    def _store(self, integers_OI: Tensor) -> None:
        self._integers_IO = _row_by_row(integers_OI.t())

    def _sums(self, integers_MI: Tensor) -> Tensor:
        return torch._int_mm(_row_by_row(integers_MI), self._integers_IO)


class OnednnNativeInt8Weight(OnednnInt8Weight):
    """Computes the sums with oneDNN; C kernels quantize the rows and scale the sums."""

    def _product(self, rows_MI: Tensor, bias_O: Tensor | None) -> Tensor:
        integers_MI, scale_M = native_quantize(rows_MI)
        sums_MO, bias_O = self._sums(integers_MI).contiguous(), None if bias_O is None else bias_O.contiguous()
        outputs_MO = torch.empty_like(sums_MO, dtype=torch.float32)
        tensors = (sums_MO, scale_M, self._scale_O, bias_O, outputs_MO)
        _calls(torch.float32).dequantize(*sums_MO.shape, *map(address, tensors))
        return outputs_MO


class NativeInt8Weight(Int8Weight):
    """Quantizes, sums and scales in one C kernel (int8.h)."""

    def _product(self, rows_MI: Tensor, bias_O: Tensor | None) -> Tensor:
        rows_MI, bias_O = rows_MI.contiguous(), None if bias_O is None else bias_O.contiguous()
        outputs_MO = rows_MI.new_empty(len(rows_MI), len(self._scale_O))
        tensors = (rows_MI, self._panels, self._scale_O, bias_O, outputs_MO)
        _calls(torch.float32).integer_product(*rows_MI.shape, len(self._scale_O), *map(address, tensors))
        return outputs_MO

    def _store(self, integers_OI: Tensor) -> None:
        # Pads the last panel with zeros.
        outputs, inputs = integers_OI.shape
        padded = F.pad(integers_OI, (0, inputs % 2, 0, -outputs % PANEL))
        self._panels = padded.view(-1, PANEL, (inputs + 1) // 2, 2).transpose(1, 2).contiguous()


def quantize(weight_OI: Tensor, scale_O: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns 8-bit integers of a float32 weight, and the scale [O] of each row; a given scale is kept."""
    scale_O1 = _scale(weight_OI) if scale_O is None else scale_O.unsqueeze(1)
    return (weight_OI / scale_O1).round_().to(torch.int8), scale_O1.squeeze(1)


def native_quantize(rows_MI: Tensor) -> tuple[Tensor, Tensor]:
    """Returns 8-bit integers of float32 rows, and the scale [M] of each row."""
    rows_MI = rows_MI.contiguous()
    integers_MI, scale_M = torch.empty_like(rows_MI, dtype=torch.int8), rows_MI.new_empty(len(rows_MI))
    _calls(torch.float32).quantize(*rows_MI.shape, rows_MI.data_ptr(), integers_MI.data_ptr(), scale_M.data_ptr())
    return integers_MI, scale_M


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


def prepack(
    network: nn.Module, weight_class: type[PrepackedWeight], scales: Mapping[str, Tensor] | None = None
) -> None:
    """Prepacks the weights of all linear and recurrent modules that gain by it, and embedding tables in int8.

    `scales` are those of weights that were rounded to 8 bits before, by name. The network can then neither be trained
    nor saved.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    prepacked: dict[int, PrepackedWeight] = {}
    build: Callable[..., PrepackedWeight] = weight_class
    for module, name, weight in list(_weights_of(network, weight_class)):
        if id(weight) not in prepacked:
            scale_O = (scales or {}).get(names[id(weight)])
            prepacked[id(weight)] = build(weight) if scale_O is None else build(weight, scale_O)
        del module._parameters[name]
        setattr(module, name, prepacked[id(weight)])


def names_to_prepack(network: nn.Module, weight_class: type[PrepackedWeight]) -> list[str]:
    """Returns the names of the parameters that `prepack` replaces; a tied one has its first name."""
    ids = {id(weight) for _, _, weight in _weights_of(network, weight_class)}
    return [name for name, parameter in network.named_parameters() if id(parameter) in ids]


def has_prepacked_weights(layer: nn.RNNBase) -> bool:
    """Returns whether a recurrent layer has weights that PyTorch's layers cannot use."""
    return any(isinstance(weight, PrepackedWeight) for weights in layer.all_weights for weight in weights)


def _weights_of(network: nn.Module, weight_class: type[PrepackedWeight]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yields module, attribute and tensor of each weight to prepack; a tied one once for each of its modules."""
    for module in network.modules():
        names: list[str] = []
        if isinstance(module, nn.Linear) or (weight_class.tables and isinstance(module, nn.Embedding)):
            names = ["weight"]
        elif isinstance(module, nn.RNNBase):
            names = [name for layer in module._all_weights for name in layer if name.startswith("weight_")]
        yield from ((module, name, weight) for name in names if weight_class.suits(weight := getattr(module, name)))
