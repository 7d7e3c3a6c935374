"""Attention of all queries over a source: scores, softmax and context.

The additive score v' tanh(q + k) without a tanh for every pair of a query and a key.

    tanh(q + k) = 1 - 2 r   with   r = 1 / (1 + e^2q e^2k),   tanh'(q + k) = 4 r (1 - r)

so that Q queries and S keys need Q + S exponentials instead of Q x S hyperbolic tangents, and each pair a product, a
sum and a quotient. On a CPU that is a fraction of the time (docs/performance.md). r is cheaper to compute again than to
keep: nothing of the size [Q, S, A] outlives the computation.

Shapes: B sentences, Q queries, S source positions, A attention units, C memory features; `...` leading dimensions.
"""

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
    keys_backward = kernels.attention_keys_backward
    d_keys_BSA, d_energy_A = keys_backward(query_QBA, source.keys, source.energy, d_scores_QBS)
    return d_keys_BSA, d_memory_BSC, d_energy_A


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: StepKernels, query_BQA: Tensor, *annotations: Any) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        query_QBA, (keys, memory, bias, energy) = query_BQA.transpose(0, 1), annotations
        compute_energy = None if energy is None else energy.to(memory.dtype)
        source = kernels.attention_prepare(Annotations(keys, memory, bias, compute_energy))
        context_QBC = memory.new_empty(*query_QBA.shape[:2], memory.shape[2])
        scores_QBS = bias.new_empty(*query_QBA.shape[:2], keys.shape[1])
        normalizer_QB = bias.new_empty(query_QBA.shape[:2])
        with torch.autocast(query_BQA.device.type, enabled=False):
            kernels.attention_forward(query_QBA, source, context_QBC, scores_QBS, normalizer_QB)
        ctx.kernels = kernels
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
            ctx.kernels.attention_backward(
                *forward, None, d_weights_QBS, d_query_BQA.transpose(0, 1), d_all_weights_QBS, add=False
            )
            d_keys, d_memory, d_energy = source_gradients(ctx.kernels, *forward, d_all_weights_QBS)
        # Autograd casts gradients to the dtypes of the inputs.
        return None, d_query_BQA, d_keys, d_memory, None, d_energy


LIMITS = {torch.float32: 43.0, torch.float64: 350.0}
"""Bounds of the arguments, by dtype. Within them no exponential is infinite or zero, so no product is NaN; tanh is 1 to
the last bit from 9 (float32) and 19 (float64) on."""


def exponentials(arguments: Tensor) -> Tensor:
    """Returns e^2x in at least single precision."""
    arguments = arguments.to(torch.promote_types(arguments.dtype, torch.float32))
    limit = LIMITS[arguments.dtype]
    return arguments.clamp(-limit, limit).mul_(2.0).exp_()


def reciprocals(queries: Tensor, keys: Tensor, out: Tensor | None = None) -> Tensor:
    """Returns r of exponentials that are broadcast against each other."""
    return torch.addcmul(queries.new_ones(()), queries, keys, out=out).reciprocal_()


def additive_scores(query: Tensor, keys: Tensor, exponential_keys: Tensor, energy_A: Tensor) -> Tensor:
    """Computes v' tanh(q + k) of queries [..., Q, A] and keys [..., S, A]: [..., Q, S] in at least single precision.

    `exponential_keys` are the `exponentials` of the keys, computed once for all queries.
    """
    scores: Tensor = _AdditiveScores.apply(query, keys, exponential_keys, energy_A)  # type: ignore[no-untyped-call]
    return scores


class _AdditiveScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, exponential_keys: Tensor, energy_A: Tensor) -> Tensor:
        exponential_query = exponentials(query).unsqueeze(-2)
        wide_energy_A = energy_A.to(exponential_keys.dtype)
        r = reciprocals(exponential_query, exponential_keys.unsqueeze(-3))
        ctx.save_for_backward(exponential_query, exponential_keys, wide_energy_A)
        with torch.autocast(query.device.type, enabled=False):
            return wide_energy_A.sum() - 2.0 * (r @ wide_energy_A)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_scores: Tensor) -> tuple[Tensor | None, ...]:
        exponential_query, exponential_keys, wide_energy_A = ctx.saved_tensors
        r = reciprocals(exponential_query, exponential_keys.unsqueeze(-3))
        d_scores = d_scores.to(r.dtype)
        d_query = d_keys = d_energy = None
        with torch.autocast(r.device.type, enabled=False):
            if ctx.needs_input_grad[3]:
                d_energy = d_scores.sum() - 2.0 * (d_scores.flatten() @ r.flatten(0, -2))
            # tanh' times the gradient of the score.
            slope = torch.addcmul(r, r, r, value=-1.0, out=r).mul_(d_scores.unsqueeze(-1))
            scale_A = 4.0 * wide_energy_A
            if ctx.needs_input_grad[0]:
                d_query = slope.sum(-2) * scale_A
            if ctx.needs_input_grad[1]:
                d_keys = slope.sum(-3) * scale_A
        return d_query, d_keys, None, d_energy
