"""What the kernels have in common: how much a program holds, what enters a cell, and their tanh.

Shapes: B sentences, G gates x H, F features.
"""

from __future__ import annotations

import functools

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.tape import Entering

TILE = 8192
"""Elements of keys, and of memory, that a program holds at a time: 32 a thread."""
MOST_POSITIONS = 32
"""Of a block, where features are few."""
WIDEST = 1024
"""Features of a sentence that a program of a cell computes."""


@triton.jit
def tanh(x):
    """tanh to 1e-7, without overflow."""
    # The interpreter knows no tanh.
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def from_input(inputs, more, b, input_b, more_b, at, inside, TWO: constexpr):
    """The input's half of what enters a cell, at these places of a sentence."""
    half = tl.load(inputs + b * input_b + at, mask=inside, other=0.0).to(tl.float32)
    if TWO:
        half += tl.load(more + b * more_b + at, mask=inside, other=0.0).to(tl.float32)
    return half


@triton.jit
def entered(inputs, more, recurrent, b, input_b, more_b, recurrent_b, at, inside, TWO: constexpr):
    """All that enters there."""
    half = from_input(inputs, more, b, input_b, more_b, at, inside, TWO)
    return half + tl.load(recurrent + b * recurrent_b + at, mask=inside, other=0.0).to(tl.float32)


@functools.cache
def blocks(units: int, features: int) -> dict[str, int]:
    """Sizes of what a program holds, and its number of warps."""
    block_a, block_c = triton.next_power_of_2(units), triton.next_power_of_2(features)
    widest = max(block_a, block_c)
    block_s = max(1, min(MOST_POSITIONS, TILE // widest))
    num_warps = 8 if widest * block_s > TILE // 2 else 4
    return {"BLOCK_S": block_s, "BLOCK_A": block_a, "BLOCK_C": block_c, "num_warps": num_warps}


def of(entering: Entering) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
    """The parts of what enters a cell, as kernels take them, and the distances between their rows."""
    input_BG, recurrent_BG, more_BG = entering
    more_BG = input_BG if more_BG is None else more_BG
    return (input_BG, more_BG, recurrent_BG), (input_BG.stride(0), more_BG.stride(0), recurrent_BG.stride(0))


def block(like_BF: Tensor) -> int:
    """Features of a row that a program of a cell computes."""
    return min(WIDEST, int(triton.next_power_of_2(like_BF.shape[1])))


def grid(like_BF: Tensor) -> tuple[int, int]:
    """Programs of a cell: one for each row and block of its features."""
    batch, features = like_BF.shape
    return batch, triton.cdiv(features, block(like_BF))
