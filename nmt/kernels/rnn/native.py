"""Steps of a simple recurrence in C (rnn.h).

Shapes: B sentences, R features.
"""

from __future__ import annotations

from torch import Tensor

from nmt.kernels.compiler import address, declare, native_gates
from nmt.kernels.steps import GateInputs

_calls = declare({"rnn": "ppp", "rnn_backward": "sspppppsps"})


def rnn_forward(gates: GateInputs, after_BR: Tensor, copy_BR: Tensor | None) -> None:
    dtype = gates.input_BG.dtype
    # A result that has only the compute dtype is written as the copy.
    results = (None, after_BR) if after_BR.dtype == dtype and copy_BR is None else (after_BR, copy_BR)
    _calls(dtype).rnn(native_gates(gates, after_BR), *map(address, results))


def rnn_backward(
    after_BR: Tensor, d_after_BR: Tensor, pending_BR: Tensor | None, d_gates_BR: Tensor, d_gates_copy_BR: Tensor | None
) -> None:
    results = (after_BR, None) if after_BR.dtype == d_after_BR.dtype else (None, after_BR)
    addresses = map(address, (*results, d_after_BR, pending_BR))
    copy, copy_stride = (0, 0) if d_gates_copy_BR is None else (d_gates_copy_BR.data_ptr(), d_gates_copy_BR.stride(0))
    d_gates = (d_gates_BR.data_ptr(), d_gates_BR.stride(0))
    _calls(d_gates_BR.dtype).rnn_backward(*after_BR.shape, *addresses, *d_gates, copy, copy_stride)
