"""The steps of recurrent cells, forward and backward, as the equations stand.

They write where they are told, and gradients are added up in at least single precision.

Shapes: B sentences, H hidden, G gates x H, R features. The parts of what enters a cell, with their gradients, may be
parts of wider tensors, features side by side; everything else lies in one piece.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nmt.kernels.gates import gru_step, lstm_step


class Entering(NamedTuple):
    """What enters a cell: pre-activations [B, G] of its gates in two parts or three, whose sum they are."""

    input_BG: Tensor
    """The input's half."""
    recurrent_BG: Tensor
    """The half of the state before."""
    more_BG: Tensor | None = None
    """What else belongs to the input's half."""

    def input(self, dtype: torch.dtype) -> Tensor:
        """The input's half in this format."""
        input_BG = self.input_BG.to(dtype)
        return input_BG if self.more_BG is None else input_BG + self.more_BG.to(dtype)

    def total(self, dtype: torch.dtype) -> Tensor:
        """The sum of all in this format."""
        return self.input(dtype) + self.recurrent_BG.to(dtype)


class CellSteps:
    """The reference; what runs the same faster derives from it.

    A state after a step is written to `after_BH` in the format of states and, with `copy_BH`, in that of products as
    well. Its gradient comes in two parts, `d_after_BH` and, in the format of products, `sent_BH`.
    """

    def gru(self, entering: Entering, before_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None) -> None:
        """The state after a step of a gated recurrent unit (`gates.gru_step`)."""
        dtype = after_BH.dtype
        _write(gru_step(entering.input(dtype), entering.recurrent_BG.to(dtype), before_BH), after_BH, copy_BH)

    def gru_backward(
        self,
        entering: Entering,
        before_BH: Tensor,
        d_after_BH: Tensor,
        sent_BH: Tensor | None,
        d_input_BG: Tensor,
        d_recurrent_BG: Tensor,
        d_before_BH: Tensor,
    ) -> None:
        """The gradients of both halves, written, and of the state before, added to what is there."""
        dtype, hidden = before_BH.dtype, before_BH.shape[1]
        input_BG, recurrent_BG = entering.input(dtype), entering.recurrent_BG.to(dtype)
        reset, update = torch.sigmoid(input_BG[:, : 2 * hidden] + recurrent_BG[:, : 2 * hidden]).chunk(2, dim=1)
        recurrent_n = recurrent_BG[:, 2 * hidden :]
        candidate = torch.tanh(torch.addcmul(input_BG[:, 2 * hidden :], reset, recurrent_n))
        d_after = _total(d_after_BH, sent_BH)
        d_candidate = d_after * (1 - update) * (1 - candidate.square())
        d_update = d_after * (before_BH - candidate) * update * (1 - update)
        d_reset = d_candidate * recurrent_n * reset * (1 - reset)
        d_input_BG.copy_(torch.cat([d_reset, d_update, d_candidate], 1))
        d_recurrent_BG.copy_(torch.cat([d_reset, d_update, d_candidate * reset], 1))
        d_before_BH += d_after * update

    def lstm(
        self, entering: Entering, cell_BH: Tensor, after_cell_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None
    ) -> None:
        """The cell, in the format of states, and the output after a step of a long short-term memory
        (`gates.lstm_step`)."""
        dtype = cell_BH.dtype
        output_BH, new_BH = lstm_step(entering.input(dtype), entering.recurrent_BG.to(dtype), cell_BH)
        after_cell_BH.copy_(new_BH)
        _write(output_BH, after_BH, copy_BH)

    def lstm_backward(
        self,
        entering: Entering,
        cell_BH: Tensor,
        after_cell_BH: Tensor,
        d_after_BH: Tensor,
        sent_BH: Tensor | None,
        d_after_cell_BH: Tensor,
        d_one_BG: Tensor,
        d_other_BG: Tensor | None,
        d_cell_BH: Tensor,
    ) -> None:
        """The gradient of what enters, which is the same for all its parts, written to one place or two, and that of
        the cell before, added to what is there."""
        total_BG = entering.total(cell_BH.dtype)
        entry, forget, candidate, output = total_BG.chunk(4, dim=1)
        entry, forget, output = torch.sigmoid(entry), torch.sigmoid(forget), torch.sigmoid(output)
        candidate, seen = torch.tanh(candidate), torch.tanh(after_cell_BH)
        d_after = _total(d_after_BH, sent_BH)
        d_cell = d_after_cell_BH + d_after * output * (1 - seen.square())
        d_gates = (
            d_cell * candidate * entry * (1 - entry),
            d_cell * cell_BH * forget * (1 - forget),
            d_cell * entry * (1 - candidate.square()),
            d_after * seen * output * (1 - output),
        )
        _write(torch.cat(d_gates, 1), d_one_BG, d_other_BG)
        d_cell_BH += d_cell * forget

    def mix(self, entering: Entering, mixed_BR: Tensor, copy_BR: Tensor | None) -> None:
        """tanh of the sum: a step of a simple recurrence (`gates.rnn_step`), or a mixture of two products."""
        _write(torch.tanh(entering.total(torch.promote_types(mixed_BR.dtype, torch.float32))), mixed_BR, copy_BR)

    def mix_backward(
        self,
        mixed_BR: Tensor,
        d_mixed_BR: Tensor,
        sent_BR: Tensor | None,
        d_one_BR: Tensor,
        d_other_BR: Tensor | None,
    ) -> None:
        """The gradient of what enters, which is the same for all its parts, written to one place or two."""
        _write(_total(d_mixed_BR, sent_BR) * (1 - mixed_BR.to(d_mixed_BR.dtype).square()), d_one_BR, d_other_BR)


def _write(values: Tensor, one: Tensor, other: Tensor | None) -> None:
    one.copy_(values)
    if other is not None:
        other.copy_(values)


def _total(one: Tensor, other: Tensor | None) -> Tensor:
    return one if other is None else one + other
