"""The operations of a recurrence on a CPU: the additive score by its factors (`kernels.additive`), gates in place.

Shapes as in `recurrence.steps`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.kernels.additive import exponentials, reciprocals
from nmt.kernels.gates import tanh_
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

    def gru(
        self,
        input_BG: Tensor,
        more_BG: Tensor | None,
        recurrent_BG: Tensor,
        before_BH: Tensor,
        after_BH: Tensor,
        copy_BH: Tensor | None,
    ) -> None:
        """As the reference; both gates are left in the place of their recurrent half, which nobody else reads."""
        if recurrent_BG.dtype != after_BH.dtype:
            return super().gru(input_BG, more_BG, recurrent_BG, before_BH, after_BH, copy_BH)
        hidden = before_BH.shape[1]
        gates_BG = recurrent_BG[:, : 2 * hidden].add_(input_BG[:, : 2 * hidden])
        if more_BG is not None:
            gates_BG.add_(more_BG[:, : 2 * hidden])
        gates_BG.sigmoid_()
        candidate_BH = _candidate(input_BG, more_BG, recurrent_BG, hidden)
        torch.lerp(candidate_BH, before_BH, gates_BG[:, hidden:], out=after_BH)

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
        if recurrent_BG.dtype != before_BH.dtype:
            return super().gru_backward(
                input_BG,
                more_BG,
                recurrent_BG,
                before_BH,
                d_after_BH,
                sent_BH,
                d_input_BG,
                d_recurrent_BG,
                d_before_BH,
            )
        hidden = before_BH.shape[1]
        reset_BH, update_BH, recurrent_BH = recurrent_BG.chunk(3, 1)
        d_reset_BH, d_update_BH, d_candidate_BH = d_input_BG.chunk(3, 1)
        candidate_BH = _candidate(input_BG, more_BG, recurrent_BG, hidden)
        d_after_BH = d_after_BH if sent_BH is None else d_after_BH + sent_BH
        passed_BH = d_after_BH * update_BH
        d_before_BH += passed_BH
        # The rest goes to the candidate.
        entered_BH = d_after_BH - passed_BH
        torch.addcmul(entered_BH, entered_BH, candidate_BH.square(), value=-1.0, out=d_candidate_BH)
        torch.sub(before_BH, candidate_BH, out=d_update_BH).mul_(update_BH).mul_(entered_BH)
        d_recurrent_BH = torch.mul(d_candidate_BH, reset_BH, out=d_recurrent_BG[:, 2 * hidden :])
        torch.mul(d_recurrent_BH, recurrent_BH, out=d_reset_BH)
        d_reset_BH.addcmul_(d_reset_BH, reset_BH, value=-1.0)
        d_recurrent_BG[:, : 2 * hidden].copy_(d_input_BG[:, : 2 * hidden])


def _candidate(input_BG: Tensor, more_BG: Tensor | None, recurrent_BG: Tensor, hidden: int) -> Tensor:
    """tanh(a + r * b), with r in the place of its pre-activation."""
    entry_BH = input_BG[:, 2 * hidden :]
    if more_BG is not None:
        entry_BH = entry_BH + more_BG[:, 2 * hidden :]
    return tanh_(torch.addcmul(entry_BH, recurrent_BG[:, :hidden], recurrent_BG[:, 2 * hidden :]))


def _reciprocals(query_BQA: Tensor, keys_BSA: Tensor) -> Tensor:
    return reciprocals(exponentials(query_BQA).unsqueeze(2), keys_BSA.unsqueeze(1))
