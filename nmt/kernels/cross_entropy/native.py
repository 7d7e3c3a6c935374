"""The loss of a chunk of logits, and log-probabilities, in C (cross_entropy.h).

Shapes as in `cross_entropy.chunked`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.kernels.compiler import address, can_be_called, declare
from nmt.kernels.cross_entropy import reference
from nmt.kernels.cross_entropy.chunked import ChunkLosses, LossChunk

_calls = declare({"loss": "sspppeppi", "regularized_loss": "sspppeepppi", "column_sums": "sspp", "log_softmax": "sspp"})


def native_chunk_losses(chunk: LossChunk) -> ChunkLosses:
    """Computes `chunked.chunk_losses` in C; adds the bias, in at least single precision, as it reads the logits."""
    weight_VR, readout_NR, bias_V, target_N, smoothing, alpha, d_bias_V = chunk
    assert readout_NR.device.type == "cpu"
    logits_NV, target_N, bias_V = weight_VR.product(readout_NR).contiguous(), target_N.contiguous(), bias_V.contiguous()
    rows, pieces = logits_NV.shape
    kernels = _calls(logits_NV.dtype)
    normalizer_N, expected_N = bias_V.new_empty(2, rows).unbind(0)
    needs_gradients = d_bias_V is not None
    inputs = [address(each) for each in (logits_NV, bias_V, target_N)]
    results = [address(each) for each in (normalizer_N, expected_N)]
    divergence_M = None
    if alpha is None:
        kernels.loss(rows, pieces, *inputs, smoothing, *results, needs_gradients)
    else:
        divergence_M = bias_V.new_empty(rows // 2)
        results.append(address(divergence_M))
        kernels.regularized_loss(rows // 2, pieces, *inputs, smoothing, alpha, *results, needs_gradients)
    if d_bias_V is not None:
        kernels.column_sums(rows, pieces, logits_NV.data_ptr(), d_bias_V.data_ptr())
    return ChunkLosses(normalizer_N, expected_N, logits_NV if needs_gradients else None, divergence_M)


def log_softmax(logits: Tensor) -> Tensor:
    """Computes `reference.log_softmax` in C; falls back to it for gradients."""
    if not can_be_called(logits):
        return reference.log_softmax(logits)
    logits = logits.contiguous()
    out = torch.empty_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
    pieces = logits.shape[-1]
    _calls(logits.dtype).log_softmax(logits.numel() // max(pieces, 1), pieces, logits.data_ptr(), out.data_ptr())
    return out
