"""A gated recurrent unit in C (gru.h): its steps, and layers over packed rows.

Shapes: B sentences, H hidden, G = 3 x H gates. Of layers: D directions, P elements in packed order, R rows of a step or
of the first, C = D x H outputs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.kernels.compiler import address, declare, search_step, step_kernel
from nmt.kernels.gru import reference
from nmt.kernels.linear.onednn import PrepackedProducts, bias_gradient, weight_gradient
from nmt.kernels.packed import Packing, before_each, by_direction

_calls = declare({"packed_gru": "psssppppp", "packed_gru_backward": "psssspppp"})

gru_forward = step_kernel("gru", "before after copy")
gru_backward = step_kernel("gru_backward", "before d_after pending d_input+ d_recurrent+ d_before")
gru_step = search_step(gru_forward, reference.gru_step)


def gru_layer(gates_PG: Tensor, recurrent_DGH: Tensor, biases_DG: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Runs a layer over packed rows (`packed.PackedGru`); returns its outputs [P, C] and last states [D, R, H].

    Both directions run in the same steps, and the gradients of the weights are one product each at the end.
    """
    outputs: tuple[Tensor, Tensor] = _GruLayer.apply(gates_PG, recurrent_DGH, biases_DG, packing)  # type: ignore[no-untyped-call]
    return outputs


class _GruLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gates_PG: Tensor, recurrent_DGH: Tensor, biases_DG: Tensor, packing: Packing
    ) -> tuple[Tensor, Tensor]:
        elements, (directions, _, hidden) = len(gates_PG), recurrent_DGH.shape
        compute_dtype, accumulation_dtype = recurrent_DGH.dtype, biases_DG.dtype
        assert gates_PG.device.type == "cpu"
        gates_PG = gates_PG.to(compute_dtype).contiguous()
        sigmoids_DPG = biases_DG.new_empty(directions, elements, 2 * hidden)
        entries_DPH, candidates_DPH, outputs_DPH = biases_DG.new_empty(3, directions, elements, hidden).unbind(0)
        is_one = compute_dtype == accumulation_dtype
        operands_DPH = outputs_DPH if is_one else torch.empty_like(outputs_DPH, dtype=compute_dtype)
        outputs_PC = biases_DG.new_empty(elements, directions * hidden)
        saved = (sigmoids_DPG, entries_DPH, candidates_DPH, outputs_DPH)
        packed, kernels = _packed(packing, *saved), _calls(compute_dtype)
        weights = PrepackedProducts(recurrent_DGH)
        compute_biases_DG = biases_DG.to(compute_dtype)
        recurrent_halves: tuple[Tensor, ...] = ()
        for first, rows, before in _steps(packing):
            if first:
                recurrent_halves = weights.product(operands_DPH[:, before : before + rows], compute_biases_DG)
            kernels.packed_gru(
                *(packed, first, rows, before, gates_PG.data_ptr(), _addresses(recurrent_halves)),
                *(biases_DG.data_ptr(), None if is_one else operands_DPH.data_ptr(), outputs_PC.data_ptr()),
            )
        ctx.save_for_backward(recurrent_DGH, *saved, operands_DPH)
        ctx.packing = packing
        return outputs_PC, outputs_DPH.index_select(1, packing.last_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs_PC: Tensor, d_finals_DRH: Tensor) -> tuple[Tensor | None, ...]:
        recurrent_DGH, *saved, operands_DPH = ctx.saved_tensors
        packing: Packing = ctx.packing
        directions, gates, _ = recurrent_DGH.shape
        compute_dtype = recurrent_DGH.dtype
        d_states_DPH = by_direction(d_outputs_PC, directions, packing)
        d_states_DPH.index_add_(1, packing.last_R, d_finals_DRH)
        elements = d_states_DPH.shape[1]
        d_recurrent_DPG = d_states_DPH.new_empty(directions, elements, gates, dtype=compute_dtype)
        d_gates_PG = d_states_DPH.new_empty(elements, directions * gates, dtype=compute_dtype)
        packed, kernels = _packed(packing, *saved), _calls(compute_dtype)
        weights = PrepackedProducts(recurrent_DGH.transpose(1, 2))
        pending: tuple[Tensor, ...] = ()
        rows_after = 0
        for first, rows, before in reversed(list(_steps(packing))):
            if rows_after:
                after = first + rows
                pending = weights.product(d_recurrent_DPG[:, after : after + rows_after])
            kernels.packed_gru_backward(
                *(packed, first, rows, before, rows_after, _addresses(pending)),
                *(d_states_DPH.data_ptr(), d_recurrent_DPG.data_ptr(), d_gates_PG.data_ptr()),
            )
            rows_after = rows
        d_weights_DGH = weight_gradient(d_recurrent_DPG, before_each(operands_DPH, packing))
        d_biases_DG = torch.stack([bias_gradient(d_recurrent_PG) for d_recurrent_PG in d_recurrent_DPG])
        return d_gates_PG, d_weights_DGH, d_biases_DG, None


def _steps(packing: Packing) -> Iterator[tuple[int, int, int]]:
    """Yields for each step its first element, its number of rows, and the first element of the step before."""
    first = before = 0
    for rows in packing.sizes_T.tolist():
        yield first, rows, before
        first, before = first + rows, first


def _packed(packing: Packing, sigmoids_DPG: Tensor, *saved_DPH: Tensor) -> bytes:
    """Returns `Packed` of gru.h."""
    directions, elements, hidden = saved_DPH[0].shape
    mirrored = packing.mirrored_P if directions == 2 else None
    addresses = map(address, (mirrored, sigmoids_DPG, *saved_DPH))
    return struct.pack("3q5P", directions, elements, hidden, *addresses)


def _addresses(tensors: tuple[Tensor, ...]) -> bytes:
    return struct.pack(f"{len(tensors)}P", *map(address, tensors))
