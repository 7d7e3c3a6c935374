"""Scheduled sampling: the decoder reads pieces of its own in the place of some of the reference (Bengio 2015).

Shapes: B sentences, T target positions, K sentences that read a piece of the decoder's own, R readout, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from nmt.config.schema import Probability, TrainingConfig
from nmt.data.batching import Batch
from nmt.data.tokenizer import TokenizerPair
from nmt.model.translator import Translator
from nmt.training.objectives.base import OBJECTIVES, LossSums, ObjectiveOptions, TranslationObjective, translating

MAX_EXPONENT = 700.0
"""e to a larger number overflows."""


class ScheduledSamplingOptions(ObjectiveOptions):
    kind: Literal["scheduled_sampling"] = "scheduled_sampling"
    reads_context: ClassVar[bool] = False
    decay: Literal["linear", "exponential", "inverse_sigmoid"] = "inverse_sigmoid"
    """Course of the probability that the decoder reads the reference, by the number i of updates so far: 1 - i / k, or
    e^(-i / k), or k / (k + e^(i / k)), which is 1/2 at i = k ln k."""
    k: Annotated[float, Field(ge=1.0, le=1e9)] = 1000.0
    """Pace of the decay, in updates."""
    floor: Probability = 0.0
    """Smallest probability that the decoder reads the reference."""
    pieces: Literal["sampled", "best"] = "sampled"
    """The decoder's own piece: drawn from its distribution, or the most probable one."""


DECAYS: Mapping[str, Callable[[float, float], float]] = {
    "linear": lambda i, k: 1.0 - i / k,
    "exponential": lambda i, k: math.exp(-i / k),
    "inverse_sigmoid": lambda i, k: k / (k + math.exp(min(i / k, MAX_EXPONENT))),
}
"""Updates so far and k -> the probability that the decoder reads the reference (section 2.4).

The paper's linear decay is k - c i, its exponential one k^i: here k is a number of updates in both, as in the third."""


@OBJECTIVES.register("scheduled_sampling", ScheduledSamplingOptions)
class ScheduledSamplingObjective(TranslationObjective):
    """Likelihood where the decoder reads some pieces of its own instead of the reference (Bengio 2015).

    Each input of the decoder is the reference's piece with a probability that decays, else the piece that the network
    draws after the inputs before it, as it does in translation: without dropout, step by step, and without a gradient
    through the choice, as in the paper. These inputs are known before the pass that is trained, which is therefore as
    fast as that of the likelihood.
    """

    terms = ("loss", "alignment", "sampled")

    def __init__(
        self,
        options: ScheduledSamplingOptions,
        translator: Translator,
        training: TrainingConfig,
        tokenizers: TokenizerPair,
    ) -> None:
        super().__init__(translator, training.label_smoothing, training.guided_alignment)
        self.options = options
        self.reference_probability = self.probability(0)

    def probability(self, updates: int) -> float:
        """Returns the probability that the decoder reads the reference after so many updates."""
        options = self.options
        return max(options.floor, DECAYS[options.decay](updates, options.k))

    def begin_update(self, updates: int) -> None:
        self.reference_probability = self.probability(updates)

    def without_sampling(self) -> TranslationObjective:
        return TranslationObjective(self.model, self.label_smoothing, self.guidance)

    def counts(self, batch: Batch) -> tuple[int, ...]:
        return *super().counts(batch), batch.target_tokens

    def weights(self, epoch: int) -> tuple[float, ...]:
        """The share of the decoder's own pieces is only logged."""
        return *super().weights(epoch), 0.0

    def forward(self, batch: Batch) -> LossSums:
        """Returns the sums over the target pieces, and 100 for each of the decoder's own, so that it is in percent."""
        inputs_BT, count = self.inputs(batch)
        trained, (likelihood, alignment) = self.sums(batch, replace(batch, target_BT=inputs_BT))
        assert likelihood is not None
        return LossSums((*trained, None), (likelihood, alignment, likelihood.new_tensor(100.0 * count)))

    def inputs(self, batch: Batch) -> tuple[Tensor, int]:
        """Returns the target with some pieces replaced by the decoder's own, [B, T], and their number.

        The decoder reads all but the last piece of a sentence. The choice is made on the CPU, so that no step waits
        for the device.
        """
        sentences, positions = batch.target_BT.shape
        is_read_BT = torch.arange(1, positions + 1) < batch.target_lengths_B.unsqueeze(1)
        is_own_BT = (torch.rand(sentences, positions) >= self.reference_probability) & is_read_BT
        steps = is_own_BT.any(0).nonzero()
        inputs_BT = batch.target_BT.clone()
        if not len(steps):
            return inputs_BT, 0
        model, device = self.model, inputs_BT.device
        with translating(model, device):
            state = model.start(model.encode(batch.source_BS, batch.source_lengths_B))
            previous_B1 = torch.full_like(inputs_BT[:, :1], model.bos)
            for position in range(int(steps[-1]) + 1):
                state, readout_B1R = model.advance(state, previous_B1)
                rows_K = is_own_BT[:, position].nonzero().squeeze(1)
                if len(rows_K):
                    rows_K = rows_K.to(device, non_blocking=True)
                    logits_KV = model.projection(readout_B1R[:, 0].index_select(0, rows_K))
                    inputs_BT[:, position].index_copy_(0, rows_K, self._choose(logits_KV))
                previous_B1 = inputs_BT[:, position : position + 1]
        return inputs_BT, int(is_own_BT.sum())

    def _choose(self, logits_KV: Tensor) -> Tensor:
        """Returns a piece [K] of each distribution."""
        if self.options.pieces == "best":
            return logits_KV.argmax(1)
        # Unlike `multinomial` it does not fail where the logits are not finite: such an update is skipped later.
        cumulative_KV = logits_KV.float().softmax(1).cumsum(1)
        uniform_K1 = torch.rand(len(logits_KV), 1, device=logits_KV.device) * cumulative_KV[:, -1:]
        chosen_K1 = torch.searchsorted(cumulative_KV, uniform_K1, right=True)
        return chosen_K1.clamp_(max=logits_KV.shape[1] - 1).squeeze(1)
