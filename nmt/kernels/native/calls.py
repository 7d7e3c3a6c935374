"""The C kernels as Python calls them, for one format of products."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float, c_int, c_int64, c_uint64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nmt.kernels.native.build import load

FORMATS = {torch.float32: "float", torch.bfloat16: "bf16", torch.float64: "double"}
"""Suffix of the kernels by the format of products."""

SIGNATURES = {
    "look": "pp",
    "look_backward": "ppppppsspi",
    "keys_backward": "pppp",
    "gru": "pppp",
    "gru_backward": "pppppspsp",
    "lstm": "ppppp",
    "lstm_backward": "pppppppspsp",
    "mix": "ppp",
    "mix_backward": "sspppppsps",
    "packed": "psssppppp",
    "packed_backward": "psssspppp",
    "loss": "sspppeppi",
    "column_sums": "sspp",
    "scores": "sssspppp",
    "log_softmax": "sspp",
    "dropout": "spseppp",
    "dropout_backward": "seppp",
}
"""Arguments in the order of kernels.h, cells.h and dropout.h: addresses, sizes, an exact number, truth."""

SINGLE_SIGNATURES = {
    "quantize": "ssppp",
    "dequantize": "ssppppp",
    "integer_product": "sssppppp",
    "draw": "usp",
}
"""Of the kernels of kernels.c and integers.h that have but one format; a key beside what others take."""


class Looking(ctypes.Structure):
    """Of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("queries", "sentences", "positions", "units", "features")),
        *(("query", c_void_p), ("query_of", c_int64), ("query_in", c_int64)),
        *(("keys", c_void_p), ("keys_in", c_int64), ("keys_at", c_int64)),
        *(("memory", c_void_p), ("memory_in", c_int64), ("memory_at", c_int64)),
        *((name, c_void_p) for name in ("bias", "energy", "scores", "normalizer")),
    )


class Entering(ctypes.Structure):
    """Of cells.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "hidden")),
        *((name, c_void_p) for name in ("input", "more", "recurrent")),
        *((name, c_int64) for name in ("input_in", "more_in", "recurrent_in")),
    )


class Packed(ctypes.Structure):
    """Of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("directions", "elements", "hidden")),
        *((name, c_void_p) for name in ("mirrored", "sigmoids", "entries", "candidates", "outputs")),
    )


class Calls:
    """The kernels of one format, by name. They take addresses, and look at nothing else of a tensor."""

    def __init__(self, dtype: torch.dtype) -> None:
        library, why = load()
        assert library is not None, why
        exact = c_double if dtype == torch.float64 else c_float
        kinds = {"p": c_void_p, "s": c_int64, "u": c_uint64, "i": c_int, "e": exact}
        named = {f"{name}_{FORMATS[dtype]}": (name, signature) for name, signature in SIGNATURES.items()}
        named |= {name: (name, signature) for name, signature in SINGLE_SIGNATURES.items()}
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
    return Calls(dtype)


def address(tensor: Tensor | None) -> int | None:
    """Of its first element."""
    return None if tensor is None else tensor.data_ptr()
