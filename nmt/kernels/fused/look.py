"""`StepKernels.look` as one kernel.

A program serves one query of one sentence. It reads keys and memory once, a block of positions at a time, and holds
all features of a position, so that neither the hidden units [B, Q, S, A] nor a second pass is needed: the
softmax is normalised on the way (Milakov 2018).

Shapes: Q queries, B sentences, S source positions, A attention units, C memory features.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.fused.layout import blocks, tanh
from nmt.kernels.tape import Annotations


@triton.jit
def _look(
    query,
    keys,
    memory,
    bias,
    energy,
    context,
    scores,
    normalizer,
    query_q,
    query_b,
    keys_b,
    keys_s,
    memory_b,
    memory_s,
    batch,
    positions,
    units,
    features,
    ADDITIVE: constexpr,
    BLOCK_S: constexpr,
    BLOCK_A: constexpr,
    BLOCK_C: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    q = tl.program_id(1).to(tl.int64)
    row = q * batch + b
    a = tl.arange(0, BLOCK_A)
    c = tl.arange(0, BLOCK_C)
    asked = tl.load(query + q * query_q + b * query_b + a, mask=a < units, other=0.0).to(tl.float32)
    if ADDITIVE:
        factor = tl.load(energy + a, mask=a < units, other=0.0).to(tl.float32)
    best = -float("inf")
    total = 0.0
    mixed = tl.zeros([BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        inside = s < positions
        key = tl.load(
            keys + b * keys_b + s[:, None] * keys_s + a[None, :],
            mask=inside[:, None] & (a < units)[None, :],
            other=0.0,
        ).to(tl.float32)
        value = tl.load(
            memory + b * memory_b + s[:, None] * memory_s + c[None, :],
            mask=inside[:, None] & (c < features)[None, :],
            other=0.0,
        ).to(tl.float32)
        if ADDITIVE:
            found = tl.sum(factor[None, :] * tanh(asked[None, :] + key), 1)
        else:
            found = tl.sum(asked[None, :] * key, 1)
        found += tl.load(bias + b * positions + s, mask=inside, other=-float("inf"))
        tl.store(scores + row * positions + s, found, mask=inside)
        highest = tl.maximum(best, tl.max(found, 0))
        # Where nothing has been allowed so far there is no highest score to subtract.
        shift = tl.where(highest == -float("inf"), 0.0, highest)
        rescale = tl.exp(best - shift)
        weight = tl.exp(found - shift)
        total = total * rescale + tl.sum(weight, 0)
        mixed = mixed * rescale + tl.sum(weight[:, None] * value, 0)
        best = highest
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    tl.store(normalizer + row, tl.where(empty, 0.0, best + tl.log(total)))
    tl.store(context + row * features + c, mixed / total, mask=c < features)


def look(
    query_QBA: Tensor, source: Annotations, context_QBC: Tensor, scores_QBS: Tensor, normalizer_QB: Tensor
) -> None:
    """As `StepKernels.look`."""
    keys, memory, bias, energy = source
    queries, batch, units = query_QBA.shape
    _look[(batch, queries)](
        query_QBA,
        keys,
        memory,
        bias,
        query_QBA if energy is None else energy,
        context_QBC,
        scores_QBS,
        normalizer_QB,
        *query_QBA.stride()[:2],
        *keys.stride()[:2],
        *memory.stride()[:2],
        batch,
        keys.shape[1],
        units,
        memory.shape[2],
        ADDITIVE=energy is not None,
        **blocks(units, memory.shape[2]),
    )
