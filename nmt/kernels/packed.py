"""Gated recurrent layers over packed rows, differentiated by hand: for a CPU, where PyTorch's own are slow.

PyTorch's layer cuts the packed input into steps, and the gradient of every cut is as large as the whole input: its
backward pass grows with rows x steps squared. Here the loops only do what must wait for the step before, both
directions run in the same steps, and the gradients of the weights are one product each at the end.

Shapes: D directions, P elements in packed order, T steps, R rows of a step, X input features, H hidden, G = 3 H gates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from nmt.kernels.ragged import Packing


def run_packed(stack: nn.RNNBase, inputs_PX: Tensor, packing: Packing, fused: bool) -> Tensor:
    """The outputs [P, D x H] of the top layer of a recurrent stack; `fused` runs a stack of GRUs by hand."""
    if not fused:
        packed, _ = stack(PackedSequence(inputs_PX, packing.sizes_T))
        outputs_PH: Tensor = packed.data
        return outputs_PH
    assert isinstance(stack, nn.GRU), "only gated recurrent units are differentiated by hand"
    directions = 2 if stack.bidirectional else 1
    sizes = packing.sizes_T.tolist()
    for layer in range(stack.num_layers):
        if layer:
            inputs_PX = F.dropout(inputs_PX, stack.dropout, stack.training)
        weights = stack.all_weights[layer * directions : (layer + 1) * directions]
        with torch.autocast(inputs_PX.device.type, enabled=False):
            inputs_PX = inputs_PX.to(weights[0][0].dtype)
            gates_DPG = torch.stack([F.linear(inputs_PX, weight[0], weight[2]) for weight in weights])
            recurrent_DGH = torch.stack([weight[1] for weight in weights])
            biases_DG = torch.stack([weight[3] for weight in weights])
            inputs_PX = _PackedGru.apply(  # type: ignore[no-untyped-call]
                gates_DPG, recurrent_DGH, biases_DG, packing.mirrored_P, packing.before_P, sizes
            )
    return inputs_PX


class _PackedGru(torch.autograd.Function):
    """The recurrence of `nmt.kernels.gates.gru_step`, its second direction over the mirrored rows."""

    @staticmethod
    def forward(
        ctx: Any,
        gates_DPG: Tensor,
        recurrent_DGH: Tensor,
        biases_DG: Tensor,
        mirrored_P: Tensor,
        before_P: Tensor,
        sizes: list[int],
    ) -> Tensor:
        directions, elements = gates_DPG.shape[:2]
        hidden = gates_DPG.shape[2] // 3
        if directions == 2:
            gates_DPG = torch.stack((gates_DPG[0], gates_DPG[1].index_select(0, mirrored_P)))
        recurrent_DHG = recurrent_DGH.transpose(1, 2)
        biases_D1G = biases_DG.unsqueeze(1)
        both_DPG = torch.empty_like(gates_DPG)
        sigmoids_DPG = gates_DPG.new_empty(directions, elements, 2 * hidden)
        candidates_DPH = gates_DPG.new_empty(directions, elements, hidden)
        outputs_DPH = torch.empty_like(candidates_DPH)
        state_DRH = gates_DPG.new_zeros(directions, sizes[0], hidden)
        steps = zip(
            sizes,
            gates_DPG[..., : 2 * hidden].split_with_sizes(sizes, 1),
            gates_DPG[..., 2 * hidden :].split_with_sizes(sizes, 1),
            both_DPG.split_with_sizes(sizes, 1),
            both_DPG[..., : 2 * hidden].split_with_sizes(sizes, 1),
            both_DPG[..., 2 * hidden :].split_with_sizes(sizes, 1),
            sigmoids_DPG.split_with_sizes(sizes, 1),
            sigmoids_DPG[..., :hidden].split_with_sizes(sizes, 1),
            sigmoids_DPG[..., hidden:].split_with_sizes(sizes, 1),
            candidates_DPH.split_with_sizes(sizes, 1),
            outputs_DPH.split_with_sizes(sizes, 1),
            strict=True,
        )
        for rows, gates, entry, from_state, state_gates, state_entry, sigmoids, reset, update, new, output in steps:
            state_DRH = state_DRH[:, :rows]
            torch.baddbmm(biases_D1G, state_DRH, recurrent_DHG, out=from_state)
            torch.add(gates, state_gates, out=sigmoids).sigmoid_()
            torch.addcmul(entry, reset, state_entry, out=new).tanh_()
            torch.lerp(new, state_DRH, update, out=output)
            state_DRH = output
        ctx.save_for_backward(
            recurrent_DGH, both_DPG[..., 2 * hidden :], sigmoids_DPG, candidates_DPH, outputs_DPH, mirrored_P, before_P
        )
        ctx.sizes = sizes
        if directions == 1:
            return outputs_DPH[0]
        return torch.cat((outputs_DPH[0], outputs_DPH[1].index_select(0, mirrored_P)), 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_PH: Tensor) -> tuple[Tensor | None, ...]:
        recurrent_DGH, entries_DPH, sigmoids_DPG, candidates_DPH, outputs_DPH, mirrored_P, before_P = ctx.saved_tensors
        directions, _, hidden = candidates_DPH.shape
        sizes: list[int] = ctx.sizes
        if directions == 1:
            total_DPH = gradient_PH.unsqueeze(0).clone()
        else:
            forward_PH, backward_PH = gradient_PH.chunk(2, 1)
            total_DPH = torch.stack((forward_PH, backward_PH.index_select(0, mirrored_P)))
        # The state before each element; before the first of a row there is none, which is zero.
        before_DPH = torch.zeros_like(outputs_DPH)
        before_DPH[:, sizes[0] :] = outputs_DPH.index_select(1, before_P)
        reset_DPH, update_DPH = sigmoids_DPG.chunk(2, -1)
        # h' = n + z (h - n): what a gradient of h' is multiplied by, for r, z and the candidate's recurrent half.
        entry_DPH = (1.0 - update_DPH) * (1.0 - candidates_DPH.square())
        factors_DPGH = torch.stack(
            (
                entry_DPH * entries_DPH * reset_DPH * (1.0 - reset_DPH),
                (before_DPH - candidates_DPH) * update_DPH * (1.0 - update_DPH),
                entry_DPH * reset_DPH,
            ),
            2,
        )
        from_state_DPG = torch.empty_like(factors_DPGH)
        carried: Tensor | None = None
        steps = zip(
            total_DPH.split_with_sizes(sizes, 1),
            factors_DPGH.split_with_sizes(sizes, 1),
            update_DPH.split_with_sizes(sizes, 1),
            from_state_DPG.split_with_sizes(sizes, 1),
            from_state_DPG.flatten(2).split_with_sizes(sizes, 1),
            strict=True,
        )
        for total, factors, update, from_state, flat in reversed(list(steps)):
            if carried is not None:
                total[:, : carried.shape[1]] += carried
            torch.mul(total.unsqueeze(2), factors, out=from_state)
            carried = torch.baddbmm(total * update, flat, recurrent_DGH)
        flat_DPG = from_state_DPG.flatten(2)
        weights_DGH = flat_DPG.transpose(1, 2) @ before_DPH
        biases_DG = flat_DPG.sum(1)
        gates_DPG = torch.cat((flat_DPG[..., : 2 * hidden], total_DPH * entry_DPH), -1)
        if directions == 2:
            gates_DPG = torch.stack((gates_DPG[0], gates_DPG[1].index_select(0, mirrored_P)))
        return gates_DPG, weights_DGH, biases_DG, None, None, None
