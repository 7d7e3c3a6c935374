"""What the kernels have in common: how much a program holds, and their tanh."""

from __future__ import annotations

import functools

import triton
import triton.language as tl

TILE = 8192
"""Elements of keys, and of memory, that a program holds at a time: 32 a thread."""
MOST_POSITIONS = 32
"""Of a block, where features are few."""


@triton.jit
def tanh(x):
    """tanh to 1e-7, without overflow."""
    # The interpreter knows no tanh.
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@functools.cache
def blocks(units: int, features: int) -> dict[str, int]:
    """Sizes of what a program holds, and its number of warps."""
    block_a, block_c = triton.next_power_of_2(units), triton.next_power_of_2(features)
    widest = max(block_a, block_c)
    block_s = max(1, min(MOST_POSITIONS, TILE // widest))
    num_warps = 8 if widest * block_s > TILE // 2 else 4
    return {"BLOCK_S": block_s, "BLOCK_A": block_a, "BLOCK_C": block_c, "num_warps": num_warps}
