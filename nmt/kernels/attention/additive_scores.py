"""The additive score v' tanh(q + k) without a tanh for every pair of a query and a key.

    tanh(q + k) = 1 - 2 r   with   r = 1 / (1 + e^2q e^2k),   tanh'(q + k) = 4 r (1 - r)

so that Q queries and S keys need Q + S exponentials instead of Q x S hyperbolic tangents, and each pair a product, a
sum and a quotient. On a CPU that is a fraction of the time (docs/performance.md). r is cheaper to compute again than to
keep: nothing of the size [Q, S, A] outlives the computation.

Shapes: ... leading dimensions, Q queries, S source positions, A attention units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    scores: Tensor = _AdditiveScores.apply(  # type: ignore[no-untyped-call]
        query, keys, exponential_keys, energy_A
    )
    return scores


class _AdditiveScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, exponential_keys: Tensor, energy_A: Tensor) -> Tensor:
        exponential_query = exponentials(query).unsqueeze(-2)
        wide_energy_A = energy_A.to(exponential_keys.dtype)
        r = reciprocals(exponential_query, exponential_keys.unsqueeze(-3))
        ctx.save_for_backward(exponential_query, exponential_keys, wide_energy_A)
        ctx.dtypes = query.dtype, keys.dtype, energy_A.dtype
        with torch.autocast(query.device.type, enabled=False):
            return wide_energy_A.sum() - 2.0 * (r @ wide_energy_A)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_scores: Tensor) -> tuple[Tensor | None, ...]:
        exponential_query, exponential_keys, wide_energy_A = ctx.saved_tensors
        query_dtype, keys_dtype, energy_dtype = ctx.dtypes
        r = reciprocals(exponential_query, exponential_keys.unsqueeze(-3))
        d_scores = d_scores.to(r.dtype)
        d_query = d_keys = d_energy = None
        with torch.autocast(r.device.type, enabled=False):
            if ctx.needs_input_grad[3]:
                d_energy = (d_scores.sum() - 2.0 * (d_scores.flatten() @ r.flatten(0, -2))).to(energy_dtype)
            # tanh' times the gradient of the score.
            slope = torch.addcmul(r, r, r, value=-1.0, out=r).mul_(d_scores.unsqueeze(-1))
            scale_A = 4.0 * wide_energy_A
            if ctx.needs_input_grad[0]:
                d_query = (slope.sum(-2) * scale_A).to(query_dtype)
            if ctx.needs_input_grad[1]:
                d_keys = (slope.sum(-3) * scale_A).to(keys_dtype)
        return d_query, d_keys, None, d_energy
