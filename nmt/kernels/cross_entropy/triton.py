"""The loss of a chunk of logits as a Triton kernel: it reads the logits once and writes their gradient in their place.

A program holds a row of logits. Shapes as in `cross_entropy.chunked`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language import constexpr

from nmt.kernels.cross_entropy.chunked import MOST_PIECES, ChunkLosses, LossChunk, chunk_losses
from nmt.kernels.rnn.triton import load


@triton.jit
def _loss(
    logits,
    bias,
    target,
    normalizer,
    expected,
    mean,
    smoothing,
    pieces,
    GRADIENT: constexpr,
    BLOCK: constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, BLOCK)
    inside = v < pieces
    logits += n * pieces
    label = tl.load(target + n)
    logit = load(logits + v, inside) + load(bias + v, inside)
    largest = tl.max(tl.where(inside, logit, -float("inf")), 0)
    exponential = tl.where(inside, tl.exp(logit - largest), 0.0)
    total = tl.sum(exponential, 0)
    is_target = v == label
    tl.store(normalizer + n, tl.where(label >= 0, largest + tl.log(total), 0.0))
    tl.store(expected + n, tl.sum(tl.where(is_target, logit, 0.0), 0))
    tl.store(mean + n, tl.where(label >= 0, tl.sum(logit, 0) / pieces, 0.0))
    if GRADIENT:
        gradient = exponential / total - smoothing / pieces - tl.where(is_target, 1.0 - smoothing, 0.0)
        tl.store(logits + v, tl.where(label >= 0, gradient, 0.0), mask=inside)


def num_warps(block: int) -> int:
    """Returns the warps of a program: 8 pieces a thread as far as possible, which need 55 registers."""
    return min(max(block // 256, 4), 32)


def triton_chunk_losses(chunk: LossChunk) -> ChunkLosses:
    """Computes `chunked.chunk_losses`; adds the bias, in single precision, as it reads the logits.

    A row with the target -1 does not count: its losses and its gradient are 0. Two passes and very large vocabularies
    are left to PyTorch, which has no such rows.
    """
    weight_VR, readout_NR, bias_V, target_N, smoothing, alpha, d_bias_V = chunk
    if alpha is not None or len(bias_V) > MOST_PIECES:
        return chunk_losses(chunk)
    logits_NV, target_N, bias_V = weight_VR.product(readout_NR).contiguous(), target_N.contiguous(), bias_V.contiguous()
    assert bias_V.dtype == torch.float32, "kernels compute in single precision"
    rows, pieces = logits_NV.shape
    normalizer_N, expected_N, mean_N = bias_V.new_empty(3, rows).unbind(0)
    block, needs_gradients = triton.next_power_of_2(pieces), d_bias_V is not None
    results = (normalizer_N, expected_N, mean_N)
    _loss[(rows,)](
        *(logits_NV, bias_V, target_N, *results, smoothing, pieces),
        **{"GRADIENT": needs_gradients, "BLOCK": block, "num_warps": num_warps(block)},
    )
    if d_bias_V is None:
        return ChunkLosses(normalizer_N, expected_N, None, None, mean_N)
    d_bias_V += logits_NV.sum(0, dtype=d_bias_V.dtype)
    return ChunkLosses(normalizer_N, expected_N, logits_NV, None, mean_N)
