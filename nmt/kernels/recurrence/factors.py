"""The operations of a recurrence on a CPU: the additive score by its factors (`kernels.additive`).

Shapes as in `recurrence.steps`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.kernels.additive import exponentials, reciprocals
from nmt.kernels.recurrence.steps import Annotations, Steps


class FactoredSteps(Steps):
    """The reference, but for tanh(q + k): keys are exponentials here, and the tanh is made of them and the query's."""

    def prepare(self, source: Annotations) -> Annotations:
        if source.energy is None:
            return source
        # The score of bf16 products is summed in float32: so are its parts.
        return source._replace(keys=exponentials(source.keys), energy=source.energy.to(source.bias.dtype))

    def additive_scores(self, query_BQA: Tensor, keys_BSA: Tensor, energy_A: Tensor) -> Tensor:
        return energy_A.sum() - 2.0 * (_reciprocals(query_BQA, keys_BSA) @ energy_A)

    def additive_query_backward(
        self, query_BQA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_BQS: Tensor
    ) -> Tensor:
        r_BQSA = _reciprocals(query_BQA, keys_BSA)
        slope_BQSA = torch.addcmul(r_BQSA, r_BQSA, r_BQSA, value=-1.0, out=r_BQSA)
        # The gradients of a look's scores add up to nothing: rounded, they would not.
        return (d_scores_BQS.unsqueeze(2) @ slope_BQSA).squeeze(2) * (4.0 * energy_A)

    def keys_backward(
        self, query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor
    ) -> tuple[Tensor, Tensor]:
        d_keys_BSA = torch.zeros_like(keys_BSA)
        room_BSA = torch.empty_like(keys_BSA)
        seen_A = torch.zeros_like(energy_A)
        for query_BA, d_scores_BS in zip(exponentials(query_QBA), d_scores_QBS, strict=True):
            r_BSA = reciprocals(query_BA.unsqueeze(1), keys_BSA, out=room_BSA)
            seen_A += d_scores_BS.flatten() @ r_BSA.flatten(0, 1)
            slope_BSA = torch.addcmul(r_BSA, r_BSA, r_BSA, value=-1.0, out=r_BSA)
            d_keys_BSA.addcmul_(slope_BSA, d_scores_BS.unsqueeze(2))
        return d_keys_BSA.mul_(4.0 * energy_A), d_scores_QBS.sum() - 2.0 * seen_A


def _reciprocals(query_BQA: Tensor, keys_BSA: Tensor) -> Tensor:
    return reciprocals(exponentials(query_BQA).unsqueeze(2), keys_BSA.unsqueeze(1))
