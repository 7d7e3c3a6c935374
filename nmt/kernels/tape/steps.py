"""What a step of an attentive recurrence is made of, forward and backward, as the equations stand.

`recurrence.Tape` runs these, and `attend` does where all queries are known at once. They write where they are told,
so that a loop over positions need not allocate, and gradients are added up in at least single precision.

Shapes: Q queries or steps, B sentences, S source positions, A attention units, C memory features. Queries, keys, memory
and their gradients may be parts of wider tensors, features side by side; everything else lies in one piece. Those of
cells stand in `recurrence.cells`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nmt.kernels.tape.cells import CellSteps

if TYPE_CHECKING:
    from nmt.kernels.tape.graphs import Graphs


class Annotations(NamedTuple):
    """What queries are compared with, and what is mixed."""

    keys: Tensor
    """[B, S, A]."""
    memory: Tensor
    """[B, S, C], in the format of the keys."""
    bias: Tensor
    """Added to the scores, [B, S]: 0 at the positions of a sentence, minus infinity at padding."""
    energy: Tensor | None
    """v [A] of the score v' tanh(query + key); None for the score query' key."""


class SourceSums:
    """Gradients of keys and energy that looks with one query add up on their way back."""

    def gradients(self, d_scores_QBS: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the keys [B, S, A] and of the energy [A], of the gradients of all scores."""
        raise AssertionError("sums end as gradients")


