"""Attention in C (attention.h), each pass reading its operands once. Keys of the additive score are exponentials.

Shapes as in `nmt.kernels.steps`.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from nmt.kernels import attention as reference
from nmt.kernels.compiler import FORMATS, address, can_be_called, declare
from nmt.kernels.steps import Annotations

_calls = declare(
    {"attention": "pp", "attention_backward": "ppppppsspi", "attention_keys_backward": "pppp", "scores": "sssspppp"}
)


class _Attention(ctypes.Structure):
    """`Attention` of attention.h."""

    _fields_ = (
        *((name, c_int64) for name in ("queries", "sentences", "positions", "units", "features")),
        *(("query", c_void_p), ("query_stride", c_int64), ("query_sentence_stride", c_int64)),
        *(("keys", c_void_p), ("keys_sentence_stride", c_int64), ("keys_position_stride", c_int64)),
        *(("memory", c_void_p), ("memory_sentence_stride", c_int64), ("memory_position_stride", c_int64)),
        *((name, c_void_p) for name in ("bias", "energy", "scores", "normalizer")),
    )


def additive_scores(query: Tensor, keys: Tensor, exponential_keys: Tensor, energy_A: Tensor) -> Tensor:
    """Computes additive scores without gradients; PyTorch does it with gradients or broadcast keys."""
    if not (can_be_called(query, exponential_keys) and query.shape[:-2] == keys.shape[:-2]):
        return reference.additive_scores(query, keys, exponential_keys, energy_A)
    query, keys = reference.exponentials(query).contiguous(), exponential_keys.contiguous()
    energy_A = energy_A.to(keys.dtype).contiguous()
    *leading, queries, units = query.shape
    positions = keys.shape[-2]
    scores = query.new_empty(*leading, queries, positions)
    _calls(query.dtype).scores(
        *(math.prod(leading), queries, positions, units),
        *(query.data_ptr(), keys.data_ptr(), energy_A.data_ptr(), scores.data_ptr()),
    )
    return scores


def attention_prepare(source: Annotations) -> Annotations:
    """The source with exponentials of the keys and an energy in the accumulation dtype, for an additive score.

    Checks shapes and dtypes, because the C functions read only addresses and strides.
    """
    if source.energy is not None:
        # Scores are summed in float32 also for bf16 operands.
        source = source._replace(keys=reference.exponentials(source.keys), energy=source.energy.to(source.bias.dtype))
    for tensor in (source.keys, source.memory):
        assert tensor.stride(-1) == 1 or tensor.shape[-1] == 1, "features lie side by side"
    assert source.bias.is_contiguous()
    assert source.memory.device.type == "cpu"
    assert source.memory.dtype in FORMATS
    assert source.keys.dtype == (source.memory if source.energy is None else source.bias).dtype
    return source


def attention_forward(
    query_QBA: Tensor, source: Annotations, context_QBC: Tensor, scores_QBS: Tensor, normalizer_QB: Tensor
) -> None:
    arguments = _arguments(query_QBA, source, scores_QBS, normalizer_QB)
    _calls(source.memory.dtype).attention(ctypes.byref(arguments), context_QBC.data_ptr())


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
    arguments = _arguments(query_QBA, source, scores_QBS, normalizer_QB)
    is_operand = d_query_QBA.dtype == source.memory.dtype
    d_queries = (d_query_QBA, None) if is_operand else (None, d_query_QBA)
    _calls(source.memory.dtype).attention_backward(
        *(ctypes.byref(arguments), d_context_QBC.data_ptr(), address(pending_QBC), address(d_weights_QBS)),
        *(*map(address, d_queries), *d_query_QBA.stride()[:2], d_all_weights_QBS.data_ptr(), add),
    )


def attention_keys_backward(
    query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor
) -> tuple[Tensor, Tensor]:
    queries, sentences, units = query_QBA.shape
    d_keys_BSA = torch.empty(keys_BSA.shape, dtype=keys_BSA.dtype)
    d_energy_BA = energy_A.new_empty(sentences, units)
    d_scores_QBS = d_scores_QBS.contiguous()
    arguments = _Attention(
        *(queries, sentences, keys_BSA.shape[1], units, 0),
        *(query_QBA.data_ptr(), *query_QBA.stride()[:2]),
        *(keys_BSA.data_ptr(), *keys_BSA.stride()[:2]),
        *(None, 0, 0, None, energy_A.data_ptr(), None, None),
    )
    _calls(query_QBA.dtype).attention_keys_backward(
        ctypes.byref(arguments), d_scores_QBS.data_ptr(), d_keys_BSA.data_ptr(), d_energy_BA.data_ptr()
    )
    return d_keys_BSA, d_energy_BA.sum(0)


def _arguments(query_QBA: Tensor, source: Annotations, scores_QBS: Tensor, normalizer_QB: Tensor) -> _Attention:
    queries, sentences, units = query_QBA.shape
    return _Attention(
        *(queries, sentences, source.bias.shape[1], units, source.memory.shape[2]),
        *(query_QBA.data_ptr(), *query_QBA.stride()[:2]),
        *(source.keys.data_ptr(), *source.keys.stride()[:2]),
        *(source.memory.data_ptr(), *source.memory.stride()[:2]),
        *(source.bias.data_ptr(), address(source.energy), scores_QBS.data_ptr(), normalizer_QB.data_ptr()),
    )
