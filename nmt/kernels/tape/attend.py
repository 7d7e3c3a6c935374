"""Attention of queries that are all known at once, of which nothing as large as [B, Q, S, A] is kept.

Shapes: B sentences, Q queries, S source positions, A attention units, C memory features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.kernels.tape.steps import Annotations, StepKernels, attention_weights, source_backward


def attend(steps: StepKernels, query_BQA: Tensor, source: Annotations) -> tuple[Tensor, Tensor]:
    """The contexts [B, Q, C] that the queries find, and the weights [B, Q, S] of their looks."""
    found: tuple[Tensor, Tensor] = _Attend.apply(steps, query_BQA, *source)  # type: ignore[no-untyped-call]
    return found


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        steps: StepKernels,
        query_BQA: Tensor,
        keys: Tensor,
        memory: Tensor,
        bias: Tensor,
        energy: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        query_QBA = query_BQA.transpose(0, 1)
        short_energy = None if energy is None else energy.to(memory.dtype)
        source = steps.prepare(Annotations(keys, memory, bias, short_energy))
        steps.check(source)
        context_QBC = memory.new_empty(*query_QBA.shape[:2], memory.shape[2])
        scores_QBS = bias.new_empty(*query_QBA.shape[:2], keys.shape[1])
        normalizer_QB = bias.new_empty(query_QBA.shape[:2])
        with torch.autocast(query_BQA.device.type, enabled=False):
            steps.look(query_QBA, source, context_QBC, scores_QBS, normalizer_QB)
        ctx.steps, ctx.keys_dtype, ctx.energy_dtype = steps, keys.dtype, None if energy is None else energy.dtype
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
        d_query_BQA, d_looked_QBS = torch.empty_like(query_BQA), torch.empty_like(scores_QBS)
        d_weights_QBS = None if d_weights is None else d_weights.to(bias.dtype).transpose(0, 1).contiguous()
        looked = (query_QBA, source, scores_QBS, normalizer_QB, d_context_QBC)
        with torch.autocast(bias.device.type, enabled=False):
            d_query_QBA = d_query_BQA.transpose(0, 1)
            ctx.steps.look_backward(*looked, None, d_weights_QBS, d_query_QBA, d_looked_QBS, add=False)
            d_keys, d_memory, d_energy = source_backward(ctx.steps, *looked, d_looked_QBS)
        d_energy = None if d_energy is None else d_energy.to(ctx.energy_dtype)
        return None, d_query_BQA, d_keys.to(ctx.keys_dtype), d_memory, None, d_energy
