"""Operations of recurrences and of the loss on a CPU, in C, compiled where they are first used."""

from nmt.kernels.native.build import load
from nmt.kernels.native.logits import chunk_losses
from nmt.kernels.native.packed import compiled_gru
from nmt.kernels.native.steps import NativeSteps

__all__ = ["NativeSteps", "chunk_losses", "compiled_gru", "load"]
