"""What the loss makes of a chunk of logits, by compiled kernels (kernels.h)."""

from __future__ import annotations

from torch import Tensor

from nmt.kernels.cross_entropy import ChunkLosses
from nmt.kernels.linear.onednn import Factor
from nmt.kernels.native.calls import calls


def chunk_losses(
    weight_VR: Factor, readout_NR: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float, d_bias_V: Tensor | None
) -> ChunkLosses:
    """As `cross_entropy.chunk_losses`; the bias, in at least single precision, is added where the logits are read."""
    assert readout_NR.device.type == "cpu"
    logits_NV, target_N, bias_V = weight_VR.product(readout_NR).contiguous(), target_N.contiguous(), bias_V.contiguous()
    rows, pieces = logits_NV.shape
    kernels = calls(logits_NV.dtype)
    normalizer_N, expected_N = bias_V.new_empty(2, rows).unbind(0)
    wanted = d_bias_V is not None
    kernels.loss(
        *(rows, pieces, logits_NV.data_ptr(), bias_V.data_ptr(), target_N.data_ptr(), smoothing),
        *(normalizer_N.data_ptr(), expected_N.data_ptr(), wanted),
    )
    if d_bias_V is not None:
        kernels.column_sums(rows, pieces, logits_NV.data_ptr(), d_bias_V.data_ptr())
    return ChunkLosses(normalizer_N, expected_N, logits_NV if wanted else None)
