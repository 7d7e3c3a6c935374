"""The operations of a recurrence as Triton kernels. Importing this needs the package `triton`."""

from __future__ import annotations

import torch

from nmt.kernels.fused import gates, sums
from nmt.kernels.fused import look as forward
from nmt.kernels.fused import look_backward as backward
from nmt.kernels.tape import Annotations, Entering, StepKernels


class FusedSteps(StepKernels):
    """One kernel each."""

    def check(self, source: Annotations) -> None:
        super().check(source)
        assert source.bias.dtype == torch.float32, "kernels compute in single precision"

    look = staticmethod(forward.look)
    look_backward = staticmethod(backward.look_backward)
    keys_backward = staticmethod(backward.keys_backward)
    gru = staticmethod(gates.gru)
    gru_backward = staticmethod(gates.gru_backward)
    lstm = staticmethod(sums.lstm)
    lstm_backward = staticmethod(sums.lstm_backward)
    mix = staticmethod(sums.mix)
    mix_backward = staticmethod(sums.mix_backward)


def missing(device: torch.device) -> str:
    """Why no kernel can be launched on this device; empty where one can, which the first time takes a second."""
    one = torch.ones(1, 1, device=device)
    try:
        FusedSteps().mix(Entering(one, one), torch.empty_like(one), None)
    except Exception as error:
        # Triton also needs a C compiler and Python's headers, and says so in errors of many classes.
        why = str(error).partition("\n")[0]
        return f"Triton launches no kernel here ({type(error).__name__}: {why})"
    return ""
