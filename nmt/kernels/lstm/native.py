"""Steps of a long short-term memory in C (lstm.h).

Shapes: B sentences, H hidden, G = 4 x H gates.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from nmt.kernels.compiler import address, address_and_stride, declare, native_gates, search_gates
from nmt.kernels.lstm import reference
from nmt.kernels.steps import GateInputs

_calls = declare({"lstm": "ppppp", "lstm_backward": "pppppppspsp"})


def lstm_step(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Computes a step without gradients; falls back to the reference where C does not support it."""
    gates = search_gates(from_input, from_state, state[1])
    if gates is None:
        return reference.lstm_step(from_input, from_state, state)
    cell_BH = state[1].contiguous().flatten(0, -2)
    after_BH, after_cell_BH = torch.empty_like(cell_BH), torch.empty_like(cell_BH)
    lstm_forward(gates, cell_BH, after_cell_BH, after_BH, None)
    return after_BH.view(state[1].shape), after_cell_BH.view(state[1].shape)


def lstm_forward(
    gates: GateInputs, cell_BH: Tensor, after_cell_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None
) -> None:
    _calls(gates.input_BG.dtype).lstm(
        *(ctypes.byref(native_gates(gates, cell_BH)), cell_BH.data_ptr(), after_cell_BH.data_ptr()),
        *(after_BH.data_ptr(), address(copy_BH)),
    )


def lstm_backward(
    gates: GateInputs,
    cell_BH: Tensor,
    after_cell_BH: Tensor,
    d_after_BH: Tensor,
    pending_BH: Tensor | None,
    d_after_cell_BH: Tensor,
    d_gates_BG: Tensor,
    d_gates_copy_BG: Tensor | None,
    d_cell_BH: Tensor,
) -> None:
    _calls(gates.input_BG.dtype).lstm_backward(
        *(ctypes.byref(native_gates(gates, cell_BH)), cell_BH.data_ptr(), after_cell_BH.data_ptr()),
        *(d_after_BH.data_ptr(), address(pending_BH), d_after_cell_BH.data_ptr()),
        *(*address_and_stride(d_gates_BG), *address_and_stride(d_gates_copy_BG), d_cell_BH.data_ptr()),
    )
