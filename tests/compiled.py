"""Native kernels, which are left out where there is no C compiler."""

from __future__ import annotations

import pytest
import torch

from nmt.kernels.compiler import load
from nmt.kernels.cross_entropy.chunked import chunked_cross_entropy
from nmt.kernels.cross_entropy.native import native_cross_entropy
from nmt.kernels.gru.native import gru_layer
from nmt.kernels.steps import StepKernels
from tests.reference_steps import ReferenceKernels

HAS_ONEDNN_BF16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
needs_onednn_bf16 = pytest.mark.skipif(not HAS_ONEDNN_BF16, reason="oneDNN multiplies no bf16 on this processor")
needs_compiler = pytest.mark.skipif(load()[0] is None, reason=f"kernels cannot be compiled: {load()[1]}")

GRUS = [pytest.param(gru_layer, marks=needs_compiler, id="native")]
STEPS = [
    pytest.param(ReferenceKernels(), id="reference"),
    pytest.param(StepKernels("native"), marks=needs_compiler, id="native"),
]
LOSSES = [
    pytest.param(chunked_cross_entropy, id="chunked"),
    pytest.param(native_cross_entropy, marks=needs_compiler, id="native"),
]
