"""Cross-entropy with label smoothing behind the vocabulary projection, without ever holding all the logits.

Shapes: N positions, R readout, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nmt.kernels.cross_entropy.reference import Losses
from nmt.kernels.linear.onednn import PrepackedProduct
from nmt.runtime import product_dtype

CHUNK = 512
"""Positions whose logits exist at a time, at most: 16 MB of float32 at 8,000 pieces, of the order of a CPU's last
cache."""


class ChunkLosses(NamedTuple):
    """Losses of a chunk of logits."""

    normalizer_N: Tensor
    """The logarithm of the softmax's denominator, in at least single precision."""
    expected_N: Tensor
    """The logit of the target."""
    d_logits_NV: Tensor | None
    """softmax - (1 - e) * onehot - e / V, in the format of the logits; None without gradients."""


LogitLosses = Callable[[PrepackedProduct, Tensor, Tensor, Tensor, float, Tensor | None], ChunkLosses]
"""From the weight, readouts [N, R] in its dtype, the bias [V], targets [N], the smoothing e, and the tensor [V] to
which the gradient of the bias is added (None without gradients)."""


def chunk_losses(
    weight_VR: PrepackedProduct,
    readout_NR: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    smoothing: float,
    d_bias_V: Tensor | None,
) -> ChunkLosses:
    """Computes the losses of a chunk with PyTorch operations."""
    logits_NV = weight_VR.product(readout_NR, bias_V)
    dtype, target_N1 = torch.promote_types(logits_NV.dtype, torch.float32), target_N.unsqueeze(1)
    expected_N1, largest_N1 = logits_NV.gather(1, target_N1), logits_NV.amax(1, keepdim=True)
    # PyTorch computes it row by row, while the row's logits are in the nearest cache.
    probabilities = torch.softmax(logits_NV, 1, dtype=dtype, out=logits_NV if logits_NV.dtype == dtype else None)
    # The largest is at least 1 / V: its logarithm loses nothing.
    normalizer_N1 = largest_N1 - probabilities.amax(1, keepdim=True).log()
    if d_bias_V is None:
        return ChunkLosses(normalizer_N1.squeeze(1), expected_N1.squeeze(1), None)
    probabilities.sub_(smoothing / probabilities.shape[1])
    probabilities.scatter_add_(1, target_N1, probabilities.new_full((), smoothing - 1.0).expand_as(target_N1))
    d_bias_V += probabilities.sum(0)
    return ChunkLosses(normalizer_N1.squeeze(1), expected_N1.squeeze(1), probabilities.to(logits_NV.dtype))


def chunked_cross_entropy(
    readout_NR: Tensor,
    weight_VR: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    smoothing: float,
    of_chunk: LogitLosses = chunk_losses,
) -> Losses:
    """Computes `reference.cross_entropy` in chunks of positions, with gradients in the same pass.

    The gradient of the weights is summed in the weights' dtype, whatever the compute dtype.
    """
    losses = _Chunked.apply(readout_NR, weight_VR, bias_V, target_N, smoothing, of_chunk)  # type: ignore[no-untyped-call]
    return Losses(*losses)


def chunks(count: int) -> Iterator[slice]:
    """Yields the fewest chunks of positions, of equal size up to one: a small chunk takes longer per position."""
    parts = -(-count // CHUNK)
    for part in range(parts):
        yield slice(part * count // parts, (part + 1) * count // parts)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        readout_NR: Tensor,
        weight_VR: Tensor,
        bias_V: Tensor,
        target_N: Tensor,
        smoothing: float,
        of_chunk: LogitLosses,
    ) -> tuple[Tensor, Tensor]:
        dtype = product_dtype(readout_NR)
        sum_dtype = torch.promote_types(dtype, torch.float32)
        count = len(readout_NR)
        weight, bias = weight_VR.to(dtype), bias_V.to(sum_dtype)
        needs_gradients = any(ctx.needs_input_grad[:3])
        d_readout = torch.empty_like(readout_NR) if needs_gradients else None
        d_weight = torch.zeros_like(weight_VR) if needs_gradients else None
        d_bias = torch.zeros_like(bias_V, dtype=sum_dtype) if needs_gradients else None
        likelihood = readout_NR.new_zeros((), dtype=sum_dtype)
        spread = readout_NR.new_zeros((), dtype=sum_dtype)
        ahead, back = PrepackedProduct(weight), PrepackedProduct(weight.t())
        with torch.autocast(readout_NR.device.type, enabled=False):
            # Smoothing weighs all pieces equally, so the mean weight gives its term without a pass over the logits.
            mean_weight, mean_bias = weight_VR.to(sum_dtype).mean(0), bias.mean()
            for rows in chunks(count):
                readout = readout_NR[rows].to(dtype)
                normalizer_n, expected_n, d_logits = of_chunk(ahead, readout, bias, target_N[rows], smoothing, d_bias)
                likelihood += (normalizer_n - expected_n).sum()
                if smoothing:
                    mean_logits_n = readout.to(sum_dtype) @ mean_weight
                    spread += normalizer_n.sum() - mean_logits_n.sum() - mean_bias * len(readout)
                if d_readout is None or d_weight is None or d_logits is None:
                    continue
                d_readout[rows] = back.product(d_logits)
                if dtype == d_weight.dtype:
                    d_weight.addmm_(d_logits.t(), readout)
                else:
                    d_weight += d_logits.t() @ readout
                # Frees the memory before the next chunk.
                del d_logits
        if needs_gradients:
            ctx.save_for_backward(d_readout, d_weight, d_bias.to(bias_V.dtype))  # type: ignore[union-attr]
        smoothed = (1 - smoothing) * likelihood + smoothing * spread
        ctx.mark_non_differentiable(likelihood)
        return smoothed, likelihood

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_readout, d_weight, d_bias = ctx.saved_tensors
        return d_readout * scale, d_weight * scale, d_bias * scale, None, None, None
