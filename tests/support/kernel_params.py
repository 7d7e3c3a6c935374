"""Test parameters for kernels: native ones need a C compiler, Triton's a GPU or Triton's interpreter."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from numpy.lib import NumpyVersion

from nmt.kernels.compiler import load_library
from nmt.kernels.cross_entropy.chunked import chunked_cross_entropy, losses_by
from nmt.kernels.cross_entropy.native import native_chunk_losses
from nmt.kernels.gru.native import gru_layer
from nmt.kernels.linear.quantization import (
    Bf16Weight,
    Fp32Weight,
    Int8Weight,
    NativeInt8Weight,
    OnednnInt8Weight,
    OnednnNativeInt8Weight,
)
from nmt.kernels.steps import StepKernels
from tests.support.reference_steps import ReferenceKernels

HAS_ONEDNN_BF16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
needs_onednn_bf16 = pytest.mark.skipif(not HAS_ONEDNN_BF16, reason="oneDNN multiplies no bf16 on this processor")
needs_compiler = pytest.mark.skipif(
    load_library()[0] is None, reason=f"kernels cannot be compiled: {load_library()[1]}"
)

GRUS = [pytest.param(gru_layer, marks=needs_compiler, id="native")]
STEPS = [
    pytest.param(ReferenceKernels(), id="reference"),
    pytest.param(StepKernels("native"), marks=needs_compiler, id="native"),
]
LOSSES = [
    pytest.param(chunked_cross_entropy, id="chunked"),
    pytest.param(losses_by(native_chunk_losses)["cross_entropy"], marks=needs_compiler, id="native"),
]
INT8_PRODUCTS = [
    pytest.param(Int8Weight, id="reference"),
    pytest.param(OnednnInt8Weight, id="onednn"),
    pytest.param(OnednnNativeInt8Weight, id="onednn and native", marks=needs_compiler),
    pytest.param(NativeInt8Weight, id="native", marks=needs_compiler),
]
PREPACKED_WEIGHTS = [
    pytest.param(Fp32Weight, torch.float32, id="float32"),
    pytest.param(Bf16Weight, torch.bfloat16, id="bf16", marks=needs_onednn_bf16),
    pytest.param(Int8Weight, torch.int8, id="int8"),
    pytest.param(OnednnInt8Weight, torch.int8, id="int8-onednn"),
    pytest.param(OnednnNativeInt8Weight, torch.int8, id="int8-onednn-native", marks=needs_compiler),
    pytest.param(NativeInt8Weight, torch.int8, id="int8-native", marks=needs_compiler),
]

HAS_GPU = torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec("triton") is not None


def _interprets() -> bool:
    if not HAS_TRITON:
        return False
    import triton

    return NumpyVersion(np.__version__) < "2.4.0" or tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7)


needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="PyTorch finds no GPU")]
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="the package triton is not installed")
TRITON_DEVICES = [
    pytest.param(
        "cpu",
        id="interpreter",
        marks=[
            needs_triton,
            pytest.mark.skipif(HAS_GPU, reason="compiled for the GPU instead"),
            pytest.mark.skipif(not _interprets(), reason="Triton below 3.7 interprets with NumPy below 2.4 alone"),
        ],
    ),
    pytest.param(
        "cuda",
        id="cuda",
        marks=[needs_triton, *needs_gpu],
    ),
]
