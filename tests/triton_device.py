"""Where Triton's kernels can be tested: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from numpy.lib import NumpyVersion

HAS_GPU = torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec("triton") is not None


def _interprets() -> bool:
    if not HAS_TRITON:
        return False
    import triton

    return NumpyVersion(np.__version__) < "2.4.0" or tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7)


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
        marks=[needs_triton, pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="PyTorch finds no GPU")],
    ),
]
