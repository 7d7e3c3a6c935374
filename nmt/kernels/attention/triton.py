"""Attention as Triton kernels: forward, backward, and the gradient of the keys.

A program of the first two serves one query of one sentence. It reads keys and memory once, a block of positions at a
time, and holds all features of a position, so that neither the hidden units [B, Q, S, A] nor a second pass is needed:
the softmax is normalised on the way (Milakov 2018). The backward pass computes the hidden units again.

Shapes: Q queries, B sentences, S source positions, A attention units, C memory features.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from nmt.kernels.rnn.triton import add_optional, load, tanh
from nmt.kernels.steps import Annotations

TILE = 8192
"""Elements of keys, and of memory, in a program's block: 32 a thread."""
MOST_POSITIONS = 32
"""Upper bound of the positions of a block."""


@triton.jit
def _load_positions(sequence, sequence_b, sequence_s, b, s, positions, f, features):
    """Loads the features of some positions of a sentence."""
    inside = (s < positions)[:, None] & (f < features)[None, :]
    return load(sequence + b * sequence_b + s[:, None] * sequence_s + f[None, :], inside)


@triton.jit
def _attention(
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
    positions,
    units,
    features,
    BLOCK_S: constexpr,
    BLOCK_A: constexpr,
    BLOCK_C: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    q = tl.program_id(1).to(tl.int64)
    row = q * tl.num_programs(0) + b
    a = tl.arange(0, BLOCK_A)
    c = tl.arange(0, BLOCK_C)
    query_row = load(query + q * query_q + b * query_b + a, a < units)
    if energy is not None:
        energy_row = load(energy + a, a < units)
    largest = -float("inf")
    total = 0.0
    context_row = tl.zeros([BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        inside = s < positions
        key = _load_positions(keys, keys_b, keys_s, b, s, positions, a, units)
        value = _load_positions(memory, memory_b, memory_s, b, s, positions, c, features)
        if energy is not None:
            score = tl.sum(energy_row[None, :] * tanh(query_row[None, :] + key), 1)
        else:
            score = tl.sum(query_row[None, :] * key, 1)
        score += tl.load(bias + b * positions + s, mask=inside, other=-float("inf"))
        tl.store(scores + row * positions + s, score, mask=inside)
        new_largest = tl.maximum(largest, tl.max(score, 0))
        # While all positions so far are excluded, the largest score is minus infinity and must not be subtracted.
        shift = tl.where(new_largest == -float("inf"), 0.0, new_largest)
        rescale = tl.exp(largest - shift)
        weight = tl.exp(score - shift)
        total = total * rescale + tl.sum(weight, 0)
        context_row = context_row * rescale + tl.sum(weight[:, None] * value, 0)
        largest = new_largest
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    tl.store(normalizer + row, tl.where(empty, 0.0, largest + tl.log(total)))
    tl.store(context + row * features + c, context_row / total, mask=c < features)


@triton.jit
def _attention_backward(
    query,
    keys,
    memory,
    energy,
    scores,
    normalizer,
    d_context,
    pending,
    d_weights,
    d_query,
    d_all_weights,
    query_q,
    query_b,
    keys_b,
    keys_s,
    memory_b,
    memory_s,
    d_query_q,
    d_query_b,
    positions,
    units,
    features,
    ADD: constexpr,
    BLOCK_S: constexpr,
    BLOCK_A: constexpr,
    BLOCK_C: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    q = tl.program_id(1).to(tl.int64)
    row = q * tl.num_programs(0) + b
    a = tl.arange(0, BLOCK_A)
    c = tl.arange(0, BLOCK_C)
    query_row = load(query + q * query_q + b * query_b + a, a < units)
    if energy is not None:
        energy_row = load(energy + a, a < units)
    d_context += row * features
    d_context_row = load(d_context + c, c < features)
    if pending is not None:
        d_context_row += load(pending + row * features + c, c < features)
        tl.store(d_context + c, d_context_row, mask=c < features)
    log_total = tl.load(normalizer + row)
    # d_score = weight * (d_weight - mean). The mean is known after the loop, so both parts are summed separately.
    mean = 0.0
    raised = tl.zeros([BLOCK_A], dtype=tl.float32)
    lowered = tl.zeros([BLOCK_A], dtype=tl.float32)
    for start in range(0, positions, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        inside = s < positions
        key = _load_positions(keys, keys_b, keys_s, b, s, positions, a, units)
        value = _load_positions(memory, memory_b, memory_s, b, s, positions, c, features)
        score = tl.load(scores + row * positions + s, mask=inside, other=-float("inf"))
        weight = tl.exp(score - log_total)
        d_weight = tl.sum(value * d_context_row[None, :], 1)
        d_weight = add_optional(d_weight, d_weights, row * positions + s, inside)
        tl.store(d_all_weights + row * positions + s, d_weight, mask=inside)
        if energy is not None:
            hidden = tanh(query_row[None, :] + key)
            slope = energy_row[None, :] * (1.0 - hidden * hidden)
        else:
            slope = key
        weighted = weight * d_weight
        mean += tl.sum(weighted, 0)
        raised += tl.sum(weighted[:, None] * slope, 0)
        lowered += tl.sum(weight[:, None] * slope, 0)
    gradient = raised - mean * lowered
    d_query += q * d_query_q + b * d_query_b
    if ADD:
        gradient += load(d_query + a, a < units)
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
    positions,
    units,
    BLOCK_S: constexpr,
    BLOCK_A: constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    s = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    a = tl.program_id(2) * BLOCK_A + tl.arange(0, BLOCK_A)
    key = _load_positions(keys, keys_b, keys_s, b, s, positions, a, units)
    d_key = tl.zeros([BLOCK_S, BLOCK_A], dtype=tl.float32)
    d_energy_row = tl.zeros([BLOCK_S, BLOCK_A], dtype=tl.float32)
    query += b * query_b
    d_scores += b * positions
    for _ in range(0, queries):
        query_row = load(query + a, a < units)
        d_score = load(d_scores + s, s < positions)
        hidden = tanh(query_row[None, :] + key)
        d_energy_row += d_score[:, None] * hidden
        d_key += d_score[:, None] * (1.0 - hidden * hidden)
        query += query_q
        d_scores += tl.num_programs(0) * positions
    energy_row = load(energy + a, a < units)
    inside = (s < positions)[:, None] & (a < units)[None, :]
    tl.store(d_keys + (b * positions + s[:, None]) * units + a[None, :], d_key * energy_row[None, :], mask=inside)
    part = b * tl.num_programs(1) + tl.program_id(1)
    tl.store(d_energy + part * units + a, tl.sum(d_energy_row, 0), mask=a < units)


@functools.cache
def blocks(units: int, features: int) -> dict[str, int]:
    """Returns the block sizes and the number of warps of a program."""
    block_a, block_c = triton.next_power_of_2(units), triton.next_power_of_2(features)
    widest = max(block_a, block_c)
    block_s = max(1, min(MOST_POSITIONS, TILE // widest))
    num_warps = 8 if widest * block_s > TILE // 2 else 4
    return {"BLOCK_S": block_s, "BLOCK_A": block_a, "BLOCK_C": block_c, "num_warps": num_warps}


def attention_prepare(source: Annotations) -> Annotations:
    """Checks strides and dtypes, because the kernels read only addresses and strides."""
    for tensor in (source.keys, source.memory):
        assert tensor.stride(-1) == 1 or tensor.shape[-1] == 1, "features lie side by side"
    assert source.bias.is_contiguous()
    assert source.bias.dtype == torch.float32, "kernels compute in single precision"
    return source


def attention_forward(
    query_QBA: Tensor, source: Annotations, context_QBC: Tensor, scores_QBS: Tensor, normalizer_QB: Tensor
) -> None:
    grid, strides, sizes = _layout(query_QBA, source)
    tensors = (query_QBA, *source, context_QBC, scores_QBS, normalizer_QB)
    _attention[grid](*tensors, *strides, *sizes, **blocks(*sizes[1:]))


def attention_backward(
    query_QBA: Tensor,
    source: Annotations,
    scores_QBS: Tensor,
    normalizer_QB: Tensor,
    d_context_QBC: Tensor,
    pending_QBC: Tensor | None,
    d_weights_QBS: Tensor | None,
    d_query_QBA: Tensor,
    d_all_weights_QBS: Tensor,
    *,
    add: bool,
) -> None:
    grid, strides, sizes = _layout(query_QBA, source)
    forward = (query_QBA, source.keys, source.memory, source.energy, scores_QBS, normalizer_QB)
    gradients = (d_context_QBC, pending_QBC, d_weights_QBS, d_query_QBA, d_all_weights_QBS)
    strides += d_query_QBA.stride()[:2]
    _attention_backward[grid](*forward, *gradients, *strides, *sizes, ADD=add, **blocks(*sizes[1:]))


def _layout(query_QBA: Tensor, source: Annotations) -> tuple[tuple[int, int], tuple[int, ...], tuple[int, ...]]:
    """Returns the grid, the strides of query, keys and memory, and the numbers S, A and C."""
    queries, batch, units = query_QBA.shape
    strides = (*query_QBA.stride()[:2], *source.keys.stride()[:2], *source.memory.stride()[:2])
    return (batch, queries), strides, (source.keys.shape[1], units, source.memory.shape[2])


def attention_keys_backward(
    query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of keys and energy. A program sums over all queries, but the energy over a block only."""
    queries, batch, units = query_QBA.shape
    positions = keys_BSA.shape[1]
    block_s, block_a = 16, min(128, triton.next_power_of_2(units))
    grid = (batch, triton.cdiv(positions, block_s), triton.cdiv(units, block_a))
    d_keys_BSA = torch.empty_like(keys_BSA, memory_format=torch.contiguous_format)
    d_energy_BNA = d_scores_QBS.new_empty(batch, grid[1], units)
    tensors = (query_QBA, keys_BSA, energy_A, d_scores_QBS, d_keys_BSA, d_energy_BNA)
    strides, sizes = (*query_QBA.stride()[:2], *keys_BSA.stride()[:2]), (queries, positions, units)
    _keys_backward[grid](*tensors, *strides, *sizes, BLOCK_S=block_s, BLOCK_A=block_a)
    return d_keys_BSA, d_energy_BNA.sum((0, 1))
