"""Normalizers: attention weights of scores, over the last dimension.

    softmax     a_s = exp(e_s) / sum over k of exp(e_k)
    sparsemax   a = argmin over distributions a of |a - e|^2  (Martins 2016, eq. 2)
    entmax15    a = argmax over distributions a of a' e + 4/3 sum over s of (a_s - a_s^1.5)  (Peters 2019, section 3)

A score of minus infinity, as padding has it, gets weight 0. The last two give weight 0 to other low scores as well:
they subtract a threshold, which a sort finds exactly. They compute in float64, because sums of many scores cancel, and
return float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nmt.config.registry import PartOptions, Registry
from nmt.kernels.select import Kernels
from nmt.runtime import widest_dtype

Weigh = Callable[[Tensor], Tensor]
"""Returns the weights [..., W] of scores [..., W] in at least single precision; they add up to 1."""
NORMALIZERS: Registry[Weigh] = Registry("normalizer")


class Normalizer(nn.Module):
    """Computes attention weights from scores, and drops weights in training."""

    def __init__(self, options: PartOptions, dropout: float, kernels: Kernels) -> None:
        super().__init__()
        self.weigh = NORMALIZERS.build(options)
        self.dropout = dropout
        self.drop = kernels.dropout
        self.unsupported = "model.dropout.attention is not 0" if dropout else ""
        """Why attention with it cannot be recorded, with the path in the YAML; empty if it can."""
        if self.weigh is not softmax:
            self.unsupported = "model.attention.normalizer is not softmax"

    def forward(self, scores: Tensor) -> Tensor:
        """Returns the weights [..., W] of scores [..., W] in at least single precision; they add up to 1."""
        return self.weigh(scores)

    def mixing(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the factors of the annotations: in training weights are dropped, and the others scaled up.

        The weights themselves stay a distribution for coverage, guided alignment and pictures.
        """
        return self.drop(weights, self.dropout, self.training).to(dtype)


def softmax(scores: Tensor) -> Tensor:
    """Computes the softmax over the last dimension."""
    return torch.softmax(scores, dim=-1)


def sparsemax(scores: Tensor) -> Tensor:
    """Computes the Euclidean projection of the scores onto the simplex (Martins 2016, algorithm 1).

    a_s = max(e_s - t, 0), with the threshold t for which they add up to 1.
    """
    weights: Tensor = _Sparsemax.apply(scores)  # type: ignore[no-untyped-call]
    return weights


def entmax15(scores: Tensor) -> Tensor:
    """Computes 1.5-entmax (Peters 2019, algorithm 2).

    a_s = max(e_s / 2 - t, 0)^2, with the threshold t for which they add up to 1.
    """
    weights: Tensor = _Entmax15.apply(scores)  # type: ignore[no-untyped-call]
    return weights


class SoftmaxOptions(PartOptions):
    """Softmax."""

    kind: Literal["softmax"] = "softmax"


class SparsemaxOptions(PartOptions):
    """Sparsemax (Martins 2016), which gives low scores the weight 0."""

    kind: Literal["sparsemax"] = "sparsemax"


class Entmax15Options(PartOptions):
    """1.5-entmax (Peters 2019), which gives low scores the weight 0."""

    kind: Literal["entmax15"] = "entmax15"


def _constant(weigh: Weigh, options: PartOptions) -> Weigh:
    return weigh


NORMALIZERS.register("softmax", SoftmaxOptions)(partial(_constant, softmax))
NORMALIZERS.register("sparsemax", SparsemaxOptions)(partial(_constant, sparsemax))
NORMALIZERS.register("entmax15", Entmax15Options)(partial(_constant, entmax15))


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        shifted, ordered, ranks = _in_order(scores, 1.0)
        sums = ordered.cumsum(-1)
        # k(e) = max {k: 1 + k e_(k) > e_(1) + .. + e_(k)}
        support = _count(1.0 + ranks * ordered > sums)
        threshold = (sums.gather(-1, support - 1) - 1.0) / support
        weights = (shifted - threshold).clamp(min=0.0).to(_dtype(scores))
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_weights: Tensor) -> Tensor:
        """The Jacobian is diag(s) - s s' / |s|, with s 1 where a > 0, else 0 (Martins 2016, eq. 11)."""
        (weights,) = ctx.saved_tensors
        return _times_jacobian((weights > 0.0).to(weights.dtype), d_weights)


class _Entmax15(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        shifted, ordered, ranks = _in_order(scores, 0.5)
        means = ordered.cumsum(-1) / ranks
        deviations = ordered.square().cumsum(-1) - ranks * means.square()
        # A radicand is below 0 only for a support that is too large; its threshold is then above its least score.
        thresholds = means - ((1.0 - deviations) / ranks).clamp(min=0.0).sqrt()
        support = _count(thresholds <= ordered)
        threshold = thresholds.gather(-1, support - 1)
        weights = (shifted - threshold).clamp(min=0.0).square().to(_dtype(scores))
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_weights: Tensor) -> Tensor:
        """The Jacobian is diag(s) - s s' / |s|, with s = a^(2 - 1.5) (Peters 2019, section 3)."""
        (weights,) = ctx.saved_tensors
        return _times_jacobian(weights.sqrt(), d_weights)


def _in_order(scores: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the scores times `factor` with maximum 0, the same in descending order, and their ranks from 1.

    Padding comes last. Sums that include it are infinite or NaN, and never belong to a support.
    """
    scaled = scores.to(widest_dtype(scores.device)) * factor
    shifted = scaled - scaled.amax(-1, keepdim=True)
    ordered = shifted.sort(-1, descending=True).values
    return shifted, ordered, torch.arange(1, ordered.shape[-1] + 1, dtype=ordered.dtype, device=ordered.device)


def _count(in_support: Tensor) -> Tensor:
    """Returns the size of each support. Scores of NaN have none: with 1 the weights are NaN, as those of a softmax."""
    return in_support.sum(-1, keepdim=True).clamp(min=1)


def _dtype(scores: Tensor) -> torch.dtype:
    return torch.promote_types(scores.dtype, torch.float32)


def _times_jacobian(s: Tensor, d_weights: Tensor) -> Tensor:
    """Returns (diag(s) - s s' / |s|) d, with |s| the sum of s."""
    d_scores = s * d_weights
    return d_scores - s * (d_scores.sum(-1, keepdim=True) / s.sum(-1, keepdim=True))
