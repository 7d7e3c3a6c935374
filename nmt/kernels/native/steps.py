"""The operations of a recurrence on a CPU, each in one pass over what it reads (kernels.h, cells.h).

Shapes as in `recurrence.steps`.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from nmt.kernels.native import calls as calls_of
from nmt.kernels.native.calls import FORMATS, Looking, address, calls
from nmt.kernels.tape import Annotations, Entering, FactoredSteps
from nmt.kernels.tape.steps import SourceSums


class NativeSteps(FactoredSteps):
    """The factors of the additive score, and cells, by compiled kernels."""

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

    def gru(self, entering: Entering, before_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None) -> None:
        calls(entering.input_BG.dtype).gru(
            ctypes.byref(_entering(entering, before_BH)), before_BH.data_ptr(), after_BH.data_ptr(), address(copy_BH)
        )

    def gru_backward(
        self,
        entering: Entering,
        before_BH: Tensor,
        d_after_BH: Tensor,
        sent_BH: Tensor | None,
        d_input_BG: Tensor,
        d_recurrent_BG: Tensor,
        d_before_BH: Tensor,
    ) -> None:
        calls(entering.input_BG.dtype).gru_backward(
            *(ctypes.byref(_entering(entering, before_BH)), before_BH.data_ptr()),
            *(d_after_BH.data_ptr(), address(sent_BH)),
            *(*_place(d_input_BG), *_place(d_recurrent_BG), d_before_BH.data_ptr()),
        )

    def lstm(
        self, entering: Entering, cell_BH: Tensor, after_cell_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None
    ) -> None:
        calls(entering.input_BG.dtype).lstm(
            *(ctypes.byref(_entering(entering, cell_BH)), cell_BH.data_ptr(), after_cell_BH.data_ptr()),
            *(after_BH.data_ptr(), address(copy_BH)),
        )

    def lstm_backward(
        self,
        entering: Entering,
        cell_BH: Tensor,
        after_cell_BH: Tensor,
        d_after_BH: Tensor,
        sent_BH: Tensor | None,
        d_after_cell_BH: Tensor,
        d_one_BG: Tensor,
        d_other_BG: Tensor | None,
        d_cell_BH: Tensor,
    ) -> None:
        calls(entering.input_BG.dtype).lstm_backward(
            *(ctypes.byref(_entering(entering, cell_BH)), cell_BH.data_ptr(), after_cell_BH.data_ptr()),
            *(d_after_BH.data_ptr(), address(sent_BH), d_after_cell_BH.data_ptr()),
            *(*_place(d_one_BG), *_place(d_other_BG), d_cell_BH.data_ptr()),
        )

    def mix(self, entering: Entering, mixed_BR: Tensor, copy_BR: Tensor | None) -> None:
        short = entering.input_BG.dtype
        # A mixture that is kept in the format of products alone is its own copy.
        places = (None, mixed_BR) if mixed_BR.dtype == short and copy_BR is None else (mixed_BR, copy_BR)
        calls(short).mix(ctypes.byref(_entering(entering, mixed_BR)), *map(address, places))

    def mix_backward(
        self,
        mixed_BR: Tensor,
        d_mixed_BR: Tensor,
        sent_BR: Tensor | None,
        d_one_BR: Tensor,
        d_other_BR: Tensor | None,
    ) -> None:
        places = (mixed_BR, None) if mixed_BR.dtype == d_mixed_BR.dtype else (None, mixed_BR)
        calls(d_one_BR.dtype).mix_backward(
            *(*mixed_BR.shape, *map(address, places), d_mixed_BR.data_ptr(), address(sent_BR)),
            *(*_place(d_one_BR), *_place(d_other_BR)),
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


def _entering(entering: Entering, state_BH: Tensor) -> calls_of.Entering:
    input_BG, recurrent_BG, more_BG = entering
    return calls_of.Entering(
        *state_BH.shape,
        *(input_BG.data_ptr(), address(more_BG), recurrent_BG.data_ptr()),
        *(input_BG.stride(0), 0 if more_BG is None else more_BG.stride(0), recurrent_BG.stride(0)),
    )


def _place(rows: Tensor | None) -> tuple[int | None, int]:
    """Where rows begin, and the distance from one to the next."""
    return address(rows), 0 if rows is None else rows.stride(0)
