"""Cross-entropy with label smoothing behind the vocabulary projection, without ever holding all the logits.

Shapes: N positions, R readout, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.runtime import product_dtype

CHUNK = 512
"""Positions whose logits exist at a time: 16 MB of float32 at 8,000 pieces, of the order of a CPU's last cache."""


class Losses(NamedTuple):
    """Sums over the positions, in at least single precision."""

    smoothed: Tensor
    """What training minimises: (1 - e) * -log p(target) + e * mean over the vocabulary of -log p."""
    negative_log_likelihood: Tensor
    """-log p(target), without smoothing; carries no gradient."""


def reference(readout_NR: Tensor, weight_VR: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float) -> Losses:
    """The equations as they stand, all logits at once."""
    logits_NV = F.linear(readout_NR, weight_VR, bias_V)
    log_probabilities_NV = torch.log_softmax(logits_NV.to(_at_least_single(logits_NV.dtype)), -1)
    likelihood = -log_probabilities_NV.gather(1, target_N.unsqueeze(1)).sum()
    spread = -log_probabilities_NV.mean(-1).sum()
    return Losses((1 - smoothing) * likelihood + smoothing * spread, likelihood.detach())


def fused(readout_NR: Tensor, weight_VR: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float) -> Losses:
    """The same in chunks of positions, with the gradients computed on the way: the logits are made only once.

    The gradient of the weights is summed in the weights' own format, whatever the format of the products.
    """
    dtype = product_dtype(readout_NR)
    smoothed, likelihood = _Chunked.apply(  # type: ignore[no-untyped-call]
        readout_NR, weight_VR, bias_V, target_N, smoothing, dtype
    )
    return Losses(smoothed, likelihood)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        readout_NR: Tensor,
        weight_VR: Tensor,
        bias_V: Tensor,
        target_N: Tensor,
        smoothing: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        exact = _at_least_single(dtype)
        pieces = weight_VR.shape[0]
        weight, bias = weight_VR.to(dtype), bias_V.to(exact)
        wanted = any(ctx.needs_input_grad[:3])
        d_readout = torch.empty_like(readout_NR) if wanted else None
        d_weight = torch.zeros_like(weight_VR) if wanted else None
        d_bias = torch.zeros_like(bias_V, dtype=exact) if wanted else None
        likelihood = readout_NR.new_zeros((), dtype=exact)
        spread = readout_NR.new_zeros((), dtype=exact)
        with torch.autocast(readout_NR.device.type, enabled=False):
            for start in range(0, readout_NR.shape[0], CHUNK):
                rows = slice(start, start + CHUNK)
                readout, target_n1 = readout_NR[rows].to(dtype), target_N[rows].unsqueeze(1)
                logits = (readout @ weight.t()).to(exact).add_(bias)
                normalizer_n1 = logits.logsumexp(-1, keepdim=True)
                likelihood += (normalizer_n1 - logits.gather(1, target_n1)).sum()
                if smoothing:
                    spread += (normalizer_n1.squeeze(1) - logits.mean(-1)).sum()
                if d_readout is None or d_weight is None or d_bias is None:
                    continue
                # d loss / d logits = softmax - (1 - e) onehot - e / V, in the place of the logits.
                d_logits = logits.sub_(normalizer_n1).exp_()
                if smoothing:
                    d_logits -= smoothing / pieces
                d_logits.scatter_add_(1, target_n1, d_logits.new_full(target_n1.shape, smoothing - 1.0))
                d_bias += d_logits.sum(0)
                d_logits = d_logits.to(dtype)
                d_readout[rows] = (d_logits @ weight).to(d_readout.dtype)
                if dtype == d_weight.dtype:
                    d_weight.addmm_(d_logits.t(), readout)
                else:
                    d_weight += d_logits.t() @ readout
        if wanted:
            ctx.save_for_backward(d_readout, d_weight, d_bias.to(bias_V.dtype))  # type: ignore[union-attr]
        smoothed = (1 - smoothing) * likelihood + smoothing * spread
        ctx.mark_non_differentiable(likelihood)
        return smoothed, likelihood

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_readout, d_weight, d_bias = ctx.saved_tensors
        return d_readout * scale, d_weight * scale, d_bias * scale, None, None, None
