"""Losses and predictions of a mixture of softmaxes, a chunk of positions at a time.

    p(y) = sum over k of w_k softmax(W t_k + b)_y,   sum over k of w_k = 1

It is the likelihood of a latent alignment, whose alternatives k are source positions (Wu 2018, section 3; Deng 2018,
section 2). Everything is computed in the logarithm. PyTorch computes it, whatever the kernels of the run: the softmax
over the vocabulary for every alternative takes nearly all of the time.

Shapes: N positions, K alternatives of each, R readout, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.kernels.cross_entropy.reference import Losses


def log_weights(weights: Tensor) -> Tensor:
    """Returns the logarithms of weights; minus infinity, without gradient, where a weight is 0."""
    is_zero = weights == 0
    return weights.masked_fill(is_zero, 1.0).log().masked_fill(is_zero, -torch.inf)


def mixture(logits_NKV: Tensor, log_weights_NK: Tensor) -> Tensor:
    """Returns log p of all pieces, [N, V], in at least single precision."""
    return torch.logsumexp(_log_softmax(logits_NKV) + log_weights_NK.unsqueeze(2), 1)


def target_terms(logits_NKV: Tensor, log_weights_NK: Tensor, target_N: Tensor) -> Tensor:
    """Returns log(w_k p_k(target)), [N, K]: log p(target) is their logsumexp over k, the posterior their softmax."""
    logits_NKV = logits_NKV.to(torch.promote_types(logits_NKV.dtype, torch.float32))
    target_NK1 = target_N[:, None, None].expand(-1, logits_NKV.shape[1], 1)
    expected_NK = logits_NKV.gather(2, target_NK1).squeeze(2)
    return expected_NK - logits_NKV.logsumexp(2) + log_weights_NK


def mixture_cross_entropy(logits_NKV: Tensor, log_weights_NK: Tensor, target_N: Tensor, smoothing: float) -> Losses:
    """Computes the losses of the mixture: smoothing, too, is of the mixture, not of the alternatives."""
    if not smoothing:
        likelihood = -target_terms(logits_NKV, log_weights_NK, target_N).logsumexp(1).sum()
        return Losses(likelihood, likelihood.detach())
    log_p_NV = mixture(logits_NKV, log_weights_NK)
    likelihood = -log_p_NV.gather(1, target_N.unsqueeze(1)).sum()
    return Losses((1 - smoothing) * likelihood - smoothing * log_p_NV.mean(1).sum(), likelihood.detach())


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))


def sum_of_chunks(
    of_chunk: Callable[..., Losses], rows: Sequence[slice], tensors: Sequence[Tensor], dtype: torch.dtype
) -> Losses:
    """Sums the losses of chunks, with gradients in the same pass, so that the logits of one chunk exist at a time.

    `of_chunk` gets the rows of a chunk and the tensors; its losses, of this dtype, depend on no others that need a
    gradient. Gradients are summed in at least single precision.
    """
    if not torch.is_grad_enabled():
        tensors = [tensor.detach() for tensor in tensors]
    losses = _SumOfChunks.apply(of_chunk, rows, dtype, *tensors)  # type: ignore[no-untyped-call]
    return Losses(*losses)


class _SumOfChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, of_chunk: Callable[..., Losses], rows: Sequence[slice], dtype: torch.dtype, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        needed = ctx.needs_input_grad[3:]
        leaves = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needed, strict=True)]
        differentiated = [leaf for leaf in leaves if leaf.requires_grad]
        sums = [torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32)) for leaf in differentiated]
        smoothed, likelihood = tensors[0].new_zeros(2, dtype=dtype).unbind()
        with torch.autocast(tensors[0].device.type, enabled=False):
            for each in rows:
                with torch.set_grad_enabled(bool(sums)):
                    losses = of_chunk(each, *leaves)
                smoothed += losses.smoothed.detach()
                likelihood += losses.negative_log_likelihood
                if sums:
                    gradients = torch.autograd.grad(losses.smoothed, differentiated)
                    for total, gradient in zip(sums, gradients, strict=True):
                        total += gradient
        ctx.save_for_backward(*(total.to(leaf.dtype) for total, leaf in zip(sums, differentiated, strict=True)))
        ctx.mark_non_differentiable(likelihood)
        return smoothed, likelihood

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        return None, None, None, *(next(gradients) * scale if need else None for need in ctx.needs_input_grad[3:])
