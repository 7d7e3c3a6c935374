"""What training minimises.

Shapes: B sentences, T target positions, R readout, N target pieces of the batch, padding left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nmt.batching import Batch
from nmt.kernels.choice import Kernels
from nmt.kernels.cross_entropy import Losses
from nmt.model.translator import Translator


class Objective(nn.Module):
    """Label-smoothed cross-entropy (Szegedy 2016, section 7) of a batch, summed over its target pieces.

    A module, so that gradients can be exchanged between processes by wrapping it.
    """

    def __init__(self, translator: Translator, kernels: Kernels, label_smoothing: float) -> None:
        super().__init__()
        self.translator = translator
        self.kernels = kernels
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> Losses:
        """Sums over the pieces of the target, its end symbol included, padding not."""
        encoded = self.translator.encode(batch.source_BS, batch.source_lengths_B)
        readout_BTR, _ = self.translator.readout(encoded, batch.target_BT)
        rows_N = target_rows(batch).to(batch.target_BT.device, non_blocking=True)
        projection = self.translator.projection
        return self.kernels.cross_entropy(
            readout_BTR.flatten(0, 1).index_select(0, rows_N),
            projection.weight,
            projection.bias,
            batch.target_BT.flatten().index_select(0, rows_N),
            self.label_smoothing,
        )


def target_rows(batch: Batch) -> Tensor:
    """Rows of the pieces in the flattened [B x T] target, made on the CPU: a mask on a GPU would wait for it."""
    positions_T = torch.arange(batch.target_BT.shape[1])
    return (positions_T < batch.target_lengths_B.unsqueeze(1)).flatten().nonzero().squeeze(1)
