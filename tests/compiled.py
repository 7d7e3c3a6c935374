"""Kernels by hand, as operations of PyTorch and compiled; the latter are left out where there is no compiler."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from nmt.kernels import cross_entropy
from nmt.kernels.native.build import load
from nmt.kernels.native.logits import chunk_losses
from nmt.kernels.native.packed import compiled_gru
from nmt.kernels.native.steps import NativeSteps
from nmt.kernels.packed import gru_by_hand
from nmt.kernels.tape import FactoredSteps

HAS_ONEDNN_BF16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
needs_onednn_bf16 = pytest.mark.skipif(not HAS_ONEDNN_BF16, reason="oneDNN multiplies no bf16 on this processor")
needs_compiler = pytest.mark.skipif(load()[0] is None, reason=f"kernels cannot be compiled: {load()[1]}")

GRUS = [gru_by_hand, pytest.param(compiled_gru, marks=needs_compiler)]
STEPS = [FactoredSteps(), pytest.param(NativeSteps(), marks=needs_compiler)]
LOSSES = [
    cross_entropy.fused,
    pytest.param(partial(cross_entropy.fused, of_chunk=chunk_losses), marks=needs_compiler),
]
KINDS = ["operations", "compiled"]
