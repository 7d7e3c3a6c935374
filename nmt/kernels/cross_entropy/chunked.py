"""Cross-entropy with label smoothing behind the vocabulary projection, without ever holding all the logits.

R-Drop has two passes with different dropout. A chunk then has the logits of both, in its rows the first pass before the
second.

Shapes: N positions (of a chunk: in all of its passes), M positions of one pass, P passes, R readout, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.kernels.cross_entropy.reference import Losses, RegularizedLosses
from nmt.kernels.linear.onednn import PrepackedProduct, bias_gradient, rounded, weight_gradient
from nmt.runtime import gpu_memory, product_dtype

CHUNK = 512
"""Positions whose logits exist at a time on a CPU, at most: 16 MB of float32 at 8,000 pieces, of the order of its last
cache."""
GPU_SHARE = 32
"""Part of a GPU's memory for a chunk. There a chunk costs a dozen launches however small it is."""
MOST_PIECES = 2**16
"""Most pieces of a vocabulary for the Triton kernel: 64 a thread in its largest program, some of them in memory."""
BYTES_OF_A_LOGIT = 16
"""Memory of a logit in a chunk: itself, its probability and its gradient, in the compute and in single precision."""


class LossChunk(NamedTuple):
    """Positions whose logits exist at a time."""

    weight_VR: PrepackedProduct
    readout_NR: Tensor
    """In the dtype of the weight."""
    bias_V: Tensor
    target_N: Tensor
    smoothing: float = 0.0
    """e."""
    alpha: float | None = None
    """Weight of the divergence; None for one pass."""
    d_bias_V: Tensor | None = None
    """The gradient of the bias is added to it; None without gradients."""


class ChunkLosses(NamedTuple):
    """Losses of a chunk of logits."""

    normalizer_N: Tensor
    """The logarithm of the softmax's denominator, in at least single precision."""
    expected_N: Tensor
    """The logit of the target."""
    d_logits_NV: Tensor | None
    """softmax - (1 - e) * onehot - e / V, and with two passes alpha times the gradient of the divergence, in the format
    of the logits; None without gradients."""
    divergence_M: Tensor | None
    """(KL(p || q) + KL(q || p)) / 2 of the predictions of both passes; None for one pass."""
    mean_N: Tensor | None = None
    """The mean of the logits; None: the caller computes it from the mean weight."""


LogitLosses = Callable[[LossChunk], ChunkLosses]


def chunk_losses(chunk: LossChunk) -> ChunkLosses:
    """Computes the losses of a chunk with PyTorch operations."""
    weight_VR, readout_NR, bias_V, target_N, smoothing, alpha, d_bias_V = chunk
    logits_NV = weight_VR.product(readout_NR, bias_V)
    dtype, target_N1 = torch.promote_types(logits_NV.dtype, torch.float32), target_N.unsqueeze(1)
    expected_N1, largest_N1 = logits_NV.gather(1, target_N1), logits_NV.amax(1, keepdim=True)
    divergence_M, d_divergence_NV = (None, None) if alpha is None else _divergence(logits_NV)
    # PyTorch computes it row by row, while the row's logits are in the nearest cache.
    probabilities = torch.softmax(logits_NV, 1, dtype=dtype, out=logits_NV if logits_NV.dtype == dtype else None)
    # The largest is at least 1 / V: its logarithm loses nothing.
    normalizer_N1 = largest_N1 - probabilities.amax(1, keepdim=True).log()
    if d_bias_V is None:
        return ChunkLosses(normalizer_N1.squeeze(1), expected_N1.squeeze(1), None, divergence_M)
    probabilities.sub_(smoothing / probabilities.shape[1])
    probabilities.scatter_add_(1, target_N1, probabilities.new_full((), smoothing - 1.0).expand_as(target_N1))
    if d_divergence_NV is not None:
        probabilities.add_(d_divergence_NV, alpha=alpha)
    d_bias_V += probabilities.sum(0)
    d_logits_NV = probabilities.to(logits_NV.dtype)
    return ChunkLosses(normalizer_N1.squeeze(1), expected_N1.squeeze(1), d_logits_NV, divergence_M)


