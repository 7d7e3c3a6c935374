"""Attention whose query is learned: what of a row matters, whatever is asked (Yang 2016, sections 2.2.2 and 2.2.3).

Shapes: N rows, P elements of all rows, C memory features, H query features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nmt.kernels.packed import Packing, row_softmax, row_sum
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, ScoreOptions, View


class Pooling(nn.Module):
    """a = softmax over a row of score(query, memory);  vector = sum of a memory. One query, learned, for all rows.

    Scores are those of every attention. `additive` and `concat` have a vector of their own to compare with and are
    asked nothing: `additive` is then the paper's softmax of u' u_w with u = tanh(W h + b). The others multiply, or are
    told, a query that is learned here: `dot` is the paper's equation without its hidden layer, u' h.

    Rows have any length. What is masked weighs exactly zero.
    """

    def __init__(self, options: ScoreOptions, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        assert options.looks, "a score that looks at nothing gives no weights"
        # A product needs a query as wide as the memory.
        query_size = memory_size if options.needs_query else 0
        self.score = SCORES.build(options, query_size, memory_size, kernels)
        self.query_H = nn.Parameter(torch.empty(query_size)) if query_size else None
        if self.query_H is not None:
            nn.init.normal_(self.query_H, std=query_size**-0.5)

    def forward(self, memory_PC: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """The vector of each row [N, C], zero for an empty one, and the weight of each element [P]."""
        return self.pool(memory_PC, packing.row_P, packing.position_P, packing.rows)

    def pool(
        self, memory_PC: Tensor, row_P: Tensor, position_P: Tensor, rows: int, mask_P: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same of elements that stand at these positions of these rows; with a mask, some are padding."""
        view = View(self.score.keys(memory_PC), own=False, width=memory_PC.shape[0], positions=position_P, covered=None)
        query_1H = memory_PC.new_empty(1, 0) if self.query_H is None else self.query_H.unsqueeze(0)
        (scores_P,) = self.score(query_1H, view)
        if mask_P is not None:
            scores_P = scores_P.masked_fill(~mask_P, -torch.inf)
        weights_P = row_softmax(scores_P, row_P, rows)
        return row_sum(weights_P.unsqueeze(1) * memory_PC, row_P, rows), weights_P
