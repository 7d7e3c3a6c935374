"""Attention of all queries over a source: scores, softmax and context."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.kernels.steps import Annotations, StepKernels


def attend(kernels: StepKernels, query_BQA: Tensor, source: Annotations) -> tuple[Tensor, Tensor]:
    """Returns the contexts [B, Q, C] of the queries and their weights [B, Q, S].

    Saves no tensor of the size [B, Q, S, A] for the backward pass.
    """
    context_and_weights: tuple[Tensor, Tensor] = _Attend.apply(kernels, query_BQA, *source)  # type: ignore[no-untyped-call]
    return context_and_weights


def attention_weights(scores_QBS: Tensor, normalizer_QB: Tensor) -> Tensor:
    """Returns the softmax [Q, B, S] of the scores."""
    return torch.exp(scores_QBS - normalizer_QB.unsqueeze(-1))


def source_gradients(
    kernels: StepKernels,
    query_QBA: Tensor,
    source: Annotations,
    scores_QBS: Tensor,
    normalizer_QB: Tensor,
    d_context_QBC: Tensor,
    d_weights_QBS: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the gradients of keys, memory and energy, summed over all queries or steps.

    Each is one product over all steps, not a sum over steps of gradients as large as the source.
    """
    dtype = source.memory.dtype
    weights_QBS = attention_weights(scores_QBS, normalizer_QB)
    d_memory_BSC = weights_QBS.permute(1, 2, 0).to(dtype) @ d_context_QBC.transpose(0, 1).to(dtype)
    d_scores_QBS = weights_QBS * (d_weights_QBS - (weights_QBS * d_weights_QBS).sum(-1, keepdim=True))
    if source.energy is None:
        return d_scores_QBS.permute(1, 2, 0).to(dtype) @ query_QBA.transpose(0, 1), d_memory_BSC, None
    keys_backward = kernels.function("attention_keys_backward")
    d_keys_BSA, d_energy_A = keys_backward(query_QBA, source.keys, source.energy, d_scores_QBS)
    return d_keys_BSA, d_memory_BSC, d_energy_A


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: StepKernels,
        query_BQA: Tensor,
        keys: Tensor,
        memory: Tensor,
        bias: Tensor,
        energy: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        query_QBA = query_BQA.transpose(0, 1)
        compute_energy = None if energy is None else energy.to(memory.dtype)
        source = kernels.function("attention_prepare")(Annotations(keys, memory, bias, compute_energy))
        context_QBC = memory.new_empty(*query_QBA.shape[:2], memory.shape[2])
        scores_QBS = bias.new_empty(*query_QBA.shape[:2], keys.shape[1])
        normalizer_QB = bias.new_empty(query_QBA.shape[:2])
        with torch.autocast(query_BQA.device.type, enabled=False):
            kernels.function("attention_forward")(query_QBA, source, context_QBC, scores_QBS, normalizer_QB)
        ctx.kernels, ctx.keys_dtype, ctx.energy_dtype = kernels, keys.dtype, None if energy is None else energy.dtype
        ctx.save_for_backward(query_BQA, *source, scores_QBS, normalizer_QB)
        return context_QBC.transpose(0, 1), attention_weights(scores_QBS, normalizer_QB).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_context: Tensor | None, d_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        query_BQA, keys, memory, bias, energy, scores_QBS, normalizer_QB = ctx.saved_tensors
        query_QBA, source = query_BQA.transpose(0, 1), Annotations(keys, memory, bias, energy)
        d_context_QBC = bias.new_zeros(*query_QBA.shape[:2], memory.shape[2])
        if d_context is not None:
            d_context_QBC += d_context.transpose(0, 1)
        d_query_BQA, d_all_weights_QBS = torch.empty_like(query_BQA), torch.empty_like(scores_QBS)
        d_weights_QBS = None if d_weights is None else d_weights.to(bias.dtype).transpose(0, 1).contiguous()
        forward = (query_QBA, source, scores_QBS, normalizer_QB, d_context_QBC)
        with torch.autocast(bias.device.type, enabled=False):
            ctx.kernels.function("attention_backward")(
                *forward, None, d_weights_QBS, d_query_BQA.transpose(0, 1), d_all_weights_QBS, add=False
            )
            d_keys, d_memory, d_energy = source_gradients(ctx.kernels, *forward, d_all_weights_QBS)
        d_energy = None if d_energy is None else d_energy.to(ctx.energy_dtype)
        return None, d_query_BQA, d_keys.to(ctx.keys_dtype), d_memory, None, d_energy