class StepKernels(CellSteps):
    """The reference; what runs the same faster derives from it."""

    def __init__(self, graphs: Graphs | None = None) -> None:
        self.graphs = graphs
        """What replays recurrences of these steps; None: every operation of every step is called."""

    def check(self, source: Annotations) -> None:
        """Once, that the source is what the operations rely on: in a step they look at nothing but addresses."""
        for tensor in (source.keys, source.memory):
            assert tensor.stride(-1) == 1 or tensor.shape[-1] == 1, "features lie side by side"
        assert source.bias.is_contiguous()

    def prepare(self, source: Annotations) -> Annotations:
        """The source as the operations want it, computed once for all steps; gradients are those of what it was."""
        return source

    def sums(self, source: Annotations) -> SourceSums | None:
        """Where looks backward should add up what all of them need of a pair of query and key; None: `keys_backward`
        computes it once more at the end."""
        return None

    def look(
        self, query_QBA: Tensor, source: Annotations, context_QBC: Tensor, scores_QBS: Tensor, normalizer_QB: Tensor
    ) -> None:
        """context = sum over s of a_s memory_s with a = exp(score - normalizer): the softmax of the biased scores.

        Writes the context, the biased scores and the normalizer, which is the logarithm of the softmax's denominator.
        Where every position is excluded, normalizer and context are 0, and so are the weights.
        """
        query_BQA = query_QBA.transpose(0, 1)
        if source.energy is None:
            found_BQS = query_BQA @ source.keys.transpose(1, 2)
        else:
            found_BQS = self.additive_scores(query_BQA, source.keys, source.energy)
        found_BQS = found_BQS.to(scores_QBS.dtype) + source.bias.unsqueeze(1)
        total_BQ1 = found_BQS.logsumexp(-1, keepdim=True)
        total_BQ1 = total_BQ1.masked_fill(total_BQ1 == -torch.inf, 0.0)
        weights_BQS = torch.exp(found_BQS - total_BQ1)
        context_QBC.copy_((weights_BQS.to(source.memory.dtype) @ source.memory).transpose(0, 1))
        scores_QBS.copy_(found_BQS.transpose(0, 1))
        normalizer_QB.copy_(total_BQ1.squeeze(-1).t())

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
        """The gradient of the queries, written or, with `add`, added to what is there.

        The context's gradient comes in two parts, whose sum is left in `d_context_QBC`; one of the weights, for losses
        that look at them, is optional. `d_looked_QBS` gets the gradient of the weights from all sides.
        """
        if sent_QBC is not None:
            d_context_QBC += sent_QBC
        memory = source.memory
        d_weights_BQS = d_context_QBC.transpose(0, 1).to(memory.dtype) @ memory.transpose(1, 2)
        d_looked_QBS.copy_(d_weights_BQS.transpose(0, 1))
        if d_weights_QBS is not None:
            d_looked_QBS += d_weights_QBS
        d_scores_BQS = scores_backward(scores_QBS, normalizer_QB, d_looked_QBS).transpose(0, 1)
        query_BQA = query_QBA.transpose(0, 1)
        if source.energy is None:
            d_query_BQA = d_scores_BQS.to(memory.dtype) @ source.keys
        else:
            d_query_BQA = self.additive_query_backward(query_BQA, source.keys, source.energy, d_scores_BQS, sums)
        if add:
            d_query_QBA += d_query_BQA.transpose(0, 1)
        else:
            d_query_QBA.copy_(d_query_BQA.transpose(0, 1))

    def additive_scores(self, query_BQA: Tensor, keys_BSA: Tensor, energy_A: Tensor) -> Tensor:
        """v' tanh(query + key), [B, Q, S]."""
        return torch.tanh(query_BQA.unsqueeze(2) + keys_BSA.unsqueeze(1)) @ energy_A

    def additive_query_backward(
        self,
        query_BQA: Tensor,
        keys_BSA: Tensor,
        energy_A: Tensor,
        d_scores_BQS: Tensor,
        sums: SourceSums | None,
    ) -> Tensor:
        """The gradient of the queries through v' tanh(query + key)."""
        slope_BQSA = 1 - torch.tanh(query_BQA.unsqueeze(2) + keys_BSA.unsqueeze(1)).square()
        return (d_scores_BQS.to(slope_BQSA.dtype).unsqueeze(2) @ slope_BQSA).squeeze(2) * energy_A

    def keys_backward(
        self, query_QBA: Tensor, keys_BSA: Tensor, energy_A: Tensor, d_scores_QBS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients of keys and energy through v' tanh(query + key), all queries together."""
        d_keys_BSA = torch.zeros_like(keys_BSA, dtype=d_scores_QBS.dtype)
        d_energy_A = torch.zeros_like(energy_A, dtype=d_scores_QBS.dtype)
        for query_BA, d_scores_BS in zip(query_QBA, d_scores_QBS, strict=True):
            hidden_BSA = torch.tanh(query_BA.unsqueeze(1) + keys_BSA)
            d_energy_A += d_scores_BS.flatten() @ hidden_BSA.flatten(0, 1).to(d_scores_BS.dtype)
            d_keys_BSA += (1 - hidden_BSA.square()) * d_scores_BS.unsqueeze(2)
        return (d_keys_BSA * energy_A).to(keys_BSA.dtype), d_energy_A


def attention_weights(scores_QBS: Tensor, normalizer_QB: Tensor) -> Tensor:
    """The softmax [Q, B, S] of the scores."""
    return torch.exp(scores_QBS - normalizer_QB.unsqueeze(-1))


def scores_backward(scores_QBS: Tensor, normalizer_QB: Tensor, d_weights_QBS: Tensor) -> Tensor:
    """The gradient of the scores [Q, B, S], of that of the weights."""
    weights_QBS = attention_weights(scores_QBS, normalizer_QB)
    return weights_QBS * (d_weights_QBS - (weights_QBS * d_weights_QBS).sum(-1, keepdim=True))


def source_backward(
    steps: StepKernels,
    query_QBA: Tensor,
    source: Annotations,
    scores_QBS: Tensor,
    normalizer_QB: Tensor,
    d_context_QBC: Tensor,
    d_weights_QBS: Tensor,
    sums: SourceSums | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of keys, memory and energy, of all queries or steps together.

    One product each instead of one a step, and no sum over steps of gradients as large as the source.
    """
    dtype = source.memory.dtype
    weights_BSQ = attention_weights(scores_QBS, normalizer_QB).permute(1, 2, 0).to(dtype)
    d_memory_BSC = weights_BSQ @ d_context_QBC.transpose(0, 1).to(dtype)
    d_scores_QBS = scores_backward(scores_QBS, normalizer_QB, d_weights_QBS)
    if source.energy is None:
        return d_scores_QBS.permute(1, 2, 0).to(dtype) @ query_QBA.transpose(0, 1), d_memory_BSC, None
    if sums is not None:
        d_keys_BSA, d_energy_A = sums.gradients(d_scores_QBS)
    else:
        d_keys_BSA, d_energy_A = steps.keys_backward(query_QBA, source.keys, source.energy, d_scores_QBS)
    return d_keys_BSA, d_memory_BSC, d_energy_A
