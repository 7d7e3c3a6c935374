"""Attention in C (attention.h), each pass reading its operands once. Keys of the additive score are exponentials.

Shapes as in `nmt.kernels.steps`.
"""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

from nmt.kernels import attention as reference
from nmt.kernels.compiler import FORMATS, address, can_be_called, declare
from nmt.kernels.steps import Annotations

_calls = declare(
    {"attention": "pp", "attention_backward": "ppppppsspi", "attention_keys_backward": "pppp", "scores": "sssspppp"}
)


_pack = struct.Struct("5qP2qP2qP2q4P").pack
"""Makes `Attention` of attention.h: the sizes; query, keys and memory, each an address and the strides of its first two
dimensions; and the addresses of bias, energy, scores and normalizer."""


def additive_scores(query: Tensor, keys: Tensor, exponential_keys: Tensor, energy_A: Tensor) -> Tensor:
    """Computes additive scores without gradients; PyTorch does it with gradients or broadcast keys."""
    if not (can_be_called(query, exponential_keys) and query.shape[:-2] == keys.shape[:-2]):
        return reference.additive_scores(query, keys, exponential_keys, energy_A)
    query, keys = reference.exponentials(query).contiguous(), exponential_keys.contiguous()
    energy_A = energy_A.to(keys.dtype).contiguous()
    *leading, queries, units = query.shape
    positions = keys.shape[-2]
    scores = query.new_empty(*leading, queries, positions)
    addresses = map(address, (query, keys, energy_A, scores))
    _calls(query.dtype).scores(math.prod(leading), queries, positions, units, *addresses)
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
    layout = _layout(query_QBA, source, scores_QBS, normalizer_QB)
    _calls(source.memory.dtype).attention(layout, context_QBC.data_ptr())


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
    layout = _layout(query_QBA, source, scores_QBS, normalizer_QB)
    d_query, *d_query_strides = _rows(d_query_QBA)
    # Written in the compute dtype or in the accumulation dtype.
    d_queries = (d_query, None) if d_query_QBA.dtype == source.memory.dtype else (None, d_query)
    gradients = map(address, (d_context_QBC, pending_QBC, d_weights_QBS))
    _calls(source.memory.dtype).attention_backward(
        layout, *gradients, *d_queries, *d_query_strides, d_all_weights_QBS.data_ptr(), add
    )


def attention_keys_backward(
    query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor
) -> tuple[Tensor, Tensor]:
    queries, sentences, units = query_QBA.shape
    d_keys_BSA = torch.empty(keys_BSA.shape, dtype=keys_BSA.dtype)
    d_energy_BA = energy_A.new_empty(sentences, units)
    layout = _pack(
        *(queries, sentences, keys_BSA.shape[1], units, 0),
        *(*_rows(query_QBA), *_rows(keys_BSA), 0, 0, 0, 0, energy_A.data_ptr(), 0, 0),
    )
    gradients = (d_scores_QBS.contiguous(), d_keys_BSA, d_energy_BA)
    _calls(query_QBA.dtype).attention_keys_backward(layout, *map(address, gradients))
    return d_keys_BSA, d_energy_BA.sum(0)


def _layout(query_QBA: Tensor, source: Annotations, scores_QBS: Tensor, normalizer_QB: Tensor) -> bytes:
    keys, memory, bias, energy = source
    return _pack(
        *(*query_QBA.shape[:2], bias.shape[1], query_QBA.shape[2], memory.shape[2]),
        *(*_rows(query_QBA), *_rows(keys), *_rows(memory)),
        *(bias.data_ptr(), address(energy), scores_QBS.data_ptr(), normalizer_QB.data_ptr()),
    )


def _rows(tensor: Tensor) -> tuple[int, int, int]:
    """Returns the address and the strides of the first two dimensions."""
    stride, other_stride, _ = tensor.stride()
    return tensor.data_ptr(), stride, other_stride
