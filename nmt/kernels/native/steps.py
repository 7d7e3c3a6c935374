"""The operations of a recurrence on a CPU, each in one pass over what it reads (kernels.h).

Shapes as in `recurrence.steps`.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from nmt.kernels.native.calls import FORMATS, Gates, Looking, address, calls
from nmt.kernels.recurrence import Annotations, FactoredSteps
from nmt.kernels.recurrence.steps import SourceSums


class NativeSteps(FactoredSteps):
    """The factors of the additive score, and gates, by compiled kernels."""

    def check(self, source: Annotations) -> None:
        super().check(source)
        assert source.memory.device.type == "cpu"
        assert source.memory.dtype in FORMATS
        assert source.keys.dtype == (source.memory if source.energy is None else source.bias).dtype

    def sums(self, source: Annotations) -> None:
        return None

    def look(
        self, query_QBA: Tensor, source: Annotations, context_QBC: Tensor, scores_QBS: Tensor, normalizer_QB: Tensor
    ) -> None:
        looking = _looking(query_QBA, source, scores_QBS, normalizer_QB)
        calls(source.memory.dtype).look(ctypes.byref(looking), context_QBC.data_ptr())

    def look_backward(
        self,
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
        looking = _looking(query_QBA, source, scores_QBS, normalizer_QB)
        short = d_query_QBA if d_query_QBA.dtype == source.memory.dtype else None
        exact = d_query_QBA if short is None else None
        calls(source.memory.dtype).look_backward(
            ctypes.byref(looking),
            d_context_QBC.data_ptr(),
            address(sent_QBC),
            address(d_weights_QBS),
            address(short),
            address(exact),
            *d_query_QBA.stride()[:2],
            d_looked_QBS.data_ptr(),
            add,
        )

    def keys_backward(
        self, query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor
    ) -> tuple[Tensor, Tensor]:
        queries, sentences, units = query_QBA.shape
        d_keys_BSA = torch.empty(keys_BSA.shape, dtype=keys_BSA.dtype)
        d_energy_BA = energy_A.new_empty(sentences, units)
        d_scores_QBS = d_scores_QBS.contiguous()
        looking = Looking(
            *(queries, sentences, keys_BSA.shape[1], units, 0),
            *(query_QBA.data_ptr(), *query_QBA.stride()[:2]),
            *(keys_BSA.data_ptr(), *keys_BSA.stride()[:2]),
            *(None, 0, 0, None, energy_A.data_ptr(), None, None),
        )
        calls(query_QBA.dtype).keys_backward(
            ctypes.byref(looking), d_scores_QBS.data_ptr(), d_keys_BSA.data_ptr(), d_energy_BA.data_ptr()
        )
        return d_keys_BSA, d_energy_BA.sum(0)

    def gru(
        self,
        input_BG: Tensor,
        more_BG: Tensor | None,
        recurrent_BG: Tensor,
        before_BH: Tensor,
        after_BH: Tensor,
        copy_BH: Tensor | None,
    ) -> None:
        gates = _gates(input_BG, more_BG, recurrent_BG, before_BH)
        calls(input_BG.dtype).gru(ctypes.byref(gates), after_BH.data_ptr(), address(copy_BH))

    def gru_backward(
        self,
        input_BG: Tensor,
        more_BG: Tensor | None,
        recurrent_BG: Tensor,
        before_BH: Tensor,
        d_after_BH: Tensor,
        sent_BH: Tensor | None,
        d_input_BG: Tensor,
        d_recurrent_BG: Tensor,
        d_before_BH: Tensor,
    ) -> None:
        calls(input_BG.dtype).gru_backward(
            ctypes.byref(_gates(input_BG, more_BG, recurrent_BG, before_BH)),
            d_after_BH.data_ptr(),
            address(sent_BH),
            d_input_BG.data_ptr(),
            d_input_BG.stride(0),
            d_recurrent_BG.data_ptr(),
            d_recurrent_BG.stride(0),
            d_before_BH.data_ptr(),
        )


def _looking(query_QBA: Tensor, source: Annotations, scores_QBS: Tensor, normalizer_QB: Tensor) -> Looking:
    queries, sentences, units = query_QBA.shape
    return Looking(
        *(queries, sentences, source.bias.shape[1], units, source.memory.shape[2]),
        *(query_QBA.data_ptr(), *query_QBA.stride()[:2]),
        *(source.keys.data_ptr(), *source.keys.stride()[:2]),
        *(source.memory.data_ptr(), *source.memory.stride()[:2]),
        *(source.bias.data_ptr(), address(source.energy), scores_QBS.data_ptr(), normalizer_QB.data_ptr()),
    )


def _gates(input_BG: Tensor, more_BG: Tensor | None, recurrent_BG: Tensor, before_BH: Tensor) -> Gates:
    return Gates(
        *before_BH.shape,
        *(input_BG.data_ptr(), address(more_BG), recurrent_BG.data_ptr()),
        *(input_BG.stride(0), 0 if more_BG is None else more_BG.stride(0), recurrent_BG.stride(0)),
        before_BH.data_ptr(),
    )
