"""What the loss makes of a chunk of logits, by compiled kernels (kernels.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.kernels.cross_entropy import ChunkLosses
from nmt.kernels.native.calls import calls


def chunk_losses(logits_NV: Tensor, target_N: Tensor, smoothing: float, d_bias_V: Tensor | None) -> ChunkLosses:
    """As `cross_entropy.chunk_losses`."""
    assert logits_NV.device.type == "cpu"
    rows, pieces = logits_NV.shape
    kernels, exact = calls(logits_NV.dtype), torch.promote_types(logits_NV.dtype, torch.float32)
    normalizer_N, expected_N = logits_NV.new_empty(2, rows, dtype=exact).unbind(0)
    # Of an `F.linear` where oneDNN is not faster.
    logits_NV, target_N = logits_NV.contiguous(), target_N.contiguous()
    wanted = d_bias_V is not None
    kernels.loss(
        *(rows, pieces, logits_NV.data_ptr(), target_N.data_ptr(), smoothing),
        *(normalizer_N.data_ptr(), expected_N.data_ptr(), wanted),
    )
    if d_bias_V is not None:
        kernels.column_sums(rows, pieces, logits_NV.data_ptr(), d_bias_V.data_ptr())
    return ChunkLosses(normalizer_N, expected_N, logits_NV if wanted else None)
