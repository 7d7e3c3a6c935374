"""`StepKernels.look_backward` and `StepKernels.keys_backward` as one kernel each.

A program serves one query of one sentence. It reads keys and memory once, a block of positions at a time, and holds
all features of a position, so that neither the hidden units [B, Q, S, A] nor a second pass is needed. The
hidden units are computed again.

Shapes: Q queries, B sentences, S source positions, A attention units, C memory features.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.fused.layout import blocks, tanh
from nmt.kernels.tape import Annotations
from nmt.kernels.tape.steps import SourceSums


@triton.jit
def _look_backward(
    query,
    keys,
    memory,
    energy,
    scores,
    normalizer,
    d_context,
    sent,
    d_weights,
    d_query,
    d_looked,
    query_q,
    query_b,
    keys_b,
    keys_s,
    memory_b,
    memory_s,
    d_query_q,
    d_query_b,
    batch,
    positions,
    units,
    features,
    ADDITIVE: constexpr,
    SENT: constexpr,
    WEIGHED: constexpr,
    ADD: constexpr,
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
    d_context += row * features
    d_mixed = tl.load(d_context + c, mask=c < features, other=0.0)
    if SENT:
        d_mixed += tl.load(sent + row * features + c, mask=c < features, other=0.0).to(tl.float32)
        tl.store(d_context + c, d_mixed, mask=c < features)
    log_total = tl.load(normalizer + row)
    # d_score = weight * (d_weight - mean), whose mean is known at the end: both parts of the sum are kept until then.
    mean = 0.0
    raised = tl.zeros([BLOCK_A], dtype=tl.float32)
    lowered = tl.zeros([BLOCK_A], dtype=tl.float32)
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
        found = tl.load(scores + row * positions + s, mask=inside, other=-float("inf"))
        weight = tl.exp(found - log_total)
        d_weight = tl.sum(value * d_mixed[None, :], 1)
        if WEIGHED:
            d_weight += tl.load(d_weights + row * positions + s, mask=inside, other=0.0)
        tl.store(d_looked + row * positions + s, d_weight, mask=inside)
        if ADDITIVE:
            hidden = tanh(asked[None, :] + key)
            slope = factor[None, :] * (1.0 - hidden * hidden)
        else:
            slope = key
        weighted = weight * d_weight
        mean += tl.sum(weighted, 0)
        raised += tl.sum(weighted[:, None] * slope, 0)
        lowered += tl.sum(weight[:, None] * slope, 0)
    gradient = raised - mean * lowered
    d_query += q * d_query_q + b * d_query_b
    if ADD:
        gradient += tl.load(d_query + a, mask=a < units, other=0.0).to(tl.float32)
    tl.store(d_query + a, gradient, mask=a < units)


@triton.jit
def _keys_backward(
    query,
    keys,
    energy,
    d_scores,
    d_keys,
    d_energy,
    query_q,
    query_b,
    keys_b,
    keys_s,
    queries,
    batch,
    positions,
    units,
    BLOCK_S: constexpr,
    BLOCK_A: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    s = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    a = tl.program_id(2) * BLOCK_A + tl.arange(0, BLOCK_A)
    inside = (s < positions)[:, None] & (a < units)[None, :]
    key = tl.load(keys + b * keys_b + s[:, None] * keys_s + a[None, :], mask=inside, other=0.0).to(tl.float32)
    bent = tl.zeros([BLOCK_S, BLOCK_A], dtype=tl.float32)
    reached = tl.zeros([BLOCK_S, BLOCK_A], dtype=tl.float32)
    query += b * query_b
    d_scores += b * positions
    for _ in range(0, queries):
        asked = tl.load(query + a, mask=a < units, other=0.0).to(tl.float32)
        d_score = tl.load(d_scores + s, mask=s < positions, other=0.0)
        hidden = tanh(asked[None, :] + key)
        reached += d_score[:, None] * hidden
        bent += d_score[:, None] * (1.0 - hidden * hidden)
        query += query_q
        d_scores += batch * positions
    factor = tl.load(energy + a, mask=a < units, other=0.0).to(tl.float32)
    tl.store(d_keys + (b * positions + s[:, None]) * units + a[None, :], bent * factor[None, :], mask=inside)
    part = b * tl.num_programs(1) + tl.program_id(1)
    tl.store(d_energy + part * units + a, tl.sum(reached, 0), mask=a < units)


def look_backward(
    query_QBA: Tensor,
    source: Annotations,
    scores_QBS: Tensor,
    normalizer_QB: Tensor,
    d_context_QBC: Tensor,
    sent_QBC: Tensor | None,
    d_weights_QBS: Tensor | None,
    d_query_QBA: Tensor,
    d_looked_QBS: Tensor,
    *,
    add: bool,
    sums: SourceSums | None = None,
) -> None:
    """As `StepKernels.look_backward`."""
    keys, memory, _, energy = source
    sent = d_context_QBC if sent_QBC is None else sent_QBC
    d_weights = d_looked_QBS if d_weights_QBS is None else d_weights_QBS
    queries, batch, units = query_QBA.shape
    _look_backward[(batch, queries)](
        query_QBA,
        keys,
        memory,
        query_QBA if energy is None else energy,
        scores_QBS,
        normalizer_QB,
        d_context_QBC,
        sent,
        d_weights,
        d_query_QBA,
        d_looked_QBS,
        *query_QBA.stride()[:2],
        *keys.stride()[:2],
        *memory.stride()[:2],
        *d_query_QBA.stride()[:2],
        batch,
        keys.shape[1],
        units,
        memory.shape[2],
        ADDITIVE=energy is not None,
        SENT=sent_QBC is not None,
        WEIGHED=d_weights_QBS is not None,
        ADD=add,
        **blocks(units, memory.shape[2]),
    )


def keys_backward(query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor) -> tuple[Tensor, Tensor]:
    """As `StepKernels.keys_backward`; each program sums over all queries, and the energy's parts are summed here."""
    queries, batch, units = query_QBA.shape
    positions = keys_BSA.shape[1]
    block_s, block_a = 16, min(128, triton.next_power_of_2(units))
    grid = (batch, triton.cdiv(positions, block_s), triton.cdiv(units, block_a))
    d_keys_BSA = torch.empty_like(keys_BSA, memory_format=torch.contiguous_format)
    d_energy_BNA = d_scores_QBS.new_empty(batch, grid[1], units)
    _keys_backward[grid](
        query_QBA,
        keys_BSA,
        energy_A,
        d_scores_QBS,
        d_keys_BSA,
        d_energy_BNA,
        *query_QBA.stride()[:2],
        *keys_BSA.stride()[:2],
        queries,
        batch,
        positions,
        units,
        BLOCK_S=block_s,
        BLOCK_A=block_a,
    )
    return d_keys_BSA, d_energy_BNA.sum((0, 1))
