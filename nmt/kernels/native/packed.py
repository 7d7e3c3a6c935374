"""A gated recurrent layer over packed rows, its steps by compiled kernels (kernels.h).

Shapes as in `kernels.packed`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.kernels.native.calls import Packed, address, calls
from nmt.kernels.packed import Packing, before_each, by_direction
from nmt.kernels.products import Factors


def compiled_gru(gates_PG: Tensor, recurrent_DGH: Tensor, biases_DG: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """As `packed.gru_by_hand`."""
    found: tuple[Tensor, Tensor] = _CompiledGru.apply(  # type: ignore[no-untyped-call]
        gates_PG, recurrent_DGH, biases_DG, packing
    )
    return found


class _CompiledGru(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gates_PG: Tensor, recurrent_DGH: Tensor, biases_DG: Tensor, packing: Packing
    ) -> tuple[Tensor, Tensor]:
        elements, (directions, _, hidden) = len(gates_PG), recurrent_DGH.shape
        short, exact = recurrent_DGH.dtype, biases_DG.dtype
        assert gates_PG.device.type == "cpu"
        gates_PG = gates_PG.to(short).contiguous()
        sigmoids_DPG = biases_DG.new_empty(directions, elements, 2 * hidden)
        entries_DPH, candidates_DPH, outputs_DPH = biases_DG.new_empty(3, directions, elements, hidden).unbind(0)
        factors_DPH = outputs_DPH if short == exact else torch.empty_like(outputs_DPH, dtype=short)
        outputs_PC = biases_DG.new_empty(elements, directions * hidden)
        kept = (sigmoids_DPG, entries_DPH, candidates_DPH, outputs_DPH)
        packed, kernels = _packed(packing, *kept), calls(short)
        factors = Factors(recurrent_DGH)
        short_biases_DG = biases_DG.to(short)
        sent: tuple[Tensor, ...] = ()
        for first, rows, before in _steps(packing):
            if first:
                sent = factors.products(factors_DPH[:, before : before + rows], short_biases_DG)
            kernels.packed(
                *(ctypes.byref(packed), first, rows, before, gates_PG.data_ptr(), _addresses(sent)),
                *(biases_DG.data_ptr(), None if short == exact else factors_DPH.data_ptr(), outputs_PC.data_ptr()),
            )
        ctx.save_for_backward(recurrent_DGH, *kept, factors_DPH)
        ctx.packing = packing
        return outputs_PC, outputs_DPH.index_select(1, packing.last_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs_PC: Tensor, d_finals_DRH: Tensor) -> tuple[Tensor | None, ...]:
        recurrent_DGH, *kept, factors_DPH = ctx.saved_tensors
        packing: Packing = ctx.packing
        directions, gates, _ = recurrent_DGH.shape
        short, exact = recurrent_DGH.dtype, kept[-1].dtype
        total_DPH = by_direction(d_outputs_PC, directions, packing, exact)
        total_DPH.index_add_(1, packing.last_R, d_finals_DRH)
        elements = total_DPH.shape[1]
        d_recurrent_DPG = total_DPH.new_empty(directions, elements, gates, dtype=short)
        d_gates_PG = total_DPH.new_empty(elements, directions * gates, dtype=short)
        packed, kernels = _packed(packing, *kept), calls(short)
        factors = Factors(recurrent_DGH.transpose(1, 2))
        sent: tuple[Tensor, ...] = ()
        rows_after = 0
        for first, rows, before in reversed(list(_steps(packing))):
            if rows_after:
                after = first + rows
                sent = factors.products(d_recurrent_DPG[:, after : after + rows_after])
            kernels.packed_backward(
                *(ctypes.byref(packed), first, rows, before, rows_after, _addresses(sent)),
                *(total_DPH.data_ptr(), d_recurrent_DPG.data_ptr(), d_gates_PG.data_ptr()),
            )
            rows_after = rows
        weights_DGH = d_recurrent_DPG.transpose(1, 2) @ before_each(factors_DPH, packing)
        return d_gates_PG, weights_DGH, d_recurrent_DPG.sum(1, dtype=exact), None


def _steps(packing: Packing) -> Iterator[tuple[int, int, int]]:
    """The first element of each step, how many there are, and the first of the step before."""
    first = before = 0
    for rows in packing.sizes_T.tolist():
        yield first, rows, before
        first, before = first + rows, first


def _packed(packing: Packing, sigmoids_DPG: Tensor, *kept_DPH: Tensor) -> Packed:
    directions, elements, hidden = kept_DPH[0].shape
    mirrored = packing.mirrored_P if directions == 2 else None
    addresses = (address(mirrored), sigmoids_DPG.data_ptr(), *(each.data_ptr() for each in kept_DPH))
    return Packed(directions, elements, hidden, *addresses)


def _addresses(tensors: tuple[Tensor, ...]) -> Any:
    return (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
