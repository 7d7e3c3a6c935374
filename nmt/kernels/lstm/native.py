"""Steps of a long short-term memory in C (lstm.h)."""

from __future__ import annotations

from nmt.kernels.compiler import search_step, step_kernel
from nmt.kernels.lstm import reference

lstm_forward = step_kernel("lstm", "cell after_cell after copy")
lstm_backward = step_kernel(
    "lstm_backward", "cell after_cell d_after pending d_after_cell d_gates+ d_gates_copy+ d_cell"
)
lstm_step = search_step(lstm_forward, reference.lstm_step)
