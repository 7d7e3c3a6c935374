"""Steps of a simple recurrence in C (rnn.h), and the gate inputs of all cells as C takes them.

Shapes: B sentences, R features, G gates x H.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from nmt.kernels.compiler import address, can_be_called, declare
from nmt.kernels.steps import GateInputs

_calls = declare({"rnn": "ppp", "rnn_backward": "sspppppsps"})


class NativeGateInputs(ctypes.Structure):
    """`GateInputs` of rnn.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "hidden")),
        *((name, c_void_p) for name in ("input", "more", "recurrent")),
        *((name, c_int64) for name in ("input_stride", "more_stride", "recurrent_stride")),
    )


def native_gates(gates: GateInputs, state_BH: Tensor) -> NativeGateInputs:
    """Returns gate inputs for a state of this shape."""
    input_BG, recurrent_BG, more_BG = gates
    return NativeGateInputs(
        *state_BH.shape,
        *(input_BG.data_ptr(), address(more_BG), recurrent_BG.data_ptr()),
        *(input_BG.stride(0), 0 if more_BG is None else more_BG.stride(0), recurrent_BG.stride(0)),
    )


def address_and_stride(rows: Tensor | None) -> tuple[int | None, int]:
    """Returns the address of the first row and the stride of rows."""
    return address(rows), 0 if rows is None else rows.stride(0)


def search_gates(from_input: Tensor, from_state: Tensor, state: Tensor) -> GateInputs | None:
    """Returns the gate inputs of a step from the halves [..., G]; None where C does not support them.

    C computes no gradients, and needs both halves in one dtype and of one shape.
    """
    is_supported = (
        can_be_called(from_input, from_state, state)
        and from_input.dtype == from_state.dtype
        and from_input.shape == from_state.shape
        and from_input.shape[:-1] == state.shape[:-1]
        and state.dtype == torch.promote_types(from_input.dtype, torch.float32)
    )
    if not is_supported:
        return None
    return GateInputs(from_input.contiguous().flatten(0, -2), from_state.contiguous().flatten(0, -2))


def rnn_forward(gates: GateInputs, after_BR: Tensor, copy_BR: Tensor | None) -> None:
    dtype = gates.input_BG.dtype
    # A result that has only the compute dtype is written as the copy.
    results = (None, after_BR) if after_BR.dtype == dtype and copy_BR is None else (after_BR, copy_BR)
    _calls(dtype).rnn(ctypes.byref(native_gates(gates, after_BR)), *map(address, results))


def rnn_backward(
    after_BR: Tensor, d_after_BR: Tensor, pending_BR: Tensor | None, d_gates_BR: Tensor, d_gates_copy_BR: Tensor | None
) -> None:
    results = (after_BR, None) if after_BR.dtype == d_after_BR.dtype else (None, after_BR)
    _calls(d_gates_BR.dtype).rnn_backward(
        *(*after_BR.shape, *map(address, results), d_after_BR.data_ptr(), address(pending_BR)),
        *(*address_and_stride(d_gates_BR), *address_and_stride(d_gates_copy_BR)),
    )
