"""R-Drop: two passes with different dropout, and the divergence between their predictions (Liang 2021).

Shapes: B sentences, T target positions, R readout, N target pieces without padding; 2 passes.
"""

from __future__ import annotations

from typing import Literal

import torch

from nmt.config.schema import Ratio, TrainingConfig
from nmt.data.batching import Batch
from nmt.data.tokenizer import TokenizerPair
from nmt.model.translator import Translator, forced_readout
from nmt.training.objectives.base import OBJECTIVES, LossSums, ObjectiveOptions, TranslationObjective, target_rows


class RDropOptions(ObjectiveOptions):
    kind: Literal["r_drop"] = "r_drop"
    """A batch needs the memory of two."""
    alpha: Ratio = 5.0
    """Weight of the divergence in eq. 4, where the likelihoods of both passes have weight 1 each."""


@OBJECTIVES.register("r_drop", RDropOptions)
class RDropObjective(TranslationObjective):
    """Likelihood, and agreement of two passes with different dropout (Liang 2021).

    With p and q the predictions of both passes for a target piece y, the loss is half of eq. 4,

        (H(p) + H(q)) / 2 + alpha / 2 * D,   D = (KL(p || q) + KL(q || p)) / 2   (eq. 2 and 3)

    H is the label-smoothed cross-entropy, as in the authors' program. Half, so that learning rate and clipping mean the
    same as with the likelihood alone. Guided alignment is the mean over both passes.
    """

    terms = ("loss", "alignment", "divergence")

    def __init__(
        self, options: RDropOptions, translator: Translator, training: TrainingConfig, tokenizers: TokenizerPair
    ) -> None:
        super().__init__(translator, training.label_smoothing, training.guided_alignment)
        self.regularized_cross_entropy = translator.kernels.regularized_cross_entropy
        self.alpha = options.alpha

    def counts(self, batch: Batch) -> tuple[int, ...]:
        return *super().counts(batch), batch.target_tokens

    def weights(self, epoch: int) -> tuple[float, ...]:
        """The divergence is part of the first term, because both have gradients in the same pass over the logits."""
        return *super().weights(epoch), 0.0

    def forward(self, batch: Batch) -> LossSums:
        """Returns the sums over the target pieces, the mean of both passes, and the sum of D."""
        # Rows of one batch have dropout of their own, and one pass over 2 B rows is faster than two over B.
        passes = [batch.twice()] if batch.context is None else [batch, batch]
        forced = [forced_readout(self.model, each) for each in passes]
        readout_BTR = torch.cat([each.readout_BTR for each in forced])
        rows_N = target_rows(batch)
        rows_2N = torch.cat((rows_N, rows_N + batch.target_BT.numel())).to(readout_BTR.device, non_blocking=True)
        rows_N = rows_N.to(readout_BTR.device, non_blocking=True)
        projection = self.model.projection
        regularized, likelihood, divergence = self.regularized_cross_entropy(
            readout_BTR.flatten(0, 1).index_select(0, rows_2N).view(2, len(rows_N), -1),
            projection.weight,
            projection.bias,
            batch.target_BT.flatten().index_select(0, rows_N),
            self.label_smoothing,
            self.alpha,
        )
        alignment = None
        if batch.links is not None:
            parts = [self.alignment(each.weights, one.links) for each, one in zip(forced, passes, strict=True)]
            alignment = torch.stack([part for part in parts if part is not None]).sum() / 2
        return LossSums((regularized / 2, alignment, None), (likelihood / 2, alignment, divergence))
