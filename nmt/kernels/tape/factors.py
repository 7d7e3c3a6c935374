"""The operations of a recurrence on a CPU: the additive score by its factors (`kernels.additive`), gates in place.

Shapes as in `recurrence.steps`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.kernels.additive import exponentials, reciprocals
from nmt.kernels.gates import tanh_
from nmt.kernels.tape.cells import Entering
from nmt.kernels.tape.steps import Annotations, SourceSums, StepKernels


class FactoredSteps(StepKernels):
    """The reference, but for tanh(q + k): keys are exponentials here, and the tanh is made of them and the query's."""

    def prepare(self, source: Annotations) -> Annotations:
        if source.energy is None:
            return source
        # The score of bf16 products is summed in float32: so are its parts.
        return source._replace(keys=exponentials(source.keys), energy=source.energy.to(source.bias.dtype))

    def additive_scores(self, query_BQA: Tensor, keys_BSA: Tensor, energy_A: Tensor) -> Tensor:
        return energy_A.sum() - 2.0 * (_reciprocals(query_BQA, keys_BSA) @ energy_A)

    def sums(self, source: Annotations) -> SourceSums | None:
        return None if source.energy is None else FactoredSums(source.keys, source.energy)

    def additive_query_backward(
        self,
        query_BQA: Tensor,
        keys_BSA: Tensor,
        energy_A: Tensor,
        d_scores_BQS: Tensor,
        sums: SourceSums | None,
    ) -> Tensor:
        if isinstance(sums, FactoredSums):
            slope_BQSA = sums.add(exponentials(query_BQA.squeeze(1)), d_scores_BQS.squeeze(1)).unsqueeze(1)
        else:
            slope_BQSA = _slope_(_reciprocals(query_BQA, keys_BSA))
        # The gradients of a look's scores add up to nothing: rounded, they would not.
        return (d_scores_BQS.unsqueeze(2) @ slope_BQSA).squeeze(2) * (4.0 * energy_A)

    def keys_backward(
        self, query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor
    ) -> tuple[Tensor, Tensor]:
        sums = FactoredSums(keys_BSA, energy_A)
        for query_BA, d_scores_BS in zip(exponentials(query_QBA), d_scores_QBS, strict=True):
            sums.add(query_BA, d_scores_BS)
        return sums.gradients(d_scores_QBS)

    def gru(self, entering: Entering, before_BH: Tensor, after_BH: Tensor, copy_BH: Tensor | None) -> None:
        exact = _exactly(entering, after_BH.dtype)
        update_BH = _gates_(exact)[1]
        candidate_BH = _candidate(exact)
        torch.lerp(candidate_BH, before_BH, update_BH, out=after_BH)
        if copy_BH is not None:
            copy_BH.copy_(after_BH)

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
        dtype, hidden = before_BH.dtype, before_BH.shape[1]
        exact = _exactly(entering, dtype)
        reset_BH, update_BH = _gates_(exact)
        candidate_BH = _candidate(exact)
        d_after_BH = d_after_BH if sent_BH is None else d_after_BH + sent_BH.to(dtype)
        passed_BH = d_after_BH * update_BH
        d_before_BH += passed_BH
        # The rest goes to the candidate.
        entered_BH = d_after_BH - passed_BH
        room_BG = d_input_BG if d_input_BG.dtype == dtype else torch.empty_like(d_input_BG, dtype=dtype)
        d_reset_BH, d_update_BH, d_candidate_BH = room_BG.chunk(3, 1)
        torch.addcmul(entered_BH, entered_BH, candidate_BH.square(), value=-1.0, out=d_candidate_BH)
        torch.sub(before_BH, candidate_BH, out=d_update_BH).mul_(update_BH).mul_(entered_BH)
        d_recurrent_BH = d_candidate_BH * reset_BH
        torch.mul(d_recurrent_BH, exact.recurrent_BG[:, 2 * hidden :], out=d_reset_BH)
        d_reset_BH.addcmul_(d_reset_BH, reset_BH, value=-1.0)
        if room_BG is not d_input_BG:
            d_input_BG.copy_(room_BG)
        d_recurrent_BG[:, : 2 * hidden].copy_(d_input_BG[:, : 2 * hidden])
        d_recurrent_BG[:, 2 * hidden :].copy_(d_recurrent_BH)


class FactoredSums(SourceSums):
    """Sums over looks of d_score r and d_score r (1 - r), of which r is computed once for the query's gradient too."""

    def __init__(self, keys_BSA: Tensor, energy_A: Tensor) -> None:
        self._keys_BSA, self._energy_A = keys_BSA, energy_A
        self._room_BSA, self._d_keys_BSA = torch.empty_like(keys_BSA), torch.zeros_like(keys_BSA)
        self._seen_A = torch.zeros_like(energy_A)

    def add(self, query_BA: Tensor, d_scores_BS: Tensor) -> Tensor:
        """Add a look with the exponentials of its queries; r (1 - r) of each pair, [B, S, A], until the next look."""
        r_BSA = reciprocals(query_BA.unsqueeze(1), self._keys_BSA, out=self._room_BSA)
        self._seen_A += d_scores_BS.flatten() @ r_BSA.flatten(0, 1)
        slope_BSA = _slope_(r_BSA)
        self._d_keys_BSA.addcmul_(slope_BSA, d_scores_BS.unsqueeze(2))
        return slope_BSA

    def gradients(self, d_scores_QBS: Tensor) -> tuple[Tensor, Tensor]:
        return self._d_keys_BSA * (4.0 * self._energy_A), d_scores_QBS.sum() - 2.0 * self._seen_A


def _exactly(entering: Entering, dtype: torch.dtype) -> Entering:
    """The same in the format of states; the recurrent half may be overwritten."""
    input_BG, recurrent_BG, more_BG = entering
    more_BG = None if more_BG is None else more_BG.to(dtype)
    return Entering(input_BG.to(dtype), recurrent_BG.to(dtype, copy=True), more_BG)


def _gates_(entering: Entering) -> tuple[Tensor, Tensor]:
    """Reset and update gate, in the place of their recurrent half."""
    input_BG, recurrent_BG, more_BG = entering
    both = 2 * (recurrent_BG.shape[1] // 3)
    gates_BG = recurrent_BG[:, :both].add_(input_BG[:, :both])
    if more_BG is not None:
        gates_BG.add_(more_BG[:, :both])
    reset_BH, update_BH = gates_BG.sigmoid_().chunk(2, 1)
    return reset_BH, update_BH


def _candidate(entering: Entering) -> Tensor:
    """tanh(a + r * b), with r in the place of its recurrent half."""
    input_BG, recurrent_BG, more_BG = entering
    hidden = recurrent_BG.shape[1] // 3
    entry_BH = input_BG[:, 2 * hidden :]
    if more_BG is not None:
        entry_BH = entry_BH + more_BG[:, 2 * hidden :]
    return tanh_(torch.addcmul(entry_BH, recurrent_BG[:, :hidden], recurrent_BG[:, 2 * hidden :]))


def _slope_(r: Tensor) -> Tensor:
    """r (1 - r), in its place."""
    return torch.addcmul(r, r, r, value=-1.0, out=r)


def _reciprocals(query_BQA: Tensor, keys_BSA: Tensor) -> Tensor:
    return reciprocals(exponentials(query_BQA).unsqueeze(2), keys_BSA.unsqueeze(1))