def _divergence(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (KL(p || q) + KL(q || p)) / 2 of both passes, [M], and its gradient by the logits, [N, V].

    By the logits of p it is (p (log p - log q - KL(p || q)) + p - q) / 2, by those of q the same with both exchanged.
    """
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    logs_PMV = torch.log_softmax(logits_NV, 1, dtype=dtype).view(2, -1, logits_NV.shape[1])
    probabilities_PMV = logs_PMV.exp()
    ratio_PMV = logs_PMV - logs_PMV.flip(0)
    divergence_PM1 = (probabilities_PMV * ratio_PMV).sum(2, keepdim=True)
    gradient_PMV = probabilities_PMV * (ratio_PMV - divergence_PM1) + probabilities_PMV - probabilities_PMV.flip(0)
    return divergence_PM1.sum(0).squeeze(1) / 2, gradient_PMV.flatten(0, 1) / 2


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
    operands = _operands(readout_NR.unsqueeze(0), weight_VR, bias_V, target_N)
    smoothed, likelihood, _ = _Chunked.apply(*operands, smoothing, None, of_chunk)  # type: ignore[no-untyped-call]
    return Losses(smoothed, likelihood)


def chunked_regularized_cross_entropy(
    readout_2NR: Tensor,
    weight_VR: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    smoothing: float,
    alpha: float,
    of_chunk: LogitLosses = chunk_losses,
) -> RegularizedLosses:
    """Computes `reference.regularized_cross_entropy` in the same way, both passes of a chunk at once."""
    operands = _operands(readout_2NR, weight_VR, bias_V, target_N)
    return RegularizedLosses(*_Chunked.apply(*operands, smoothing, alpha, of_chunk))  # type: ignore[no-untyped-call]


def chunked_target_log_probabilities(
    readout_NR: Tensor, weight_VR: Tensor, bias_V: Tensor, target_N: Tensor, of_chunk: LogitLosses = chunk_losses
) -> Tensor:
    """Computes `reference.target_log_probabilities` in chunks of positions.

    The backward pass computes the logits of a chunk again, because its gradients depend on what follows.
    """
    operands = readout_NR, weight_VR, bias_V, target_N
    log_probabilities_N: Tensor = _LogProbabilities.apply(*operands, of_chunk)  # type: ignore[no-untyped-call]
    return log_probabilities_N


def losses_by(of_chunk: LogitLosses) -> dict[str, Any]:
    """Returns the losses and log-probabilities of `Kernels` by name, with this function for each chunk."""
    return {
        "cross_entropy": partial(chunked_cross_entropy, of_chunk=of_chunk),
        "regularized_cross_entropy": partial(chunked_regularized_cross_entropy, of_chunk=of_chunk),
        "target_log_probabilities": partial(chunked_target_log_probabilities, of_chunk=of_chunk),
    }


def chunk_size(weight_VR: Tensor) -> int:
    """Returns the positions of a chunk: more on a GPU, by its memory, so that results do not depend on what is free."""
    memory = gpu_memory(weight_VR.device)
    return max(CHUNK, memory // GPU_SHARE // (BYTES_OF_A_LOGIT * len(weight_VR)))


def chunks(count: int, largest: int = CHUNK) -> Iterator[slice]:
    """Yields the fewest chunks of positions, of nearly equal size: a small chunk takes longer per position.

    All but the last have a round number of rows (`onednn.rounded`).
    """
    parts = max(-(-count // largest), 1)
    size = min(rounded(-(-count // parts)), largest)
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def _operands(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Detaches tensors where autograd is off: it calls parameters in need of a gradient there too."""
    return tensors if torch.is_grad_enabled() else tuple(tensor.detach() for tensor in tensors)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        readout_PMR: Tensor,
        weight_VR: Tensor,
        bias_V: Tensor,
        target_M: Tensor,
        smoothing: float,
        alpha: float | None,
        of_chunk: LogitLosses,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = product_dtype(readout_PMR)
        sum_dtype = torch.promote_types(dtype, torch.float32)
        passes, count, _ = readout_PMR.shape
        weight, bias = weight_VR.to(dtype), bias_V.to(sum_dtype)
        needs_gradients = any(ctx.needs_input_grad[:3])
        d_readout = torch.empty_like(readout_PMR) if needs_gradients else None
        d_weight = torch.zeros_like(weight_VR) if needs_gradients else None
        d_bias = torch.zeros_like(bias_V, dtype=sum_dtype) if needs_gradients else None
        likelihood, spread, divergence = readout_PMR.new_zeros(3, dtype=sum_dtype).unbind()
        ahead, back = PrepackedProduct(weight), PrepackedProduct(weight.t())
        mean_weight: Tensor | None = None
        with torch.autocast(readout_PMR.device.type, enabled=False):
            for rows in chunks(count, chunk_size(weight_VR) // passes):
                readout = readout_PMR[:, rows].to(dtype).flatten(0, 1)
                target = target_M[rows].repeat(passes)
                losses = of_chunk(LossChunk(ahead, readout, bias, target, smoothing, alpha, d_bias))
                normalizer_n, expected_n, d_logits, divergence_m, mean_n = losses
                likelihood += (normalizer_n - expected_n).sum()
                if divergence_m is not None:
                    divergence += divergence_m.sum()
                if smoothing and mean_n is not None:
                    spread += (normalizer_n - mean_n).sum()
                elif smoothing:
                    # All pieces weigh the same, so the mean weight gives this term without a pass over the logits.
                    if mean_weight is None:
                        mean_weight, mean_bias = weight_VR.to(sum_dtype).mean(0), bias.mean()
                    mean_logits_n = readout.to(sum_dtype) @ mean_weight
                    spread += normalizer_n.sum() - mean_logits_n.sum() - mean_bias * len(readout)
                if d_readout is None or d_weight is None or d_logits is None:
                    continue
                d_readout[:, rows] = back.product(d_logits).view(passes, len(target) // passes, -1)
                if dtype == d_weight.dtype:
                    d_weight.addmm_(d_logits.t(), readout)
                else:
                    d_weight += weight_gradient(d_logits, readout)
                # Frees the memory before the next chunk.
                del d_logits, losses
        if needs_gradients:
            ctx.save_for_backward(d_readout, d_weight, d_bias.to(bias_V.dtype))  # type: ignore[union-attr]
        trained = (1 - smoothing) * likelihood + smoothing * spread
        if alpha is not None:
            trained = trained + alpha * divergence
        ctx.mark_non_differentiable(likelihood, divergence)
        return trained, likelihood, divergence

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        d_readout, d_weight, d_bias = ctx.saved_tensors
        return d_readout * scale, d_weight * scale, d_bias * scale, None, None, None, None


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, readout_NR: Tensor, weight_VR: Tensor, bias_V: Tensor, target_N: Tensor, of_chunk: LogitLosses
    ) -> Tensor:
        ctx.of_chunk, ctx.dtype = of_chunk, product_dtype(readout_NR)
        ctx.save_for_backward(readout_NR, weight_VR, bias_V, target_N)
        sum_dtype = torch.promote_types(ctx.dtype, torch.float32)
        result_N = readout_NR.new_empty(len(readout_NR), dtype=sum_dtype)
        with torch.autocast(readout_NR.device.type, enabled=False):
            ahead, bias = PrepackedProduct(weight_VR.to(ctx.dtype)), bias_V.to(sum_dtype)
            for rows in chunks(len(readout_NR), chunk_size(weight_VR)):
                readout = readout_NR[rows].to(ctx.dtype)
                losses = of_chunk(LossChunk(ahead, readout, bias, target_N[rows]))
                result_N[rows] = losses.expected_N - losses.normalizer_N
        return result_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale_N: Tensor) -> tuple[Tensor | None, ...]:
        readout_NR, weight_VR, bias_V, target_N = ctx.saved_tensors
        sum_dtype = scale_N.dtype
        weight, bias = weight_VR.to(ctx.dtype), bias_V.to(sum_dtype)
        ahead, back = PrepackedProduct(weight), PrepackedProduct(weight.t())
        d_readout, d_weight = torch.empty_like(readout_NR), torch.zeros_like(weight_VR)
        d_bias, unscaled = torch.zeros_like(bias), torch.zeros_like(bias)
        with torch.autocast(readout_NR.device.type, enabled=False):
            for rows in chunks(len(readout_NR), chunk_size(weight_VR)):
                readout = readout_NR[rows].to(ctx.dtype)
                d_logits = ctx.of_chunk(LossChunk(ahead, readout, bias, target_N[rows], d_bias_V=unscaled)).d_logits_NV
                # softmax - onehot is the gradient of -log p.
                d_logits.mul_(-scale_N[rows].unsqueeze(1))
                d_bias += bias_gradient(d_logits)
                d_readout[rows] = back.product(d_logits)
                if ctx.dtype == d_weight.dtype:
                    d_weight.addmm_(d_logits.t(), readout)
                else:
                    d_weight += weight_gradient(d_logits, readout)
                del d_logits
        return d_readout, d_weight, d_bias.to(bias_V.dtype), None, None
