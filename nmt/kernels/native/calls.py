"""The C kernels as Python calls them, for one format of products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ctypes import c_double, c_float, c_int, c_int64, c_uint64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nmt.kernels.native.build import load

FORMATS = {torch.float32: "float", torch.bfloat16: "bf16", torch.float64: "double"}
"""Suffix of the kernels by the format of products."""

SIGNATURES = {
    "loss": "sspppeppi",
    "column_sums": "sspp",
    "scores": "sssspppp",
    "log_softmax": "sspp",
    "dropout": "spseppp",
    "dropout_backward": "seppp",
}
"""Arguments in the order of kernels.h, attention.h and dropout.h: addresses, sizes, an exact number, truth."""

SINGLE_SIGNATURES = {
    "quantize": "ssppp",
    "dequantize": "ssppppp",
    "integer_product": "sssppppp",
    "draw": "usp",
}
"""Of the kernels of kernels.c and int8.h that have but one format; a key beside what others take."""


class Calls:
    """The kernels of one format, by name. They take addresses, and look at nothing else of a tensor."""

    def __init__(
        self, dtype: torch.dtype, signatures: Mapping[str, str], single_signatures: Mapping[str, str] | None = None
    ) -> None:
        library, why = load()
        assert library is not None, why
        exact = c_double if dtype == torch.float64 else c_float
        kinds = {"p": c_void_p, "s": c_int64, "u": c_uint64, "i": c_int, "e": exact}
        named = {f"{name}_{FORMATS[dtype]}": (name, signature) for name, signature in signatures.items()}
        named |= {name: (name, signature) for name, signature in (single_signatures or {}).items()}
        self._functions: dict[str, Any] = {}
        for symbol, (name, signature) in named.items():
            function = getattr(library, symbol)
            function.argtypes, function.restype = [kinds[kind] for kind in signature], None
            self._functions[name] = function

    def __getattr__(self, name: str) -> Any:
        return self._functions[name]


def can_be_called(*tensors: Tensor) -> bool:
    """Whether the kernels are there, take numbers of this format, and no gradient is wanted of them."""
    return not torch.is_grad_enabled() and all(
        tensor.device.type == "cpu" and are_there(tensor.dtype) for tensor in tensors
    )


def are_there(dtype: torch.dtype) -> bool:
    """Whether there are kernels for products of this format."""
    return dtype in FORMATS and load()[0] is not None


@cache
def calls(dtype: torch.dtype) -> Calls:
    """The kernels for products of this format."""
    return Calls(dtype, SIGNATURES, SINGLE_SIGNATURES)


def declare(signatures: Mapping[str, str]) -> Callable[[torch.dtype], Calls]:
    """Returns a function to the kernels with these signatures for a compute dtype."""

    @cache
    def declared(dtype: torch.dtype) -> Calls:
        return Calls(dtype, signatures)

    return declared


def address(tensor: Tensor | None) -> int | None:
    """Of its first element."""
    return None if tensor is None else tensor.data_ptr()
